"""``microtome dynamics self-test``: the documented interface on one run, as the original tested itself."""

import sys
from collections.abc import Sequence

from microtome.cli.flags import parse
from microtome.core.config import Config
from microtome.core.errors import MicrotomeError
from microtome.dynamics.self_test import EXPERIMENT, find_experiments, lines


class Options(Config):
    """What is tested."""

    experiment: str = EXPERIMENT
    """The run whose jumps are summarised and compared."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the self-test of an experiments folder (default: the working folder or one above it)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    about = "Checks the documented interface on one run of an experiments folder."
    parsed = parse(words, "dynamics self-test [EXPERIMENTS_DIR]", about, Options)
    if len(parsed.positional) > 1:
        raise MicrotomeError("dynamics self-test: takes one experiments folder")
    folder = parsed.positional[0] if parsed.positional else find_experiments()
    for line in lines(folder, parsed.options.experiment):
        print(line)
    return 0
