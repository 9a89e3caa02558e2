"""Schedules of learning rates and of adversaries' step sizes. Imports no torch."""

import math
from typing import Literal

from pydantic import NonNegativeFloat, PositiveFloat, model_validator

from microtome.core.config import Config, Probability
from microtome.core.errors import bad_value


class Schedule(Config):
    """A value over training: a linear rise from 0, then a decay to ``final_val_frac`` of ``start_val``."""

    start_val: PositiveFloat = 1e-3
    """The value after the warm-up."""
    warmup_pct: Probability = 0.0
    """Share of the steps in which the value rises linearly from 0."""
    final_val_frac: NonNegativeFloat = 1.0
    """The value at the end, as a share of `start_val`; above 1 it rises."""
    fn_type: Literal["constant", "cosine", "linear"] = "constant"
    """`cosine` is the half wave (1 + cos(pi t)) / 2."""

    @model_validator(mode="after")
    def _check(self) -> "Schedule":
        if self.fn_type == "constant" and self.final_val_frac != 1.0:
            raise bad_value(
                "final_val_frac", self.final_val_frac, "a constant schedule keeps its value", "use linear"
            )
        return self

    def value_at(self, step: int, steps: int) -> float:
        """The value at ``step`` of ``steps``: the end is reached on the last step."""
        warmup = int(steps * self.warmup_pct)
        if step < warmup:
            return self.start_val * step / warmup
        if self.fn_type == "constant":
            return self.start_val
        t = min((step - warmup) / max(steps - warmup - 1, 1), 1.0)
        left = 1.0 - t if self.fn_type == "linear" else 0.5 * (1.0 + math.cos(math.pi * t))
        return self.start_val * (self.final_val_frac + (1.0 - self.final_val_frac) * left)
