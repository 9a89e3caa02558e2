"""Two moments against each other, under the documented name."""

from typing import TYPE_CHECKING

from microtome.core.errors import bad_value
from microtome.dynamics.before_after import AnalysisResult, compare
from microtome.dynamics.checkpoint_manager import CheckpointManager
from microtome.dynamics.moments import CriticalMoment

if TYPE_CHECKING:
    from torch import nn

ANALYSES = ("attention", "dimensionality", "weights", "activations", "all")
# What each analysis keeps of what states tell.
KEPT = {
    "attention": ("attention",),
    "dimensionality": (),
    "weights": ("weights", "filters"),
    "activations": ("probe", "representations"),
    "all": ("attention", "weights", "filters", "probe", "representations"),
}


class BeforeAfterComparison:
    """Compares two moments of the runs that a ``CheckpointManager`` knows."""

    def __init__(self, checkpoint_manager: CheckpointManager) -> None:
        self.checkpoint_manager = checkpoint_manager

    def compare_moments(
        self,
        before: CriticalMoment,
        after: CriticalMoment,
        analysis_type: str = "attention",
        *,
        model: "nn.Module | None" = None,
    ) -> AnalysisResult:
        """Dimensionality and loss always; of kept states what ``analysis_type`` names.

        Raises ``MicrotomeError`` for moments out of order and for runs with different layers.
        """
        if analysis_type not in ANALYSES:
            raise bad_value("analysis_type", analysis_type, "not known", f"choose {', '.join(ANALYSES)}")
        manager = self.checkpoint_manager
        run = manager.run(before.experiment_name)
        other = manager.run(after.experiment_name)
        # The original compared its stable rank, and only that.
        measure = "stable_rank" if manager.as_original and "stable_rank" in run.measures else None
        result = compare(
            run, before, after, model=model, measure=measure, other=None if other is run else other
        )
        dropped = {part for parts in KEPT.values() for part in parts} - set(KEPT[analysis_type])
        result.measurements = {k: v for k, v in result.measurements.items() if k not in dropped}
        return result
