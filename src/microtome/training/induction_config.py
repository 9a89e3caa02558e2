"""Training of the induction-head toy. Imports no torch."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from microtome.core.config import Note
from microtome.core.errors import bad_value
from microtome.targets.induction_config import InductionModelConfig
from microtome.training.instance_settings import InstanceSettings, check_keep

Schedule = Literal["constant", "linear", "cosine", "cosine_half", "exponential"]


class InductionTrainConfig(InstanceSettings):
    """Training of small attention-only transformers on sequences of random tokens that repeat."""

    renamed: ClassVar[dict[str, str]] = {"induction_model_config": "ih_model_config"}
    retired: ClassVar[dict[str, str]] = {"attention_maps_n_steps": "one sequence's attention is drawn"}

    ih_model_config: InductionModelConfig = InductionModelConfig()
    pattern: Literal["repeat", "pair"] = "repeat"
    """`repeat`: tokens come again after a period that differs from row to row. `pair`: random tokens, a
    marker with a token after it, and the marker again at the end (the SPD code's task)."""
    period: tuple[PositiveInt, PositiveInt] = (6, 24)
    """Shortest and longest period of `repeat`."""
    prefix_window: PositiveInt | None = None
    """Tokens among which the first marker of `pair` stands; null leaves three at the end."""
    weight_decay: float = Field(default=0.1, ge=0)
    """AdamW's; enough of it makes the heads look at one position instead of around it."""
    batch_size: PositiveInt = 64
    steps: PositiveInt = 3000
    lr: PositiveFloat = 3e-3
    lr_schedule: Schedule = "cosine_half"

    @classmethod
    def carried_over(cls, values: Mapping[str, Any], source: str, note: Note) -> dict[str, Any]:
        """The settings of the SPD code's ih_train_config.yaml under our names."""
        out = dict(values)
        if "lr_warmup" not in out:
            return out
        warmup, steps = out.pop("lr_warmup"), out.get("steps")
        if isinstance(warmup, int) and isinstance(steps, int) and steps > 0:
            warmup = warmup / steps  # a whole number counts steps there
        out.setdefault("lr_warmup_pct", warmup)
        note(f"{source}: lr_warmup is now lr_warmup_pct, a share of the steps")
        out.setdefault("pattern", "pair")
        out.setdefault("lr_schedule", "linear")
        return out

    @model_validator(mode="after")
    def _check(self) -> "InductionTrainConfig":
        model, (low, high) = self.ih_model_config, self.period
        if self.pattern == "repeat":
            if not 1 < low <= high <= model.vocab_size:
                problem = f"not within 2 to vocab_size={model.vocab_size}"
                raise bad_value("period", [low, high], problem, "give the shortest and the longest")
            if model.seq_len <= high + 1:
                raise bad_value("ih_model_config.seq_len", model.seq_len, "nothing repeats", "give more")
        check_keep(self.keep, model.n_instances)
        return self
