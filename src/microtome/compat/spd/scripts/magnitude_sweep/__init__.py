"""Was ``spd/scripts/magnitude_sweep``."""
