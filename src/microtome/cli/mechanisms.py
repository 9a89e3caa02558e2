"""What the commands that read a decomposition's mechanisms share."""

from collections.abc import Sequence
from pathlib import Path

from microtome.core.config import Config
from microtome.core.errors import MicrotomeError


class Options(Config):
    """What belongs to the command."""

    quiet: bool = False
    """Show no progress."""
    runs_root: Path = Path("runs")
    """The folder that `latest` and run names are looked for in, and new folders are made in."""


def one_run(words: Sequence[str], command: str) -> str:
    """The run that the words name. Raises ``MicrotomeError`` for none and for several."""
    if len(words) != 1:
        extra = f", not also {words[1]!r}" if words else "; `microtome runs` lists those there are"
        raise MicrotomeError(f"decompose {command}: takes one run folder, or latest{extra}")
    return words[0]
