"""Was ``spd/scripts/causal_importance_sweep/causal_importance_sweep.py``: ``microtome importance``."""

import sys

from microtome.cli.main import main as _main
from microtome.magnitude.config import ImportanceConfig as CausalImportanceSweepConfig

__all__ = ["CausalImportanceSweepConfig"]


def main() -> int:
    """Run as ``python -m``, with the same words after it as the command takes."""
    return _main(["importance", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
