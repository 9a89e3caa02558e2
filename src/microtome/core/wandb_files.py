"""Fetching the files of a run that was logged to Weights & Biases."""

import importlib
import os
import re
import shutil
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any

from microtome.core.atomic import cannot_write
from microtome.core.environment_file import read_environment_file
from microtome.core.errors import CannotLoad, MicrotomeError
from microtome.core.references import ModelReference

WANTED = (".pth", ".pt", ".safetensors", ".yaml", ".yml", ".json", ".npz")
_STEPPED = re.compile(r"(.*?_)(\d+)")


def import_wandb() -> Any:
    """The wandb module. Raises ``MicrotomeError`` naming the pip command when it is not installed."""
    try:
        return importlib.import_module("wandb")
    except ImportError:
        raise MicrotomeError("wandb is not installed; run `pip install 'microtome[wandb]'`") from None


def fetch_wandb(reference: ModelReference, cache_dir: str | Path) -> Path:
    """Download a W&B run's configurations, results and newest checkpoints; returns their folder.

    A run that was fetched before is read from ``cache_dir``. Entity and project that the reference leaves out
    come from WANDB_ENTITY and WANDB_PROJECT (the environment, or a .env file). Raises ``MicrotomeError``.
    """
    assert reference.kind == "wandb", reference
    read_environment_file()
    entity = reference.entity or os.environ.get("WANDB_ENTITY")
    project = reference.project or os.environ.get("WANDB_PROJECT")
    folder = Path(cache_dir) / "-".join(part for part in (entity, project, reference.run_id) if part)
    if folder.is_dir():
        return folder
    wandb = import_wandb()
    if project is None:
        raise CannotLoad(
            f"{reference.text}: names no project; write wandb:entity/project/id or set WANDB_PROJECT"
        )
    address = "/".join(part for part in (entity, project, reference.run_id) if part)
    try:
        files = list(wandb.Api().run(address).files())
    except Exception as error:  # wandb raises many kinds: no account, no network, no such run
        raise CannotLoad(f"{reference.text}: W&B did not give this run ({_first_line(error)})") from error
    return _download(files, folder, reference.text)


def _download(files: list[Any], folder: Path, text: str) -> Path:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise cannot_write(folder, error) from error
    try:
        for file in newest(files):
            file.download(root=str(partial), replace=True)
        partial.chmod(0o755)
        partial.replace(folder)
    except OSError as error:
        raise cannot_write(folder, error) from error
    except Exception as error:
        raise CannotLoad(
            f"{text}: the download from W&B broke off ({_first_line(error)}); try again"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def newest(files: list[Any]) -> list[Any]:
    """The files worth fetching: of ``model_1.pth`` and ``model_2.pth`` the last, none outside the folder."""
    chosen: dict[str, tuple[int, Any]] = {}
    for file in files:
        path = PurePosixPath(file.name)
        if path.suffix not in WANTED or path.is_absolute() or ".." in path.parts:
            continue
        stepped = _STEPPED.fullmatch(path.stem) if path.suffix in (".pth", ".pt", ".safetensors") else None
        family = f"{path.parent}/{stepped[1]}*{path.suffix}" if stepped else str(path)
        step = int(stepped[2]) if stepped else 0
        if family not in chosen or step > chosen[family][0]:
            chosen[family] = (step, file)
    return [file for _, file in chosen.values()]


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__
