"""``microtome dynamics moments``: where to look in a run, and which states a re-run should keep."""

import json
from collections.abc import Sequence
from pathlib import Path

from microtome.cli.flags import parse
from microtome.core.config import Config
from microtome.core.errors import MicrotomeError

ABOUT = (
    "Lists the moments of a recorded run that stand out most: before, during and after its jumps, ramps,"
    " critical periods and strong changes of the loss. --plan FILE writes the steps whose states a re-run"
    " should keep."
)


class MomentsOptions(Config):
    """Which moments are listed."""

    num_jumps: int = 5
    """How many changes; each gives three moments."""
    by: tuple[str, ...] = ("jump", "ramp", "period", "loss")
    """The kinds of change that count."""
    span: int | None = None
    """Training steps between a change and the moments before and after it; null takes the change's own."""
    plan: Path | None = None
    """Write checkpoint_plan.json's content to this file."""
    runs_root: Path = Path("runs")
    """The folder that `latest` and names are looked for in."""


def main(arguments: Sequence[str]) -> int:
    """Print the moments of each run, and the plan."""
    parsed = parse(arguments, "dynamics moments RUN_OR_FOLDER", ABOUT, MomentsOptions)
    options: MomentsOptions = parsed.options
    if len(parsed.positional) != 1:
        raise MicrotomeError("dynamics moments: takes one run or folder, or latest")
    from microtome.core.atomic import write_text
    from microtome.core.plain import plain_value
    from microtome.dynamics.moments import checkpoint_plan, identify, plan, told
    from microtome.dynamics.run import open_runs

    moments = []
    for run in open_runs(parsed.positional[0], runs_root=options.runs_root):
        found = identify(run, options.num_jumps, options.by, options.span)
        moments += found
        print("\n".join(told(run, found)))
        if found:
            print(f"  keep states at: {', '.join(map(str, plan(found)))}")
    if options.plan is not None:
        content = json.dumps(plain_value(checkpoint_plan(moments)), indent=2)
        print(f"Wrote {write_text(options.plan, content + chr(10))}")
    return 0
