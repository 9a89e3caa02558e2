"""A recording on disk, written as training goes on: tables in parts, states, captures, the probe."""

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from microtome.core.atomic import atomic_path
from microtome.core.config import Config
from microtome.core.errors import CannotLoad, MicrotomeError, bad_value
from microtome.core.run_lock import only_writer
from microtome.core.run_start import MARKER
from microtome.core.runs import RunFolder
from microtome.core.tensor_files import write_safetensors

KIND = "dynamics-recording"
RECORDS_A_PART = 512
SCALARS_A_PART = 4096
SECONDS_A_PART = 10.0  # what a kill loses at most
MOST_PARTS = 64
TABLES = ("measures", "scalars")


class Recording:
    """The folder of one recorded run, open for writing."""

    def __init__(
        self, path: Path, config: Config, seed: int | None, device: str, command: Sequence[str] = ()
    ) -> None:
        """Start a recording, or carry one on that a kill left unfinished. Raises ``MicrotomeError``."""
        self._locks = ExitStack()
        self.resumed = (path / MARKER).is_file()
        if self.resumed:
            self.folder = RunFolder.open(path)
            self._refuse_other()
        else:
            self.folder = RunFolder.create(path, config, command=command, seed=seed, device=device, kind=KIND)
        self._locks.enter_context(only_writer(path))
        self.path = path
        self.layers: list[str] = []
        self.measures: list[str] = []
        self._rows: list[tuple[int, np.ndarray]] = []
        self._scalars: list[tuple[int, dict[str, Any]]] = []
        self._flushed = time.monotonic()
        self._parts = {name: self._last_part(name) for name in TABLES}

    def _refuse_other(self) -> None:
        if self.folder.kind != KIND:
            raise bad_value("out", str(self.folder.path), f"holds a {self.folder.kind} run", "choose another")
        if self.folder.finished:
            raise bad_value("out", str(self.folder.path), "holds a finished recording", "choose another")

    # -- what was recorded, and how

    def describe(self, facts: Mapping[str, Any]) -> None:
        """Write ``recording.json``; one carried on must have the same layers, measures, training."""
        self.layers, self.measures = list(facts["layers"]), list(facts["measures"])
        if self.resumed:
            try:
                before = self.folder.load_json("recording.json")
            except CannotLoad:  # killed before the first record
                before = facts
            for name in ("layers", "measures"):
                if list(before.get(name, [])) != list(facts[name]):
                    raise bad_value(
                        "out",
                        str(self.path),
                        f"an unfinished recording with other {name} is there",
                        "choose another folder",
                    )
            self._refuse_other_training(before.get("task"), facts.get("task"))
        self.folder.save_json("recording.json", facts)

    def _refuse_other_training(self, before: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> None:
        """Two trainings in one folder would be the course of neither; the number of steps may change."""
        if before is None or now is None:
            return
        settings = [{"task": one["name"], **one["config"], "steps": None} for one in (before, now)]
        for name, value in settings[0].items():
            if settings[1].get(name) != value:
                problem = f"an unfinished recording with {name}={value} is there"
                raise bad_value("out", str(self.path), problem, "give the same, or choose another folder")

    def save_probe(self, tensors: Mapping[str, Tensor]) -> None:
        """Write the fixed inputs and labels."""
        write_safetensors(self.path / "probe.safetensors", tensors, {})

    def begin(self, step: int) -> None:
        """Forget what a killed attempt had written of this step and later ones: they are done again."""
        if not self.resumed:
            return
        for name in TABLES:
            self._merge(name, before=step)
        for folder in ("checkpoints", "captures"):
            for file in (self.path / folder).glob("step_*.safetensors"):
                if _step_of(file) >= step:
                    file.unlink(missing_ok=True)

    # -- numbers

    def add(self, step: int, values: np.ndarray) -> None:
        """One record: ``values [layers, measures]``."""
        self._rows.append((step, values))

    def add_scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """Numbers or one-element tensors of one step; tensors are read when they are written, not before."""
        self._scalars.append((step, {name: _detached(name, value) for name, value in values.items()}))

    def flush_if_due(self) -> None:
        """Write what is waiting once there is enough of it, or it has waited long."""
        waiting = len(self._rows) or len(self._scalars)
        late = waiting and time.monotonic() - self._flushed >= SECONDS_A_PART
        if len(self._rows) >= RECORDS_A_PART or len(self._scalars) >= SCALARS_A_PART or late:
            self.flush()

    def flush(self) -> None:
        """Write what is waiting: one part file a table."""
        self._flushed = time.monotonic()
        if self._rows:
            self._write("measures", _measures_table(self._rows, self.layers, self.measures))
            self._rows = []
        if self._scalars:
            self._write("scalars", _scalars_table(self._scalars))
            self._scalars = []

    def _write(self, name: str, columns: dict[str, Any]) -> None:
        self._parts[name] += 1
        _write_parquet(self._part(name, self._parts[name]), columns)
        if self._parts[name] % MOST_PARTS == 0:
            self._merge(name)

    def _merge(self, name: str, before: int | None = None) -> None:
        """Make one part of all, without the steps from ``before`` on, and without doubles of a step."""
        files = self._files(name)
        if not files or (len(files) == 1 and before is None):
            return
        columns = _without_doubles(_read_parquet(files), before)
        # The new part first: until the old ones are gone readers see doubles, which they drop.
        self._parts[name] += 1
        _write_parquet(self._part(name, self._parts[name]), columns)
        for file in files:
            file.unlink(missing_ok=True)

    def _files(self, name: str) -> list[Path]:
        return sorted((self.path / "tables").glob(f"{name}_*.parquet"))

    def _last_part(self, name: str) -> int:
        return max((int(file.stem.rpartition("_")[2]) for file in self._files(name)), default=0)

    def _part(self, name: str, number: int) -> Path:
        return self.path / "tables" / f"{name}_{number:05d}.parquet"

    # -- states and activations

    def save_state(self, step: int, state: Mapping[str, Tensor], why: str) -> None:
        """Write the model's state after ``step``; one that is there already stays."""
        path = self.path / "checkpoints" / f"step_{step:06d}.safetensors"
        if not path.exists():
            write_safetensors(path, state, {"step": step, "why": why})

    def save_capture(self, step: int, activations: Mapping[str, Tensor]) -> None:
        """Write layers' activations on the probe, and attention patterns."""
        write_safetensors(
            self.path / "captures" / f"step_{step:06d}.safetensors", activations, {"step": step}
        )

    # -- the end

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write what is left, make one part of each table, mark the recording finished."""
        self.flush()
        for name in TABLES:
            self._merge(name)
        self.folder.finish(summary)

    def release(self) -> None:
        """Let another process write here."""
        self._locks.close()


def _step_of(file: Path) -> int:
    number = file.stem.removeprefix("step_")
    return int(number) if number.isdigit() else -1


def _detached(name: str, value: Any) -> Any:
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise MicrotomeError(f"{name}: a tensor of shape {list(value.shape)}; give one number, its mean")
        if value.device.type != "cpu":
            return value.detach()  # reading it now would wait for the device
        # A tensor kept alive would sit between the large blocks that training gives back and takes again.
        return value.item()
    return float(value)


def _measures_table(
    rows: Sequence[tuple[int, np.ndarray]], layers: Sequence[str], measures: Sequence[str]
) -> dict[str, Any]:
    values = np.stack([row for _, row in rows])
    columns: dict[str, Any] = {
        "step": np.repeat(np.array([step for step, _ in rows], np.int64), len(layers)),
        "layer": np.array(list(layers) * len(rows), dtype=object),
    }
    for place, name in enumerate(measures):
        columns[name] = np.ascontiguousarray(values[:, :, place]).reshape(-1)
    return columns


def _scalars_table(rows: Sequence[tuple[int, dict[str, Any]]]) -> dict[str, Any]:
    merged: dict[int, dict[str, Any]] = {}
    for step, values in rows:
        merged.setdefault(step, {}).update(values)
    names = list(dict.fromkeys(name for values in merged.values() for name in values))
    columns: dict[str, Any] = {"step": np.array(list(merged), np.int64)}
    for name in names:
        columns[name] = _numbers([values.get(name, math.nan) for values in merged.values()])
    return columns


def _numbers(values: Sequence[Any]) -> np.ndarray:
    """Floats in float64; the tensors among them are read together, by one copy for each device."""
    found = np.empty(len(values))
    tensors: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for place, value in enumerate(values):
        if isinstance(value, Tensor):
            tensors.setdefault((value.device, value.dtype), []).append(place)
        else:
            found[place] = value
    for places in tensors.values():
        stacked = torch.stack([values[place].reshape(()) for place in places])
        found[places] = stacked.cpu().double().numpy()
    return found


def _write_parquet(path: Path, columns: Mapping[str, Any]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({name: _column(values) for name, values in columns.items()})
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def _column(values: np.ndarray) -> Any:
    """An Arrow column. Not by ``pa.array``, which imports pandas: longer than many a training takes."""
    import pyarrow as pa

    if values.dtype == object:
        words = [word.encode() for word in values]
        offsets = np.cumsum([0, *map(len, words)], dtype=np.int32)
        return pa.StringArray.from_buffers(len(words), pa.py_buffer(offsets), pa.py_buffer(b"".join(words)))
    kind = pa.int64() if values.dtype == np.int64 else pa.float64()
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(np.ascontiguousarray(values))])


def _read_parquet(files: Sequence[Path]) -> dict[str, np.ndarray]:
    """The rows of all files; a number that one file does not have is NaN."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # Not read_table, which imports pandas.
        tables = [pq.ParquetFile(file).read() for file in files]
    except (OSError, pa.ArrowException) as error:
        raise CannotLoad(f"{files[0].parent}: a table cannot be read ({error}); record again") from None
    table = pa.concat_tables(tables, promote_options="default")
    kinds = {"step": np.int64, "layer": object}
    return {
        name: np.array([np.nan if x is None else x for x in table[name].to_pylist()], kinds.get(name, float))
        for name in table.column_names
    }


def _without_doubles(columns: dict[str, np.ndarray], before: int | None) -> dict[str, np.ndarray]:
    """Rows of steps below ``before``, in order of steps; of several of a step (and layer) the last."""
    steps = columns["step"]
    keys = list(zip(steps.tolist(), columns.get("layer", steps).tolist(), strict=True))
    last = {key: place for place, key in enumerate(keys) if before is None or key[0] < before}
    rows = np.array(sorted(last.values(), key=lambda place: (steps[place], place)), dtype=np.int64)
    return {name: values[rows] for name, values in columns.items()}
