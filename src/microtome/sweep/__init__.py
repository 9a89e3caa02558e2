"""Sweeps: many trials of a program over its parameters, from W&B's sweep YAML, without W&B."""
