"""``microtome dynamics record``: train a built-in task and record it."""

from collections.abc import Sequence
from pathlib import Path

from microtome.cli.flags import build, parse
from microtome.cli.recipes import find_config
from microtome.cli.train import one_config
from microtome.core.config import Config, read_yaml
from microtome.core.device import say, tune_allocator
from microtome.dynamics.tasks import OTHER_NAMES, TASKS, config_of, task_name

ABOUT = (
    "Trains a small network from nothing and records it: measures of every layer, scalars, and the states"
    " around what changes. `microtome dynamics record TASK --help` lists the flags of one. Your own training"
    " loop: microtome.dynamics.recorder.Recorder."
)


class Options(Config):
    """Where the recording goes."""

    out_dir: Path | None = None
    """The run folder itself; left out, a new one under runs_root."""
    runs_root: Path = Path("runs")
    """The folder that run folders are made in."""
    quiet: bool = False
    """Show no progress."""


def main(arguments: Sequence[str]) -> int:
    """Record the task that the first word names."""
    words = list(arguments)
    if not words or words[0] in ("-h", "--help"):
        print(listing())
        return 0
    name = task_name(words.pop(0))
    model = config_of(name)
    parsed = parse(words, f"dynamics record {name} [CONFIG.yaml]", model.__doc__ or "", Options, model)
    given = one_config(parsed.positional, f"dynamics record {name}")
    path = find_config(given, command="dynamics") if given else None
    config = build(model, read_yaml(path) if path else {}, parsed.values, str(path or "config"), note=say)
    from microtome.dynamics.record import record

    tune_allocator()
    run = record(
        name,
        config,
        runs_root=parsed.options.runs_root,
        out_dir=parsed.options.out_dir,
        command=["microtome", "dynamics", "record", *arguments],
        show_progress=not parsed.options.quiet,
    )
    print(f"Recorded. Results: {run.path}")
    print(f"Next: microtome dynamics analyze {run.path}")
    return 0


def listing() -> str:
    """What ``microtome dynamics record --help`` prints."""
    width = max(map(len, TASKS))
    others = ", ".join(f"{other} is {name}" for other, name in OTHER_NAMES.items())
    return "\n".join(
        [
            "usage: microtome dynamics record TASK [CONFIG.yaml] [--flag value ...]",
            "",
            ABOUT,
            "",
            *(f"  {name:<{width}}  {text}" for name, (_, _, text) in TASKS.items()),
            "",
            f"Other names: {others}.",
        ]
    )
