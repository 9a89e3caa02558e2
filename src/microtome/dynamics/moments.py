"""Critical moments of a run: where to look before and after, and which states a re-run should keep."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from microtome.dynamics.run import DynamicsRun

BY = ("jump", "ramp", "period", "loss")


@dataclass
class CriticalMoment:
    """A training step worth looking at.

    ``moment_type`` is ``before_jump``, ``during_jump`` or ``after_jump``, the same for ``ramp``, or
    ``critical_period`` or ``loss_change``; ``jump_info`` holds what was found there.
    """

    experiment_name: str
    step: int
    moment_type: str
    jump_info: dict[str, Any] | None = None


def identify(
    run: DynamicsRun, num_jumps: int = 5, by: Sequence[str] = BY, span: int | None = None
) -> list[CriticalMoment]:
    """The moments of the ``num_jumps`` strongest changes, strongest first, three for each."""
    raise NotImplementedError


def plan(moments: Sequence[CriticalMoment]) -> list[int]:
    """The training steps whose states a re-run should keep, ascending."""
    return sorted({moment.step for moment in moments})
