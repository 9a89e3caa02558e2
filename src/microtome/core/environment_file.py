"""The ``.env`` file, where W&B names and keys may stand."""

import os
import re
from pathlib import Path

_LINE = re.compile(r"\s*(?:export\s+)?(WANDB_[A-Z0-9_]+)\s*=\s*(.*?)\s*")


def read_environment_file(path: str | Path = ".env") -> list[str]:
    """Take the ``WANDB_*`` lines of a ``.env`` file into the environment; what is set there already wins.

    Returns the names taken. Quotes around a value and a trailing comment are dropped. A file that is not
    there, or cannot be read, is no error.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    taken = []
    for line in lines:
        match = _LINE.fullmatch(line)
        if match is None or match[1] in os.environ:
            continue
        value = _value(match[2])
        if value:
            os.environ[match[1]] = value
            taken.append(match[1])
    return taken


def _value(text: str) -> str:
    if len(text) >= 2 and text[0] in "'\"":
        end = text.find(text[0], 1)
        return text[1:end] if end > 0 else text
    return text.split(" #", 1)[0].strip()
