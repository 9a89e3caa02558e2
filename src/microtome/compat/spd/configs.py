"""Was ``spd/configs.py`` of the SPD paper's code."""

from microtome.decomposition.spd_config import SPDConfig as Config
from microtome.decomposition.spd_config import SPDResidMLPTask as ResidualMLPTaskConfig
from microtome.decomposition.spd_config import SPDTMSTask as TMSTaskConfig

__all__ = ["Config", "ResidualMLPTaskConfig", "TMSTaskConfig"]
