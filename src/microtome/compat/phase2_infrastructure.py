"""Was ``phase2_infrastructure.py``: ``microtome dynamics``. Works where PyTorch is not installed."""

import sys

from microtome.cli.main import main as _main
from microtome.dynamics.before_after import AnalysisResult
from microtome.dynamics.checkpoint_manager import CheckpointManager
from microtome.dynamics.drawing import VisualizationTools
from microtome.dynamics.experiments import Experiments as Phase2Infrastructure
from microtome.dynamics.moment_comparison import BeforeAfterComparison
from microtome.dynamics.moments import CriticalMoment
from microtome.dynamics.self_test import torch_is_there
from microtome.dynamics.tools import MeasurementTools

__all__ = [
    "TORCH_AVAILABLE",
    "AnalysisResult",
    "BeforeAfterComparison",
    "CheckpointManager",
    "CriticalMoment",
    "MeasurementTools",
    "Phase2Infrastructure",
    "VisualizationTools",
    "main",
]

TORCH_AVAILABLE = torch_is_there()


def main() -> int:
    """The self-test, of the experiments folder named after it or the one that we are in."""
    return _main(["dynamics", "self-test", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
