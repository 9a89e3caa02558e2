"""At which training steps something happens: schedules that can be named, joined and written down."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from microtome.core.errors import bad_value

FORMS = "log2_then(100), every(10), at(0, 50, 900), log2(), always, never, or several joined by |"


@dataclass(frozen=True)
class Schedule:
    """A function of the step that says yes or no; ``a | b`` says yes where either does."""

    name: str
    rule: Callable[[int], bool]

    def __call__(self, step: int) -> bool:
        return self.rule(step)

    def __or__(self, other: "Schedule | Callable[[int], bool]") -> "Schedule":
        second = schedule(other)
        return Schedule(f"{self.name} | {second.name}", lambda step: self.rule(step) or second.rule(step))

    def __str__(self) -> str:
        return self.name


def every(n: int) -> Schedule:
    """Steps 0, n, 2n, ..."""
    _positive("every", n)
    return Schedule(f"every({n})", lambda step: step % n == 0)


def at(steps: Iterable[int]) -> Schedule:
    """Exactly these steps."""
    chosen = frozenset(int(step) for step in steps)
    if any(step < 0 for step in chosen):
        raise bad_value("at", min(chosen), "steps begin at 0", "leave it out")
    return Schedule(f"at({', '.join(map(str, sorted(chosen)))})", chosen.__contains__)


def log2() -> Schedule:
    """Steps 0, 1, 2, 4, 8, ..."""
    return Schedule("log2()", _power_of_two)


def log2_then(n: int) -> Schedule:
    """Steps 0, 1, 2, 4, ... below n, then every n: the checkpoints of Pythia (Biderman et al. 2023)."""
    _positive("log2_then", n)
    return Schedule(f"log2_then({n})", lambda step: step % n == 0 or (step < n and _power_of_two(step)))


ALWAYS = Schedule("always", lambda step: True)  # noqa: ARG005
NEVER = Schedule("never", lambda step: False)  # noqa: ARG005


def schedule(given: "Schedule | Callable[[int], bool] | str | int") -> Schedule:
    """A schedule from what a user may write: one of ours, any function of the step, a name, or n for every n.

    Raises ``MicrotomeError`` for a text that names none.
    """
    if isinstance(given, Schedule):
        return given
    if isinstance(given, int) and not isinstance(given, bool):
        return every(given)
    if callable(given):
        return Schedule(getattr(given, "__name__", "function"), given)
    if isinstance(given, str):
        return _read(given)
    raise bad_value("when", given, "not a schedule", f"write {FORMS}")


def next_busy(when: Callable[[int], bool], step: int, most: int) -> int:
    """The first step after ``step`` that is named, or before one that is; at most ``most`` steps on."""
    ahead = range(step + 1, step + 1 + most)
    return next((later for later in ahead if when(later) or when(later + 1)), ahead.stop)


def _read(text: str) -> Schedule:
    first, *rest = (_read_one(part.strip(), text) for part in text.split("|"))
    for other in rest:
        first = first | other
    return first


def _read_one(part: str, text: str) -> Schedule:
    plain = {"always": ALWAYS, "never": NEVER, "log2": log2(), "log2()": log2()}
    if part in plain:
        return plain[part]
    if part.isdigit():
        return every(int(part))
    found = re.fullmatch(r"(every|at|log2_then)\(([\d\s,\[\]]*)\)", part)
    numbers = [int(number) for number in re.findall(r"\d+", found[2])] if found else []
    if found is None or (found[1] != "at" and len(numbers) != 1):
        raise bad_value("when", text, "not a schedule", f"write {FORMS}")
    if found[1] == "at":
        return at(numbers)
    return (every if found[1] == "every" else log2_then)(numbers[0])


def _power_of_two(step: int) -> bool:
    return step & (step - 1) == 0


def _positive(name: str, n: int) -> None:
    if n < 1:
        raise bad_value(name, n, "must be at least 1", "use always for each step")
