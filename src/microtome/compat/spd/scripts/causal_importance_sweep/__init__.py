"""Was ``spd/scripts/causal_importance_sweep``."""
