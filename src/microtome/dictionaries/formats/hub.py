"""Dictionaries on the Hugging Face hub: only the one that is meant is downloaded."""

import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from microtome.core.errors import CannotLoad
from microtome.core.hub import hub_answers

NAME = re.compile(r"(?:hf:)?([\w.-]+/[\w.-]+)(?:/(.+?))?/?")


def fetch(text: str, choose: Callable[[list[str]], str]) -> tuple[Path, list[str]]:
    """Download the dictionary that ``owner/name[/folder]`` means.

    Returns the local folder and the one weight file in it. ``choose`` picks it among all that are there.
    Raises ``CannotLoad`` in one line: no such folder, no huggingface_hub, no network.
    """
    named = NAME.fullmatch(text)
    if named is None or text.startswith((".", "/", "~")):
        raise CannotLoad(f"{text}: no such folder or file; give a dictionary's folder, file or hub name")
    try:
        import huggingface_hub as hub
    except ImportError:
        raise CannotLoad(
            f"{text}: no such folder or file; for names on the Hugging Face hub `pip install huggingface_hub`"
        ) from None
    repo, folder = named[1], named[2]
    try:
        if not hub_answers():
            raise ConnectionError("no network, or offline mode")
        names = hub.list_repo_files(repo)
    except Exception as error:
        return _cached(hub, text, repo, folder, error)
    files = _weights(names, folder)
    meant = choose(files)
    where = PurePosixPath(meant).parent
    where = where.parent if where.name == "checkpoints" else where
    # Configurations of a whole run lie one folder higher.
    wanted = [meant, f"{where}/*.json", f"{where.parent}/*.json", "*.json"]
    try:
        local = Path(hub.snapshot_download(repo, allow_patterns=wanted))
    except Exception as error:
        raise CannotLoad(f"{text}: the download from the Hugging Face hub failed ({_line(error)})") from None
    return local, [meant]


def _cached(hub, text: str, repo: str, folder: str | None, error: Exception) -> tuple[Path, list[str]]:
    try:
        local = Path(hub.snapshot_download(repo, local_files_only=True))
    except Exception:
        raise CannotLoad(
            f"{text}: no such folder or file, and the Hugging Face hub did not answer for {repo}"
            f" ({_line(error)}); check the name and the network"
        ) from None
    names = [str(PurePosixPath(file.relative_to(local))) for file in local.rglob("*") if file.is_file()]
    return local, _weights(names, folder)


def _weights(names: list[str], folder: str | None) -> list[str]:
    from microtome.dictionaries.formats.opening import is_weights

    inside = [n for n in names if folder is None or n == folder or n.startswith(f"{folder}/")]
    return sorted(name for name in inside if is_weights(name))


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
