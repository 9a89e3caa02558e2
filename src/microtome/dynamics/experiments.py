"""A folder of experiments: summaries, critical moments and comparisons. Needs no torch."""

from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from microtome.core.errors import CannotLoad
from microtome.dynamics.before_after import AnalysisResult
from microtome.dynamics.checkpoint_manager import CheckpointManager
from microtome.dynamics.drawing import VisualizationTools
from microtome.dynamics.moment_comparison import BeforeAfterComparison
from microtome.dynamics.moments import CriticalMoment, identify
from microtome.dynamics.tools import MeasurementTools

if TYPE_CHECKING:
    from pandas import DataFrame
    from torch import nn

JUMPS = "step1_2/all_jumps_detailed.csv"
PERIODS = "step1_3/critical_periods_detailed.csv"


class Experiments:
    """The documented interface to the original's results, or to runs of ours.

    ``as_original`` (the default) takes moments from the jumps in ``step1_2/all_jumps_detailed.csv`` and
    counts steps as the original did, so that its numbers come back. ``as_original=False`` finds moments with
    the tested detectors, in the runs themselves, and counts training steps.
    """

    def __init__(self, experiments_dir: str | Path, as_original: bool = True) -> None:
        self.experiments_dir = Path(experiments_dir)
        self.as_original = as_original
        self.checkpoint_manager = CheckpointManager(experiments_dir, as_original)
        self.comparison = BeforeAfterComparison(self.checkpoint_manager)
        self.measurements = MeasurementTools()
        self.visualization = VisualizationTools()

    @cached_property
    def jump_data(self) -> "DataFrame":
        """Every jump of every experiment. Raises ``CannotLoad`` when the analysis was not done."""
        return self.checkpoint_manager.results(JUMPS)

    @cached_property
    def critical_periods(self) -> "DataFrame":
        """One row an experiment. Raises ``CannotLoad`` when the analysis was not done."""
        return self.checkpoint_manager.results(PERIODS)

    def identify_moments(self, experiment_name: str, num_jumps: int = 5) -> list[CriticalMoment]:
        """Before, during and after each of the ``num_jumps`` strongest changes, in that order.

        ``as_original``: the largest jumps of the table. Otherwise jumps and ramps, periods in which many
        layers change, and strong changes of the loss, ranked without units.
        """
        if self.as_original:
            self._known(experiment_name)
            return self.checkpoint_manager.identify_critical_moments(
                experiment_name, self.jump_data, num_jumps
            )
        return identify(self.checkpoint_manager.run(experiment_name), num_jumps)

    def compare_representations(
        self,
        before: CriticalMoment,
        after: CriticalMoment,
        analysis_type: str = "all",
        *,
        model: "nn.Module | None" = None,
    ) -> AnalysisResult:
        """Loss, layer-wise dimensionality, and what kept states tell. Raises ``MicrotomeError``."""
        return self.comparison.compare_moments(before, after, analysis_type, model=model)

    def get_experiment_summary(self, experiment_name: str) -> dict[str, Any]:
        """``experiment``, ``num_jumps``, ``jump_summary`` and ``critical_periods``.

        ``jump_summary`` has ``mean_magnitude``, ``mean_speed`` and ``phases`` (jumps in each);
        ``critical_periods`` is the experiment's row of their table, empty without one.
        """
        self._known(experiment_name)
        jumps = self.jump_data[self.jump_data["experiment"] == experiment_name]
        phases = Counter(jumps["phase_category"])
        return {
            "experiment": experiment_name,
            "num_jumps": len(jumps),
            "jump_summary": {
                "mean_magnitude": float(jumps["magnitude"].mean()) if len(jumps) else 0.0,
                "mean_speed": float(jumps["speed"].mean()) if len(jumps) else 0.0,
                "phases": {str(name): int(count) for name, count in phases.most_common()},
            },
            "critical_periods": self._periods(experiment_name),
        }

    def _periods(self, name: str) -> dict[str, Any]:
        try:
            table = self.critical_periods
        except CannotLoad:
            return {}
        rows = table[table["experiment"] == name]
        return {} if not len(rows) else {str(k): v for k, v in rows.iloc[0].to_dict().items()}

    def _known(self, name: str) -> None:
        if name not in self.checkpoint_manager.files and name not in set(self.jump_data["experiment"]):
            self.checkpoint_manager.run(name)  # raises, with the nearest name
