"""Run folders: everything that one run was given and made, written so that a killed run can be carried on."""

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from microtome.core.atomic import atomic_path, cannot_write, write_text
from microtome.core.config import Config, read_yaml
from microtome.core.environment import describe_environment
from microtome.core.errors import CannotLoad
from microtome.core.plain import plain_value
from microtome.core.run_start import MARKER, first_missing, refuse_occupied, remove_start
from microtome.core.tensor_files import load_state_dict, read_safetensors, write_safetensors, write_torch

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

__all__ = ["RunFolder", "atomic_path", "find_latest", "list_runs", "load_state_dict", "timestamp"]

KEPT_CHECKPOINTS = 2


def timestamp() -> str:
    """Now, as YYYYMMDD_HHMMSS_ms in local time."""
    now = datetime.datetime.now()
    return now.strftime("%Y%m%d_%H%M%S_") + f"{now.microsecond // 1000:03d}"


class RunFolder:
    """One run on disk. ``create`` starts a new one, ``open`` reads one that is there."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    # -- starting and opening ------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        path: str | Path,
        config: Config,
        *,
        command: Sequence[str] = (),
        seed: int | None = None,
        device: str = "cpu",
        kind: str,
        reuse: bool = False,
    ) -> "RunFolder":
        """Make the folder and write ``config.yaml`` and ``environment.json`` in it.

        Raises ``MicrotomeError`` when the folder already holds something (unless ``reuse``, for measurements
        that may be drawn again, and then only over a run of the same kind) or cannot be written; nothing is
        left behind then.
        """
        path = Path(path)
        refuse_occupied(path, kind if reuse else None)
        made = first_missing(path)
        environment = describe_environment(kind, command, seed, device)
        try:
            config.to_file(path / "config.yaml")
            # Written last: a folder is a run once this file is there.
            write_text(path / MARKER, json.dumps(environment, indent=2) + "\n")
        except BaseException:
            remove_start(path, made)
            raise
        return cls(path)

    @classmethod
    def open(cls, path: str | Path) -> "RunFolder":
        """The run in ``path``. Raises ``CannotLoad`` when that is no run folder."""
        path = Path(path)
        if not path.is_dir():
            raise CannotLoad(f"{path}: no such run folder; `microtome runs` lists the ones there are")
        if not (path / MARKER).is_file():
            raise CannotLoad(f"{path}: not a run folder (no {MARKER} in it); `microtome runs` lists those")
        return cls(path)

    @property
    def config(self) -> dict[str, Any]:
        """The configuration as it was run."""
        return read_yaml(self.path / "config.yaml")

    @property
    def environment(self) -> dict[str, Any]:
        """Versions, seed, device, command line, git state and kind."""
        return self.load_json(MARKER)

    @property
    def kind(self) -> str:
        """What made the run, such as ``train-tms`` or ``decompose-spd``."""
        return str(self.environment.get("kind", ""))

    # -- numbers along the way -----------------------------------------------------------------------------

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Append one line to ``metrics.jsonl``; numbers that are not finite are written as null."""
        line = json.dumps({"step": step} | {name: plain_value(value) for name, value in values.items()})
        path = self.path / "metrics.jsonl"
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise cannot_write(path, error) from error

    def metrics(self) -> list[dict[str, Any]]:
        """Every complete line of ``metrics.jsonl``; a last line that a kill cut short is left out."""
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return []
        rows = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(row, dict) and "step" in row:
                rows.append(row)
        return rows

    def drop_metrics_after(self, step: int) -> None:
        """Forget the lines beyond ``step``, so that a resumed run writes them once."""
        rows = [row for row in self.metrics() if row["step"] <= step]
        write_text(self.path / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))

    # -- results -------------------------------------------------------------------------------------------

    def save_arrays(self, name: str, arrays: Mapping[str, Any]) -> Path:
        """Write ``results/<name>.npz``."""
        path = self.path / "results" / f"{name}.npz"
        plain = {key: np.asarray(value) for key, value in arrays.items()}
        assert all(array.dtype != object for array in plain.values()), "object arrays would need pickle"
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **plain)  # pyright: ignore[reportArgumentType]
        return path

    def load_arrays(self, name: str) -> dict[str, np.ndarray]:
        """Read ``results/<name>.npz`` without pickle. Raises ``CannotLoad``."""
        path = self.path / "results" / f"{name}.npz"
        try:
            with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                return {key: file[key] for key in file.files}
        except FileNotFoundError:
            raise CannotLoad(
                f"{path}: no such results; the run may have stopped before making them"
            ) from None
        except Exception as error:
            raise CannotLoad(f"{path}: truncated or not an npz file ({type(error).__name__})") from error

    def save_json(self, relative: str | Path, obj: Any) -> Path:
        """Write an object as JSON at a path inside the run."""
        return write_text(self.path / relative, json.dumps(plain_value(obj), indent=2) + "\n")

    def load_json(self, relative: str | Path) -> Any:
        """Read a JSON file inside the run. Raises ``CannotLoad``."""
        path = self.path / relative
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise CannotLoad(f"{path}: no such file in this run") from None
        except (OSError, ValueError) as error:
            raise CannotLoad(f"{path}: truncated or not JSON ({error})") from None

    def save_yaml(self, relative: str | Path, values: Mapping[str, Any]) -> Path:
        """Write plain values as YAML at a path inside the run (documented ``*_config.yaml`` names)."""
        return write_text(self.path / relative, yaml.safe_dump(plain_value(values), sort_keys=False))

    def save_figure(self, name: str, figure: "Figure", dpi: int = 150, where: str = "plots") -> Path:
        """Write ``<where>/<name>.png`` and close the figure; ``where=""`` is the run folder itself."""
        import matplotlib.pyplot as plt

        path = self.path / where / f"{name}.png"
        try:
            with atomic_path(path) as temporary:
                figure.savefig(temporary, dpi=dpi, format="png")
        finally:
            plt.close(figure)
        return path

    def save_state_dict(self, relative: str | Path, state: "Mapping[str, Tensor]") -> Path:
        """Write named tensors with ``torch.save`` at a path inside the run (documented ``.pth`` names)."""
        return write_torch(self.path / relative, state)

    # -- checkpoints ---------------------------------------------------------------------------------------

    def save_checkpoint(
        self, step: int, tensors: "Mapping[str, Tensor]", extra: Mapping[str, Any] | None = None
    ) -> Path:
        """Write ``checkpoints/step_<step>.safetensors`` with ``extra`` as JSON inside; the last two stay."""
        path = write_safetensors(self._checkpoint(step), tensors, extra or {})
        for old in self.checkpoint_steps()[:-KEPT_CHECKPOINTS]:
            self._checkpoint(old).unlink(missing_ok=True)
        return path

    def checkpoint_steps(self) -> list[int]:
        """The steps that have a checkpoint, in order."""
        names = (
            file.stem.removeprefix("step_") for file in (self.path / "checkpoints").glob("step_*.safetensors")
        )
        return sorted(int(name) for name in names if name.isdigit())

    def latest_checkpoint(self) -> "tuple[int, dict[str, Tensor], dict[str, Any]] | None":
        """Step, tensors and ``extra`` of the newest checkpoint that can be read; None when there is none."""
        problem: CannotLoad | None = None
        for step in reversed(self.checkpoint_steps()):
            try:
                tensors, metadata = read_safetensors(self._checkpoint(step))
                return step, tensors, json.loads(metadata.get("extra", "{}"))
            except CannotLoad as error:
                problem = error
        if problem is not None:
            raise problem
        return None

    def _checkpoint(self, step: int) -> Path:
        return self.path / "checkpoints" / f"step_{step}.safetensors"

    # -- the end -------------------------------------------------------------------------------------------

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write ``summary.json``, which also marks the run finished."""
        self.save_json("summary.json", summary)

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return (self.path / "summary.json").is_file()

    @property
    def summary(self) -> dict[str, Any]:
        """The numbers written at the end; empty before that."""
        return self.load_json("summary.json") if self.finished else {}


def list_runs(root: str | Path, kind: str | None = None) -> list[RunFolder]:
    """The run folders in ``root`` and one level below it, oldest first. ``kind`` may be its first part."""
    root = Path(root)
    found = [
        RunFolder(marker.parent)
        for pattern in (f"*/{MARKER}", f"*/*/{MARKER}")
        for marker in root.glob(pattern)
    ]
    dated = []
    for run in found:
        try:
            environment = run.environment
        except CannotLoad:
            continue
        own = str(environment.get("kind", ""))
        if kind is None or own == kind or own.startswith(f"{kind}-"):
            dated.append((str(environment.get("started", "")), str(run.path), run))
    return [run for _, _, run in sorted(dated, key=lambda row: row[:2])]


def find_latest(root: str | Path, kind: str | None = None) -> Path:
    """The newest run folder under ``root``. Raises ``CannotLoad`` when there is none."""
    runs = list_runs(root, kind)
    if not runs:
        what = f"{kind} run" if kind else "run"
        raise CannotLoad(f"latest: no {what} under {root}; start one first, or give its folder")
    return runs[-1].path
