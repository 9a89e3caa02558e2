"""What two words of the command line mean: steps of a run, runs at a step, or files of states."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from microtome.core.errors import CannotLoad, MicrotomeError
from microtome.dynamics.before_after import AnalysisResult, compare
from microtome.dynamics.moments import CriticalMoment, identify
from microtome.dynamics.run import DynamicsRun, open_run

if TYPE_CHECKING:
    from torch import Tensor, nn

    State = dict[str, Tensor]

EVERY = 1000  # changes: all there are
STATE_FILES = (".pt", ".pth", ".safetensors")


@dataclass(frozen=True)
class Pair:
    """Two moments, of one run (``other`` is None) or of two."""

    run: DynamicsRun
    before: int | CriticalMoment
    after: int | CriticalMoment
    other: DynamicsRun | None = None

    def compare(self, model: "nn.Module | None" = None, measure: str | None = None) -> AnalysisResult:
        """What differs. Raises ``MicrotomeError``."""
        return compare(self.run, self.before, self.after, model=model, measure=measure, other=self.other)


def find_pair(words: list[str], runs_root: Path = Path("runs")) -> Pair:
    """The pair that the words name. Raises ``MicrotomeError``.

    Nothing or ``RUN``: before and after the strongest transition, a ramp before a jump. ``A B`` or
    ``RUN A B`` with whole numbers: two steps. ``RUN@A RUN@B``: steps of two runs, the last ones without
    ``@``.
    """
    words = list(words)
    run = "latest"
    if words and not words[0].lstrip("-").isdigit() and len(words) in (1, 3):
        run = words.pop(0)
    if not words:
        return strongest(_open(run, runs_root))
    if len(words) != 2:
        raise MicrotomeError("dynamics compare: takes RUN, RUN A B, A B, or RUN@A RUN@B; see --help")
    numbers = [word.lstrip("-").isdigit() for word in words]
    if numbers == [False, True]:
        raise MicrotomeError(f"{words[0]} {words[1]}: one step only; give the earlier and the later one")
    if all(numbers):
        return Pair(_open(run, runs_root), int(words[0]), int(words[1]))
    (first, a), (second, b) = (_at(word, runs_root) for word in words)
    if first.path == second.path:
        return Pair(first, a, b)
    return Pair(first, a, b, second)


def transitions(run: DynamicsRun, most: int = 5) -> list[CriticalMoment]:
    """Before, during and after of each change, three in a row: ramps first, then all others by strength.

    A ramp leads from one way of working to another; the sharpest jumps of a training are often spikes of the
    loss that it recovers from.
    """
    found = identify(run, EVERY)
    groups = [found[place : place + 3] for place in range(0, len(found) - 2, 3)]
    groups.sort(key=lambda group: "ramp" not in group[1].moment_type)
    return [moment for group in groups[:most] for moment in group]


def strongest(run: DynamicsRun) -> Pair:
    """Before and after the strongest ramp, else jump. Raises ``MicrotomeError`` when there is neither."""
    pair = before_and_after(transitions(run, 1))
    if pair is None:
        last = int(run.steps()[-1]) if len(run.steps()) else 0
        raise MicrotomeError(
            f"{run.name}: no transition was found; name two steps to compare, such as 0 {last}"
        )
    return Pair(run, *pair)


def before_and_after(moments: list[CriticalMoment]) -> tuple[CriticalMoment, CriticalMoment] | None:
    """The first ``before_...`` moment and the ``after_...`` one of the same change."""
    for place, moment in enumerate(moments):
        kind = moment.moment_type.removeprefix("before_")
        if kind == moment.moment_type:
            continue
        for other in moments[place + 1 :]:
            if other.moment_type == f"after_{kind}" and other.step > moment.step:
                return moment, other
    return None


def are_states(words: list[str]) -> bool:
    """Whether the words are two files of model states."""
    return len(words) == 2 and all(word.endswith(STATE_FILES) for word in words)


def compare_files(before: str, after: str) -> "tuple[AnalysisResult, tuple[State, State]]":
    """Weights and filters of two state files, and the states themselves. Raises ``MicrotomeError``."""
    from microtome.core.tensor_files import load_state_dict
    from microtome.dynamics.state_comparison import compare_weights

    states = (load_state_dict(before), load_state_dict(after))

    nothing = float("nan")
    found = {
        **dict.fromkeys(("step_before", "step_after"), "?"),
        **dict.fromkeys(("loss_before", "loss_after", "loss_change"), nothing),
        "measure": "",
        "layer_changes": {},
        "measures": {},
        "notes": ["weights only: two files of states say nothing of measures, losses and activations"],
        "states": {"before": Path(before).stem, "after": Path(after).stem},
        **compare_weights(*states),
    }
    names = [Path(word).stem for word in (before, after)]
    return AnalysisResult(Path(before).parent.name, f"{names[0]}_to_{names[1]}", found), states


def _at(word: str, runs_root: Path) -> tuple[DynamicsRun, int]:
    path, at, step = word.rpartition("@")
    if at and step.isdigit():
        return _open(path, runs_root), int(step)
    run = _open(word, runs_root)
    if not len(run.steps()):
        raise CannotLoad(f"{word}: nothing was measured in it; record it again")
    return run, int(run.steps()[-1])


def _open(word: str, runs_root: Path) -> DynamicsRun:
    return open_run(word, runs_root=runs_root)
