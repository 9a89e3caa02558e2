"""Was ``spd/experiments/resid_mlp/resid_mlp_decomposition.py``: ``microtome decompose``."""

import sys

from microtome.cli.main import main as _main
from microtome.decomposition.decompose import run_config

__all__ = ["run_config"]


def main() -> int:
    """Run as ``python -m``, with the same words after it as the command takes."""
    return _main(["decompose", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
