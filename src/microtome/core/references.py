"""Where a model comes from: one parser of everything a user may write there."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from microtome.core.config_keys import nearest
from microtome.core.errors import CannotLoad, MicrotomeError
from microtome.core.run_start import MARKER
from microtome.core.runs import RunFolder, find_latest, list_runs

CHECKPOINT_SUFFIXES = (".pth", ".pt", ".safetensors")
FORMS = (
    "latest, a run folder, a .pth/.pt/.safetensors file, wandb:[entity/][project/][runs/]id,"
    " hf:name, or package.module:Class"
)
_WANDB_PART = re.compile(r"[^\s/\\#?%:,]+")
_PYTHON = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_STEPPED = re.compile(r"(?:spd_)?model_(\d+)")


@dataclass(frozen=True)
class ModelReference:
    """A parsed reference. ``path`` is set for runs and checkpoint files, the other fields by kind."""

    kind: Literal["run", "checkpoint", "wandb", "hf", "python"]
    text: str
    path: Path | None = None
    entity: str | None = None
    project: str | None = None
    run_id: str | None = None
    name: str | None = None  # the Hugging Face name, or package.module:Class

    def __str__(self) -> str:
        """The shortest text that parses to the same reference."""
        if self.kind == "wandb":
            return "wandb:" + "/".join(part for part in (self.entity, self.project, self.run_id) if part)
        if self.kind == "hf":
            return f"hf:{self.name}"
        return str(self.path) if self.path is not None else self.name or self.text


def parse_reference(
    text: str | Path,
    *,
    runs_root: str | Path = Path("runs"),
    relative_to: str | Path | None = None,
    want: str | None = None,
) -> ModelReference:
    """Read a reference to a model.

    Paths are looked for from the working folder, then from ``relative_to`` (the folder of the YAML file that
    named them), then among the runs in ``runs_root``. ``want`` is the kind of run that ``latest`` means.
    Raises ``CannotLoad`` in one line for what cannot be read or is not there.
    """
    text = str(text).strip()
    if not text:
        raise CannotLoad(f"model reference is empty; give {FORMS}")
    if not text.isprintable():
        raise CannotLoad(f"{text[:60]!r}: not a model reference; give {FORMS}")
    if text == "latest":
        return ModelReference("run", text, path=find_latest(runs_root, want))
    if text.startswith("wandb:"):
        return _wandb(text, text.removeprefix("wandb:"))
    if re.match(r"https?://(www\.)?wandb\.ai(/|$)", text):
        return _wandb_url(text)
    if text.startswith("hf:"):
        return _hugging_face(text)
    found = _find_path(text, Path(runs_root), relative_to)
    if found is not None:
        return _from_path(text, found)
    if _PYTHON.fullmatch(text):
        return ModelReference("python", text, name=text)
    raise _not_there(text, Path(runs_root))


def not_yet(reference: ModelReference) -> MicrotomeError:
    """The one-line answer to a reference that can be written but not loaded by this version."""
    return CannotLoad(
        f"{reference.text}: loading {reference.kind} models is not part of this version;"
        " give a run folder or a .pth/.safetensors file"
    )


def _wandb(text: str, rest: str) -> ModelReference:
    parts = rest.split("/")
    if len(parts) >= 2 and parts[-2] == "runs":
        del parts[-2]
    if not 1 <= len(parts) <= 3 or not all(_WANDB_PART.fullmatch(part) for part in parts):
        raise CannotLoad(f"{text}: not a W&B run; write wandb:[entity/][project/][runs/]id")
    entity, project, run_id = [None] * (3 - len(parts)) + parts
    return ModelReference("wandb", text, entity=entity, project=project, run_id=run_id)


def _wandb_url(text: str) -> ModelReference:
    parts = [unquote(part) for part in urlsplit(text).path.split("/") if part]
    if len(parts) < 4 or parts[2] != "runs":
        raise CannotLoad(
            f"{text}: not the address of a W&B run; copy one like https://wandb.ai/entity/project/runs/id"
        )
    return _wandb(text, "/".join((parts[0], parts[1], parts[3])))


def _hugging_face(text: str) -> ModelReference:
    name = text.removeprefix("hf:")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        raise CannotLoad(f"{text}: not a Hugging Face name; write hf:name or hf:owner/name")
    return ModelReference("hf", text, name=name)


def _find_path(text: str, runs_root: Path, relative_to: str | Path | None) -> Path | None:
    try:
        given = Path(text).expanduser()
        places = [given]
        if not given.is_absolute():
            places += [Path(relative_to) / given] if relative_to is not None else []
            places.append(runs_root / given)
        return next((place for place in places if place.exists()), None)
    except (OSError, ValueError, RuntimeError):  # a name too long, with a null byte, or of an unknown user
        return None


def _from_path(text: str, path: Path) -> ModelReference:
    if path.is_dir():
        if (path / MARKER).is_file():
            return ModelReference("run", text, path=path)
        return ModelReference("checkpoint", text, path=_checkpoint_in(path))
    if path.suffix not in CHECKPOINT_SUFFIXES:
        raise CannotLoad(
            f"{path}: not a checkpoint; give a {', '.join(CHECKPOINT_SUFFIXES)} file or a run folder"
        )
    return ModelReference("checkpoint", text, path=path)


def _checkpoint_in(folder: Path) -> Path:
    """The checkpoint of a folder that other code wrote: the last ``model_N``, else the only file there is."""
    files = sorted(file for file in folder.iterdir() if file.suffix in CHECKPOINT_SUFFIXES)
    last = _last_step(files)
    if last is not None:
        return last
    if len(files) == 1:
        return files[0]
    if not files:
        raise CannotLoad(f"{folder}: neither a run folder (no {MARKER}) nor a folder with a checkpoint in it")
    raise CannotLoad(f"{folder}: holds {len(files)} checkpoints; name one, such as {files[0]}")


def _last_step(files: list[Path]) -> Path | None:
    stepped = [(int(match[1]), file) for file in files if (match := _STEPPED.fullmatch(file.stem))]
    return max(stepped)[1] if stepped else None


def _not_there(text: str, runs_root: Path) -> CannotLoad:
    near = nearest(Path(text).name, [run.path.name for run in list_runs(runs_root)])
    if near is not None:
        return CannotLoad(f"{text}: no such run or file; did you mean {runs_root / near}?")
    return CannotLoad(f"{text}: no such run or file; give {FORMS}")


def open_run(text: str | Path, *, runs_root: str | Path = Path("runs"), want: str | None = None) -> RunFolder:
    """The run folder that ``text`` means. Raises ``CannotLoad`` when it means something else."""
    reference = parse_reference(text, runs_root=runs_root, want=want)
    if reference.kind != "run" or reference.path is None:
        raise CannotLoad(
            f"{reference.text}: a {reference.kind} reference, not a run folder; `microtome runs` lists those"
        )
    return RunFolder.open(reference.path)
