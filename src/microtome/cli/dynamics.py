"""``microtome dynamics``: record training runs, find when they change, compare before with after."""

import importlib
from collections.abc import Sequence

from microtome.core.config_keys import nearest
from microtome.core.errors import MicrotomeError

# Name -> (module whose main(arguments) runs it, one line of help).
TASKS: dict[str, tuple[str, str]] = {
    "record": ("microtome.cli.dynamics_record", "train a built-in task and record it"),
    "analyze": ("microtome.cli.dynamics_analyze", "find jumps, ramps, convergence and critical periods"),
    "moments": ("microtome.cli.dynamics_moments", "list the moments worth a look, and the states to keep"),
    "compare": ("microtome.cli.dynamics_compare", "compare two moments of a run, or two runs"),
    "report": ("microtome.cli.dynamics_report", "write one page about a run and its transitions"),
    "validate": ("microtome.cli.dynamics_validate", "test a detector on nulls and planted changes"),
    "self-test": ("microtome.cli.dynamics_self_test", "check the documented interface on one run"),
}
OTHER_NAMES = {"analyse": "analyze", "self_test": "self-test"}


def main(arguments: Sequence[str]) -> int:
    """Run the task that the first word names."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(listing())
        return 0
    name = OTHER_NAMES.get(arguments[0], arguments[0])
    if name not in TASKS:
        near = nearest(name, list(TASKS))
        mend = f"did you mean {near}?" if near else f"choose {', '.join(TASKS)}"
        raise MicrotomeError(f"dynamics {name}: no such task; {mend}")
    return int(importlib.import_module(TASKS[name][0]).main(list(arguments[1:])) or 0)


def listing() -> str:
    """What ``microtome dynamics --help`` prints."""
    width = max(map(len, TASKS))
    return "\n".join(
        [
            "usage: microtome dynamics TASK [RUN] [--flag value ...]",
            "",
            "Record a training run, find when its representations change, compare before with after.",
            "",
            *(f"  {name:<{width}}  {text}" for name, (_, text) in TASKS.items()),
            "",
            "`microtome dynamics TASK --help` lists a task's flags.",
        ]
    )
