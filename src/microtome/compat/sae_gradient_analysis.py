"""Was ``sae_gradient_analysis.py``: ``microtome gradients features``."""

import sys

from microtome.compat.important_acts_ftrs.sae_gradient_analysis import (
    get_model_config,
    load_results,
    main,
    normalize_gradients,
    parse_layer_range,
)

__all__ = ["get_model_config", "load_results", "main", "normalize_gradients", "parse_layer_range"]

if __name__ == "__main__":
    sys.exit(main())
