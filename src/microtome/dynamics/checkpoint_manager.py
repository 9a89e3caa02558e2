"""A folder of experiments in the original layout: measurements at a step, moments of its jumps, states."""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from microtome.core.config_keys import nearest
from microtome.core.errors import CannotLoad, MicrotomeError
from microtome.core.run_start import MARKER
from microtome.dynamics.formats import original_files, run_name
from microtome.dynamics.moments import CriticalMoment
from microtome.dynamics.run import DynamicsRun, open_run

if TYPE_CHECKING:
    from pandas import DataFrame
    from torch import Tensor

# Where the original put its files, inside the experiments folder; the folder itself comes last.
RUNS = ("new/results/phase1_full", "results/phase1_full", "phase1_full", "runs", "")
RESULTS = ("mechanistic_interpretability/results", "results", "")
STATES = (
    "step_{step}.pt",
    "step_{step:05d}.pt",
    "checkpoint_step_{step:05d}.pt",
    "checkpoint_step_{step}.pt",
)
AROUND = 10  # steps before and after a jump, in the original


class CheckpointManager:
    """Finds what is known about an experiment at a step.

    ``as_original`` reads the jumps' ``step`` as the original did, as a training step, although it counts
    measurements; otherwise it is turned into the training step that was recorded there.
    """

    def __init__(self, experiments_dir: str | Path, as_original: bool = True) -> None:
        self.experiments_dir = Path(experiments_dir)
        self.as_original = as_original
        if not self.experiments_dir.is_dir():
            raise CannotLoad(f"{self.experiments_dir}: no such folder; give the experiments folder")
        self._runs: dict[str, DynamicsRun] = {}

    # -- runs and what was measured in them

    @cached_property
    def files(self) -> dict[str, Path]:
        """Every run by its name: original measurement files, and recorded run folders."""
        found: dict[str, Path] = {}
        for place in RUNS:
            folder = self.experiments_dir / place
            if not folder.is_dir():
                continue
            try:
                found |= {
                    run_name(file): file for file in original_files(folder) if run_name(file) not in found
                }
            except CannotLoad as problem:
                if "holds both" in str(problem):
                    raise
            found |= {
                m.parent.name: m.parent for m in folder.glob(f"*/{MARKER}") if m.parent.name not in found
            }
        return found

    def run(self, experiment_name: str) -> DynamicsRun:
        """The whole run, read once. Raises ``CannotLoad`` with the nearest name for one that is not there."""
        if experiment_name not in self._runs:
            if experiment_name not in self.files:
                raise CannotLoad(f"{experiment_name}: no such experiment; {self._mend(experiment_name)}")
            self._runs[experiment_name] = open_run(self.files[experiment_name])
        return self._runs[experiment_name]

    def _mend(self, name: str) -> str:
        near = nearest(name, list(self.files))
        if near:
            return f"did you mean {near}?"
        if self.files:
            return f"there are {len(self.files)}, such as {next(iter(self.files))}"
        return f"{self.experiments_dir} holds none (looked in {', '.join(place or '.' for place in RUNS)})"

    def load_measurements_at_step(self, experiment_name: str, step: int) -> dict[str, Any]:
        """What was recorded nearest to ``step``: ``step``, ``loss``, other scalars, and
        ``layer_metrics`` (layer -> measure -> value). Of two records equally near, the first.
        """
        run = self.run(experiment_name)
        row = int(np.abs(run.steps() - step).argmin())
        found = int(run.steps()[row])
        names = original_names(run) if self.as_original else {name: name for name in run.measures}
        record: dict[str, Any] = {"step": found}
        scalars = run.scalars()
        if len(scalars):
            nearest_row = scalars.iloc[int(np.abs(scalars["step"].to_numpy() - found).argmin())]
            record |= {str(k): _plain(v) for k, v in nearest_row.items() if k != "step"}
        record["layer_metrics"] = {
            layer: {names[measure]: float(run.values[measure][row, place]) for measure in run.measures}
            for place, layer in enumerate(run.layers)
        }
        return record

    # -- jumps

    def results(self, relative: str) -> "DataFrame":
        """A table of the original analysis, plain or gzipped. Raises ``CannotLoad``."""
        import pandas as pd

        for place in RESULTS:
            for suffix in ("", ".gz"):
                path = self.experiments_dir / place / f"{relative}{suffix}"
                if path.is_file():
                    try:
                        return pd.read_csv(path)
                    except (ValueError, OSError, EOFError) as error:
                        raise CannotLoad(f"{path}: half-written or not a table ({_first(error)})") from None
        raise CannotLoad(
            f"{self.experiments_dir / RESULTS[0] / relative}: not there; make it with `microtome dynamics"
            f" analyze RUNS --as-original --output-dir {self.experiments_dir / RESULTS[0]}`"
        )

    def identify_critical_moments(
        self, experiment_name: str, jump_data: "DataFrame", num_moments: int = 5
    ) -> list[CriticalMoment]:
        """Before, during and after each of the ``num_moments`` largest jumps in a table of jumps.

        Three moments a jump: ``num_moments`` counts jumps. Raises ``MicrotomeError`` for a table without the
        documented columns.
        """
        for column in ("experiment", "step", "magnitude"):
            if column not in jump_data:
                raise MicrotomeError(f"jump_data: has no column {column}; give all_jumps_detailed.csv")
        if num_moments < 1:
            raise MicrotomeError(f"num_moments={num_moments}: nothing to find; give at least 1")
        ordered = jump_data.sort_values("magnitude", ascending=False, kind="stable")
        largest = ordered[ordered["experiment"] == experiment_name]
        found = []
        for _, jump in largest.head(num_moments).iterrows():
            facts = {str(key): _plain(value) for key, value in jump.items()}
            for step, word in zip(self._around(experiment_name, int(jump["step"])), WORDS, strict=True):
                found.append(CriticalMoment(experiment_name, step, f"{word}_jump", facts))
        return found

    def _around(self, name: str, place: int) -> tuple[int, int, int]:
        if self.as_original:
            return max(0, place - AROUND), place, place + AROUND
        # The table's step is an index into differences: the jump lies between two records.
        steps = self.run(name).steps()
        place = min(place, len(steps) - 1)
        last = min(place + 1, len(steps) - 1)
        return int(steps[place]), int(steps[last]), int(steps[min(last + 1, len(steps) - 1)])

    # -- states

    def get_checkpoint_path(self, experiment_name: str, step: int) -> Path:
        """Where the state of a step is, or would be: ``checkpoints/<name>/step_<step>.pt``.

        Finds the other file names that the original's scripts wrote, and a recorded run's own states.
        """
        folder = self.experiments_dir / "checkpoints" / experiment_name
        places = [folder / form.format(step=step) for form in STATES]
        recorded = self.files.get(experiment_name)
        if recorded is not None and recorded.is_dir():
            places += sorted((recorded / "checkpoints").glob(f"step_*{step}.safetensors"))
        matching = (place for place in places if place.is_file() and _step_of(place) == step)
        return next(matching, places[0])

    def load_checkpoint(self, experiment_name: str, step: int) -> "dict[str, Tensor]":
        """The model's state at a step. Raises ``CannotLoad`` when there is none; code is refused."""
        path = self.get_checkpoint_path(experiment_name, step)
        if not path.is_file():
            raise CannotLoad(
                f"{path}: no state of step {step} was kept; record the run again with save='auto', or compare"
                " dimensionality only"
            )
        from microtome.core.tensor_files import load_state_dict

        return load_state_dict(path)


WORDS = ("before", "during", "after")


def original_names(run: DynamicsRun) -> dict[str, str]:
    """Our name of each measure -> the one in the original's files, for a run that was read from one."""
    from microtome.dynamics.formats import OUR_NAMES

    if not run.path.is_file():
        return {name: name for name in run.measures}
    theirs = {ours: name for name, ours in OUR_NAMES.items()}
    return {name: theirs.get(name, name) for name in run.measures}


def _step_of(path: Path) -> int:
    digits = path.stem.rpartition("_")[2]
    return int(digits) if digits.isdigit() else -1


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
