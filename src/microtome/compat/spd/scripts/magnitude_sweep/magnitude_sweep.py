"""Was ``spd/scripts/magnitude_sweep/magnitude_sweep.py``: ``microtome magnitude``."""

import sys

from microtome.cli.main import main as _main
from microtome.magnitude.config import MagnitudeConfig as MagnitudeSweepConfig

__all__ = ["MagnitudeSweepConfig"]


def main() -> int:
    """Run as ``python -m``, with the same words after it as the command takes."""
    return _main(["magnitude", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
