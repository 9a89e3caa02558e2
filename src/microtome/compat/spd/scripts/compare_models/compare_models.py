"""Was ``spd/scripts/compare_models/compare_models.py``: ``microtome compare-runs``."""

import sys

from microtome.cli.main import main as _main
from microtome.decomposition.interpret.compare import compare_runs
from microtome.decomposition.interpret.compare_config import CompareConfig as CompareModelsConfig

__all__ = ["CompareModelsConfig", "compare_runs", "main"]


def main() -> int:
    """Run as ``python -m``, with the same words after it as the command takes."""
    return _main(["compare-runs", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
