"""Where a new run may start, and taking back a start that failed."""

import json
import shutil
from pathlib import Path

from microtome.core.atomic import cannot_write
from microtome.core.errors import MicrotomeError

MARKER = "environment.json"  # a folder is a run once this file is in it


def refuse_occupied(path: Path, reuse_kind: str | None) -> None:
    """Raise ``MicrotomeError`` when the folder holds something that a new run would mix with."""
    if path.is_file():
        raise MicrotomeError(f"out_dir={str(path)!r}: is a file; choose another --out_dir")
    try:
        names = sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []
    except OSError as error:
        raise cannot_write(path, error) from error
    if not names:
        return
    if MARKER in names:
        kind = _kind(path)
        if reuse_kind is not None and kind == reuse_kind:
            return
        resume = (
            f", or carry that one on with --resume {path}"
            if kind.startswith("decompose") and reuse_kind is None
            else ""
        )
        raise MicrotomeError(
            f"out_dir={str(path)!r}: already holds a run ({kind}); choose another --out_dir{resume}"
        )
    if reuse_kind is None:
        some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        raise MicrotomeError(f"out_dir={str(path)!r}: already holds files ({some}); choose another --out_dir")


def first_missing(path: Path) -> Path | None:
    """The topmost folder that making ``path`` will make."""
    missing = None
    for folder in (path, *path.parents):
        if folder.exists():
            break
        missing = folder
    return missing


def remove_start(path: Path, made: Path | None) -> None:
    """Take back what a failed start wrote: the folders it made, or its files in a folder that was there."""
    if made is not None:
        shutil.rmtree(made, ignore_errors=True)
        return
    for name in ("config.yaml", MARKER):
        (path / name).unlink(missing_ok=True)


def _kind(path: Path) -> str:
    try:
        return str(json.loads((path / MARKER).read_text(encoding="utf-8"))["kind"])
    except (OSError, ValueError, KeyError, TypeError):
        return "of an unknown kind"
