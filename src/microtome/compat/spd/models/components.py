"""Was ``spd/models/components.py`` of the SPD code."""

from microtome.decomposition.component_layers import ComponentLayer as LinearComponents
from microtome.decomposition.component_layers import GateFunction as MLPCiFn
from microtome.decomposition.component_model import MaskInfo as ComponentsMaskInfo
from microtome.decomposition.component_model import make_mask_infos

__all__ = ["ComponentsMaskInfo", "LinearComponents", "MLPCiFn", "make_mask_infos"]
