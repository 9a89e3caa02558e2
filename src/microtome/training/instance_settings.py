"""What trainings of several instances at once are told. Imports no torch."""

from typing import Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from microtome.core.config import Probability
from microtome.core.errors import MicrotomeError
from microtome.training.run_settings import RunSettings


class InstanceSettings(RunSettings):
    """What trainings of several instances at once are told besides."""

    keep: Literal["all"] | PositiveInt = "all"
    """How many of the trained instances to save: ``all``, or the N best."""
    lr_warmup_pct: Probability = 0.0
    """Share of the steps in which the learning rate rises from zero."""
    lr_exponential_halflife: PositiveFloat | None = None
    """Steps in which the ``exponential`` schedule halves the learning rate."""
    weight_decay: float = Field(default=0.01, ge=0)
    """AdamW's; 0.01 is what the original codes ran with."""


def check_keep(keep: Any, n_instances: int) -> None:
    """Raises ``MicrotomeError`` where more are to be kept than are trained."""
    if keep != "all" and keep > n_instances:
        raise MicrotomeError(f"keep={keep}: only {n_instances} instances are trained; raise n_instances")
