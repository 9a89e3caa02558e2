"""Was ``spd/run_spd.py``: the configuration and the loop of a decomposition."""

from microtome.decomposition.apd_config import APDConfig as Config
from microtome.decomposition.apd_config import APDResidMLPTask as ResidualMLPTaskConfig
from microtome.decomposition.apd_config import APDTMSTask as TMSTaskConfig
from microtome.decomposition.decompose import run_config as optimize

__all__ = ["Config", "ResidualMLPTaskConfig", "TMSTaskConfig", "optimize"]
