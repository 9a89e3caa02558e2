"""Learning-rate schedules, as factors of the base rate."""

import math

from microtome.core.errors import bad_value

SCHEDULES = ("constant", "linear", "cosine", "cosine_half", "exponential")


def learning_rate_factor(
    schedule: str, step: int, steps: int, warmup_pct: float = 0.0, halflife: float | int | None = None
) -> float:
    """The factor on the base learning rate at ``step`` of ``steps``.

    A linear warm-up from 0 takes the first ``int(steps * warmup_pct)`` steps; the schedule then runs over
    what is left. ``cosine`` is the quarter wave cos(pi/2 * t) of the original APD and SPD code,
    ``cosine_half`` the half wave (1 + cos(pi * t)) / 2 that most other code calls cosine. ``exponential``
    halves every ``halflife`` steps. Raises ``MicrotomeError`` for an unknown schedule or a missing half-life.
    """
    warmup = int(steps * warmup_pct)
    if step < warmup:
        return step / warmup
    return _decay(schedule, step - warmup, steps - warmup, halflife)


def _decay(schedule: str, step: int, steps: int, halflife: float | int | None) -> float:
    # The cosines reach their end on the last step, the linear ramp one step after it, as in the originals.
    t = min(step / max(steps - 1, 1), 1.0)
    if schedule == "constant":
        return 1.0
    if schedule == "linear":
        return max(1.0 - step / max(steps, 1), 0.0)
    if schedule == "cosine":
        return max(math.cos(0.5 * math.pi * t), 0.0)
    if schedule == "cosine_half":
        return 0.5 * (1.0 + math.cos(math.pi * t))
    if schedule == "exponential":
        if halflife is None or halflife <= 0:
            raise bad_value("lr_exponential_halflife", halflife, "not a positive number", "give it in steps")
        return 0.5 ** (step / halflife)
    raise bad_value("lr_schedule", schedule, "unknown schedule", f"choose one of {', '.join(SCHEDULES)}")
