"""A recorded training run: its measures over time, its scalars and the states that were kept."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from microtome.core.config_keys import nearest
from microtome.core.errors import CannotLoad, bad_value
from microtome.core.references import open_run as open_run_folder
from microtome.core.run_start import MARKER
from microtome.core.runs import RunFolder
from microtome.core.tensor_files import read_safetensors
from microtome.dynamics.formats import OUR_NAMES, is_original, original_files, read_original

if TYPE_CHECKING:
    from pandas import DataFrame
    from torch import Tensor, nn

KIND = "dynamics-recording"


class DynamicsRun:
    """One training run. ``open_run`` reads it from a recording or from an original measurement file.

    ``values`` maps a measure to its array ``[steps, layers]``, NaN where a layer was not measured; ``layers``
    are in the network's order. ``facts`` is what the recording says of itself.
    """

    def __init__(
        self,
        name: str,
        path: Path,
        steps: np.ndarray,
        layers: list[str],
        values: dict[str, np.ndarray],
        scalars: "DataFrame",
        facts: dict[str, Any],
    ) -> None:
        self.name, self.path, self.layers, self.facts = name, path, layers, facts
        self.values = values
        self._steps, self._scalars = steps, scalars

    def __repr__(self) -> str:
        return f"DynamicsRun({self.name!r}, {len(self._steps)} records of {len(self.layers)} layers)"

    # -- numbers

    @property
    def measures(self) -> list[str]:
        """The names of what was measured."""
        return list(self.values)

    @property
    def original(self) -> bool:
        """Whether this is a file of the original tracker."""
        return self.path.is_file()

    @property
    def architecture(self) -> str:
        """What was trained, in a word or two."""
        task = self.facts.get("task") or {}
        return str(self.facts.get("arch_name") or task.get("name") or self.facts.get("model") or "network")

    def steps(self) -> np.ndarray:
        """The training steps that were measured, ascending ``[n]``."""
        return self._steps

    def series(self, layer: str, measure: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps ``[n]`` and values ``[n]`` of one measure of one layer. Raises ``MicrotomeError``."""
        for field, value, known in (("layer", layer, self.layers), ("measure", measure, self.measures)):
            if value not in known:
                near = nearest(value, known)
                mend = f"did you mean {near}?" if near else f"choose {', '.join(known)}"
                raise bad_value(field, value, f"was not recorded in {self.name}", mend)
        return self._steps, self.values[measure][:, self.layers.index(layer)]

    def table(self) -> "DataFrame":
        """Every measure: a row for a step and a layer, a column for a measure."""
        import pandas as pd

        n_steps, n_layers = len(self._steps), len(self.layers)
        columns = {measure: values.reshape(-1) for measure, values in self.values.items()}
        names = {"step": np.repeat(self._steps, n_layers), "layer": self.layers * n_steps}
        return pd.DataFrame(names | columns)

    def scalars(self) -> "DataFrame":
        """Loss and whatever else was logged: a row for a step, its number in the column ``step``."""
        return self._scalars

    def scalar(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps and values of one logged number, where it was logged; empty when it never was."""
        if name not in self._scalars:
            return np.zeros(0, np.int64), np.zeros(0)
        steps, values = (
            np.asarray(self._scalars["step"], np.int64),
            np.asarray(self._scalars[name], np.float64),
        )
        known = ~np.isnan(values)
        return steps[known], values[known]

    # -- states

    def checkpoint_steps(self) -> list[int]:
        """The steps whose model state was kept, ascending."""
        return sorted(self._kept("checkpoints"))

    def checkpoint(self, step: int) -> "dict[str, Tensor]":
        """The model state kept nearest to ``step``, the earlier of two. Raises ``CannotLoad``."""
        return self._nearest("checkpoints", step, "model states; record with save=auto or a schedule")

    def capture(self, step: int) -> "dict[str, Tensor]":
        """The activations on the probe kept nearest to ``step``, by layer. Raises ``CannotLoad``."""
        return self._nearest("captures", step, "activations; record with captures")

    def probe(self) -> "dict[str, Tensor]":
        """The fixed inputs that were measured on, and their labels where there are any."""
        path = self.path / "probe.safetensors"
        if not path.is_file():
            raise CannotLoad(f"{self.path}: no probe was kept; measurements alone have none")
        return read_safetensors(path)[0]

    def model(self) -> "nn.Module | None":
        """The network of a built-in task, newly initialised; None for other runs."""
        if not self.facts.get("task"):
            return None
        from microtome.dynamics.tasks import rebuild

        return rebuild(self.facts["task"])

    def _kept(self, folder: str) -> dict[int, Path]:
        if self.original:
            return {}
        files = (self.path / folder).glob("step_*.safetensors")
        named = {file.stem.removeprefix("step_"): file for file in files}
        return {int(number): file for number, file in named.items() if number.isdigit()}

    def _nearest(self, folder: str, step: int, what: str) -> "dict[str, Tensor]":
        kept = self._kept(folder)
        if not kept:
            raise CannotLoad(f"{self.path}: holds no {what}")
        return read_safetensors(kept[min(sorted(kept), key=lambda other: abs(other - step))])[0]


def open_run(path: str | Path, *, runs_root: str | Path = Path("runs")) -> DynamicsRun:
    """Read a recorded folder, an original ``.json`` or ``.json.gz`` file, or ``latest``.

    Raises ``CannotLoad`` in one line for what is missing, half-written or of another kind.
    """
    path = Path(path)
    if path.is_file() or path.name.endswith((".json", ".json.gz")):
        return _from_original(path)
    folder = open_run_folder(path, runs_root=runs_root, want=KIND)
    if folder.kind != KIND:
        raise CannotLoad(f"{folder.path}: a {folder.kind} run, not a recording; `microtome runs` lists those")
    return _from_recording(folder)


def open_runs(folder: str | Path, *, runs_root: str | Path = Path("runs")) -> list[DynamicsRun]:
    """The runs that ``folder`` is or holds: one recording, recordings, or original files; sorted by name."""
    folder = Path(folder)
    if not folder.is_dir() or (folder / MARKER).is_file():
        return [open_run(folder, runs_root=runs_root)]
    inside = sorted(file.parent for file in folder.glob(f"*/{MARKER}"))
    recordings = [run for run in map(RunFolder, inside) if run.kind == KIND]
    if recordings:
        return [_from_recording(run) for run in recordings]
    if any(is_original(file) for file in folder.iterdir()):
        return [_from_original(file) for file in original_files(folder)]
    raise CannotLoad(
        f"{folder}: holds neither recordings nor .json run files; record one: microtome dynamics record"
    )


def _from_original(path: Path) -> DynamicsRun:
    import pandas as pd

    file = read_original(path)
    values = {OUR_NAMES.get(name, name): array for name, array in file.values.items()}
    scalars = pd.DataFrame({"step": file.steps, **file.scalars})
    return DynamicsRun(file.name, path, file.steps, file.layers, values, scalars, file.facts)


def _from_recording(folder: RunFolder) -> DynamicsRun:
    import pandas as pd

    facts = folder.load_json("recording.json")
    layers, measures = list(facts.get("layers", [])), list(facts.get("measures", []))
    table = _parts(folder.path, "measures", ["step", "layer"])
    steps = np.zeros(0, np.int64)
    values = {measure: np.zeros((0, len(layers))) for measure in measures}
    if table is not None:
        steps, rows = np.unique(table["step"].to_numpy(np.int64), return_inverse=True)
        columns = pd.Index(layers).get_indexer(table["layer"])
        for measure in [name for name in table.columns if name not in ("step", "layer")]:
            values[measure] = np.full((len(steps), len(layers)), np.nan)
            values[measure][rows[columns >= 0], columns[columns >= 0]] = table[measure].to_numpy()[
                columns >= 0
            ]
    scalars = _parts(folder.path, "scalars", ["step"])
    if scalars is None:
        scalars = pd.DataFrame({"step": np.zeros(0, np.int64)})
    scalars = scalars.sort_values("step", ignore_index=True)
    return DynamicsRun(folder.path.name, folder.path, steps, layers, values, scalars, facts)


def _parts(folder: Path, name: str, keys: list[str]) -> "DataFrame | None":
    """The part files of one table as one; of a step written twice the last one counts."""
    import pandas as pd

    files = sorted((folder / "tables").glob(f"{name}_*.parquet"))
    parts = []
    for file in files:
        try:
            parts.append(pd.read_parquet(file))
        except FileNotFoundError:  # merged by the recorder since we looked
            continue
        except Exception as error:
            raise CannotLoad(f"{file}: half-written or no Parquet file ({type(error).__name__})") from None
    return pd.concat(parts, ignore_index=True).drop_duplicates(keys, keep="last") if parts else None
