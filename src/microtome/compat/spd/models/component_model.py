"""Was ``spd/models/component_model.py`` of the SPD code."""

from microtome.decomposition.component_model import CIOutputs, ComponentModel, OutputWithCache, SPDRunInfo

__all__ = ["CIOutputs", "ComponentModel", "OutputWithCache", "SPDRunInfo"]
