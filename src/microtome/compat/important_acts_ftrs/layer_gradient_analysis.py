"""Was ``important_acts_ftrs/layer_gradient_analysis.py``: ``microtome gradients layers``."""

import sys

from microtome.cli.main import main as _main
from microtome.compat.important_acts_ftrs.names import (
    get_model_config,
    load_results,
    normalize_gradients,
    parse_layer_range,
)

__all__ = ["get_model_config", "load_results", "main", "normalize_gradients", "parse_layer_range"]


def main() -> int:
    """Run as ``python -m``, with the same words after it as the command takes."""
    return _main(["gradients", "layers", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
