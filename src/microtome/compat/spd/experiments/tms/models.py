"""Was ``spd/experiments/tms/models.py``. Inputs are ``[instance, batch, feature]`` here."""

from microtome.targets.config import TMSModelConfig
from microtome.targets.tms import TMS as TMSModel

__all__ = ["TMSModel", "TMSModelConfig"]
