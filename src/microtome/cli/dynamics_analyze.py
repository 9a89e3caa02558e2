"""``microtome dynamics analyze``: jumps, ramps, convergence and critical periods of recorded runs."""

from collections.abc import Sequence
from pathlib import Path

from microtome.cli.flags import parse
from microtome.core.config import Config
from microtome.core.errors import MicrotomeError

ABOUT = (
    "Finds jumps and ramps in recorded training runs, when layers settle, and periods in which they change"
    " together. Takes a recording, `latest`, an original .json or .json.gz file, or a folder of either."
)


class AnalyzeOptions(Config):
    """How runs are analysed, and where the results go."""

    measure: list[str] | None = None
    """The measures that are searched; null takes all. With --as-original one of stable_rank,
    participation_ratio, effective_rank_90, nuclear_norm_ratio."""
    as_original: bool = False
    """Reproduce the original analysis, its mistakes included, number for number."""
    method: str = "level_shift"
    """The detector of jumps: level_shift, zscore, rolling, change_points, or package.module:function."""
    alpha: float = 0.01
    """The chance of one false jump in a whole run (level_shift)."""
    output_dir: Path | None = None
    """Where step1_1/, step1_2/ and step1_3/ are written; null: into a recording's own analysis/ folder,
    for files dynamics_analysis/ in the working folder."""
    pictures: bool = True
    """Draw pictures too."""
    runs_root: Path = Path("runs")
    """The folder that `latest` and names are looked for in."""


def main(arguments: Sequence[str]) -> int:
    """Analyse, print what was found, write tables and pictures."""
    parsed = parse(arguments, "dynamics analyze RUN_OR_FOLDER", ABOUT, AnalyzeOptions)
    options: AnalyzeOptions = parsed.options
    if len(parsed.positional) != 1:
        raise MicrotomeError("dynamics analyze: takes one run or folder, or latest")
    if options.as_original:
        return _as_original(parsed.positional[0], options)
    from microtome.dynamics.analysis_plots import draw
    from microtome.dynamics.results import analyse
    from microtome.dynamics.run import open_runs
    from microtome.dynamics.validate import detector

    runs = open_runs(parsed.positional[0], runs_root=options.runs_root)
    result = analyse(runs, options.measure, method=detector(options.method), alpha=options.alpha)
    print("\n".join(result.told()))
    own = len(runs) == 1 and not runs[0].original
    folder = options.output_dir or (runs[0].path / "analysis" if own else Path("dynamics_analysis"))
    result.write(folder)
    if options.pictures:
        draw(result, folder)
    print(f"Results: {folder}")
    return 0


def _as_original(folder: str, options: AnalyzeOptions) -> int:
    from microtome.dynamics.original.analyse import analyse_folder, write

    measures = options.measure or ["stable_rank"]
    if len(measures) != 1:
        raise MicrotomeError(f"measure={','.join(measures)}: --as-original takes one measure at a time")
    if options.method != "level_shift" or options.alpha != 0.01:
        raise MicrotomeError("--as-original: has its own detector; leave out --method and --alpha")
    result = analyse_folder(folder, measures[0])
    out = options.output_dir or Path("dynamics_analysis")
    write(result, out)
    if options.pictures:
        from microtome.dynamics.original_plots import draw

        draw(result, out)
    print("\n".join(result.told()))
    print(f"Results: {out}")
    return 0
