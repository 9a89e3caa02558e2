"""Was ``meta_baseline/analyze_models.py``: ``microtome compare``."""

import sys

from microtome.cli.compare import parse_args
from microtome.cli.main import main as _main
from microtome.comparison.documented.data import load_data

__all__ = ["load_data", "main", "parse_args"]


def main() -> int:
    """Run as ``python -m``, with the same words after it as the command takes."""
    return _main(["compare", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
