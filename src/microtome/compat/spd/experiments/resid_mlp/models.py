"""Was ``spd/experiments/resid_mlp/models.py``. Inputs are ``[instance, batch, feature]`` here."""

from microtome.targets.config import ResidMLPModelConfig
from microtome.targets.config import ResidMLPModelConfig as ResidualMLPConfig
from microtome.targets.resid_mlp import ResidMLP
from microtome.targets.resid_mlp import ResidMLP as ResidualMLPModel

__all__ = ["ResidMLP", "ResidMLPModelConfig", "ResidualMLPConfig", "ResidualMLPModel"]
