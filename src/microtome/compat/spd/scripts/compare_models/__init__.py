"""Was ``spd/scripts/compare_models``."""
