"""Was ``spd/scripts/component_visualization``."""
