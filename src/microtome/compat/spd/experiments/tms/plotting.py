"""Was ``spd/experiments/tms/plotting.py``: ``microtome interpret``."""

import sys

from microtome.cli.main import main as _main
from microtome.decomposition.interpret.run import interpret

__all__ = ["interpret", "main"]


def main() -> int:
    """Run as ``python -m``, with the same words after it as the command takes."""
    return _main(["interpret", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
