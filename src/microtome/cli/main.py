"""The ``microtome`` command: a table of commands, and how each ends. Imports nothing heavy."""

import difflib
import importlib
import os
import signal
import sys
import traceback
from collections.abc import Sequence

from microtome import __version__
from microtome.cli.aliases import ALIASES, resolve
from microtome.core.errors import MicrotomeError

# Name -> (module whose main(arguments) runs it, one line of help).
COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("microtome.cli.demo", "train small networks, take them apart, write runs/demo/report.html"),
    "train": (
        "microtome.cli.train",
        "train a target: toy models, digits, induction, few-shot, language-model",
    ),
    "decompose": ("microtome.cli.decompose", "take a target's weights apart with SPD or APD"),
    "interpret": ("microtome.cli.interpret", "compute and draw every figure of a decomposition"),
    "components": ("microtome.cli.components", "picture each component and the inputs it fires for"),
    "compare-runs": ("microtome.cli.compare_runs", "find one decomposition's components in another"),
    "magnitude": ("microtome.cli.magnitude", "sweep one input's magnitude through a decomposed network"),
    "importance": ("microtome.cli.importance", "sweep every input's magnitude: what turns on, and where"),
    "dictionary": ("microtome.cli.dictionary", "train and evaluate sparse autoencoders of activations"),
    "gradients": ("microtome.cli.gradients", "what moves a language model's loss: layers or features"),
    "dynamics": ("microtome.cli.dynamics", "record training, find its transitions, compare before and after"),
    "compare": ("microtome.cli.compare", "two image networks side by side: what differs, beyond noise"),
    "sweep": ("microtome.cli.sweep", "run many trials over the parameters of a W&B sweep YAML, without W&B"),
    "runs": ("microtome.cli.runs", "list the run folders"),
    "view": ("microtome.cli.view", "write one page about a run: numbers, pictures, how it was made"),
    "doctor": ("microtome.cli.doctor", "say what this machine has to work with"),
    "completion": ("microtome.cli.completion", "print the shell completion: bash or zsh"),
}

USAGE_ERROR = 2
INTERRUPTED = 130
BROKEN_PIPE = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 2 something to mend (one line), 130 interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments or os.environ.get("MICROTOME_DEBUG", "0") not in ("", "0")
    arguments = [word for word in arguments if word != "--debug"]
    try:
        code = _dispatch(arguments)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt as interrupt:
        print(f"\n{interrupt}" if str(interrupt) else "\nInterrupted.", file=sys.stderr)
        if argv is None:  # the process ends: one more Ctrl-C would only print where Python was tidying up
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe has left; python would complain once more while flushing at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except Exception as error:
        line = one_line(error)
        if debug or line is None:
            traceback.print_exc()
        if line is None:
            return 1
        print(f"microtome: {line}", file=sys.stderr)
        return USAGE_ERROR


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        if len(arguments) > 1 and arguments[0] == "help":
            return _dispatch([*arguments[1:], "--help"])
        print(listing())
        return 0
    if arguments[0] in ("--version", "-V", "version"):
        print(f"microtome {__version__}")
        return 0
    name, rest = find_command(arguments)
    module = importlib.import_module(COMMANDS[name][0])
    try:
        return int(module.main(rest) or 0)
    except SystemExit as end:  # --help, which tyro prints
        return int(end.code or 0)


def find_command(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The command that the first words name, and the words after it. Raises ``MicrotomeError``."""
    first, rest = arguments[0], list(arguments[1:])
    name = first.replace("_", "-")
    if name in COMMANDS:
        return name, rest
    words = resolve(first)
    if words is not None:
        return words[0], [*words[1:], *rest]
    if first.startswith("-"):
        raise MicrotomeError(f"{first}: flags follow a command; see `microtome --help`")
    near = difflib.get_close_matches(first, [*COMMANDS, *ALIASES], n=1, cutoff=0.5)
    mend = f"did you mean {near[0]}?" if near else f"commands: {', '.join(COMMANDS)}"
    raise MicrotomeError(f"unknown command {first}; {mend}")


def listing() -> str:
    """What ``microtome --help`` prints."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        [
            f"microtome {__version__}: takes neural networks apart and measures what was found.",
            "",
            "usage: microtome COMMAND [CONFIG.yaml] [--flag value ...]",
            "",
            *lines,
            "",
            "`microtome COMMAND --help` lists a command's flags. A YAML file is the base, flags win;",
            "- and _ are alike in flags. --debug shows where an error came from.",
        ]
    )


def one_line(error: Exception) -> str | None:
    """What to tell about an error that the user can mend; None for one that is our own mistake."""
    if isinstance(error, MicrotomeError):
        return " ".join(str(error).split())
    pydantic = sys.modules.get("pydantic")
    if pydantic is not None and isinstance(error, pydantic.ValidationError):
        from microtome.core.config import one_line_error

        return str(one_line_error(error))  # pyright: ignore[reportArgumentType]
    if isinstance(error, OSError):
        from microtome.core.atomic import FULL_DISK

        if error.errno in FULL_DISK:
            return f"the disk is full ({error.filename or error.strerror}); free some space and run again"
    if isinstance(error, MemoryError) or any(
        sign in str(error) for sign in ("out of memory", "can't allocate memory", "not enough memory")
    ):
        return "out of memory; lower batch_size, C or the number of seeds"
    return None
