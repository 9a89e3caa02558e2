"""``microtome sweep``: many trials of a program over its parameters."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import NonNegativeInt, PositiveInt

from microtome.cli.flags import Parsed, parse
from microtome.cli.programs import OurPrograms
from microtome.cli.recipes import find_config, recipes
from microtome.core.config import Config
from microtome.core.device import say
from microtome.core.errors import MicrotomeError

USAGE = "sweep FILE.yaml|--resume FOLDER"
ABOUT = (
    "Runs a W&B sweep YAML on this machine or on a Ray cluster, without an account: grid, random and Bayesian"
    " search, every distribution, nested parameters, command macros, early termination. The sweep files of"
    " the original repositories run unchanged. The same command carries a stopped sweep on. Recipes: {}."
)
MOST_ROWS = 20


class Options(Config):
    """How the sweep is run."""

    jobs: PositiveInt | None = None
    """Trials at a time, also -j; null: one a core, or the CPUs of the Ray cluster."""
    engine: Literal["processes", "ray"] = "processes"
    """Where trials run: processes of this machine, or Ray (`pip install 'microtome[ray]'`)."""
    address: str | None = None
    """Ray cluster, such as `auto` or `10.0.0.1:6379`; null starts a local one."""
    count: PositiveInt | None = None
    """Most trials; the smaller of this and the file's run_cap."""
    seed: NonNegativeInt = 0
    """Seed of random and Bayesian searches."""
    batch: PositiveInt = 16
    """Most decompositions that run as one batched program; 1 (or --no_batch) runs each by itself."""
    metric: str | None = None
    """The number to rank by, in place of the file's metric."""
    goal: Literal["minimize", "maximize"] | None = None
    """Whether less or more of the metric is better."""
    experiments: tuple[str, ...] = ()
    """Of a `sweep_params.yaml` with sections: the recipes to run, such as `tms_5-2,tms_40-10`."""
    out_dir: Path | None = None
    """The sweep's folder; left out, one under runs_root that is the same for the same sweep."""
    runs_root: Path = Path("runs")
    """The folder that sweeps are made in, and that `latest` looks in."""
    resume: str | None = None
    """Carry the sweep in this folder on (or `latest`)."""
    retry_failed: bool = False
    """Run failed trials again too."""
    dry_run: bool = False
    """Print the trials and their commands, and run nothing."""
    quiet: bool = False
    """Show no progress."""


def main(arguments: Sequence[str]) -> int:
    """Run the sweep; 1 when trials failed."""
    from microtome.sweep.engines import cores
    from microtome.sweep.run import dry_run, new_start, resumed, run_sweep

    parsed = parse(_words(arguments), USAGE, ABOUT.format(", ".join(recipes(command="sweep"))), Options)
    options: Options = parsed.options
    programs = OurPrograms()
    if options.address is not None and options.engine != "ray":
        raise MicrotomeError(f"--address {options.address}: is a Ray cluster; add --engine ray")
    if options.resume is not None:
        start = resumed(*_resume(parsed, arguments), programs)
    else:
        start = new_start(_settings(parsed), options.out_dir, programs)
    if (
        start.plan.early is not None
        and start.settings.batch > 1
        and any(t.ours for t in start.plan.templates.values())
    ):
        say("early_terminate stops trials one by one, so each runs in a process of its own (no batches)")
    if options.dry_run:
        _print_dry_run(dry_run(start, programs, options.jobs or cores()))
        return 0
    result = run_sweep(
        start,
        programs,
        lambda: _engine(options),
        command=["microtome", "sweep", *arguments],
        retry_failed=options.retry_failed,
        show=not options.quiet,
    )
    _print(result)
    return 1 if result.count("failed") else 0


def _words(arguments: Sequence[str]) -> list[str]:
    """``-j4`` and ``-j 4`` are ``--jobs 4``; ``--no_batch`` is ``--batch 1``."""
    words: list[str] = []
    for word in arguments:
        if word == "-j":
            words.append("--jobs")
        elif word.startswith("-j") and word[2:].lstrip("=").isdigit():
            words += ["--jobs", word[2:].lstrip("=")]
        elif word.replace("-", "_") == "__no_batch":
            words += ["--batch", "1"]
        else:
            words.append(word)
    return words


def _settings(parsed: Parsed) -> Any:
    from microtome.sweep.plan import SweepSettings
    from microtome.sweep.spec import read_sweep_file

    if len(parsed.positional) != 1:
        names = ", ".join(recipes(command="sweep"))
        if parsed.positional:
            raise MicrotomeError(f"sweep: takes one file, not also {parsed.positional[1]!r}")
        raise MicrotomeError(f"sweep: needs a FILE.yaml or a recipe ({names})")
    options: Options = parsed.options
    path = find_config(parsed.positional[0], command="sweep").resolve()
    mapping = read_sweep_file(path)
    return SweepSettings(
        source=str(path),
        sweep=mapping,
        experiments=options.experiments,
        seed=options.seed,
        count=options.count,
        metric=_metric(options, mapping.get("metric")),
        batch=options.batch,
        runs_root=options.runs_root.resolve(),
        working=Path.cwd(),
    )


def _metric(options: Options, given: Any) -> Any:
    """The metric that the flags name, on top of the file's; None leaves the file's as it is."""
    from microtome.sweep.spec import Metric

    if options.metric is None and options.goal is None:
        return None
    base = dict(given) if isinstance(given, dict) else {}
    if options.metric is not None:
        base = {"name": options.metric, "goal": base.get("goal", "minimize")}
    if options.goal is not None:
        base["goal"] = options.goal
    return Metric.from_mapping(base, "--metric")


def _resume(parsed: Parsed, arguments: Sequence[str]) -> tuple[Path, dict[str, Any]]:
    """The folder to carry on, and the settings that may change on the way."""
    from microtome.core.references import open_run
    from microtome.sweep.run import stored_settings

    options: Options = parsed.options
    if parsed.positional:
        raise MicrotomeError(f"--resume: the sweep's folder holds its file; leave out {parsed.positional[0]}")
    given = {word.split("=")[0].lstrip("-").replace("-", "_") for word in _words(arguments)}
    for name in ("out_dir", "seed", "experiments"):
        if name in given:
            raise MicrotomeError(f"--resume: a resumed sweep keeps its {name}; leave out --{name}")
    folder = open_run(options.resume or "", runs_root=options.runs_root, want="sweep").path
    stored = stored_settings(folder)
    changes: dict[str, Any] = {name: getattr(options, name) for name in ("count", "batch") if name in given}
    metric = _metric(
        options, stored.sweep.get("metric") if stored.metric is None else stored.metric.as_dict()
    )
    return folder, changes | ({"metric": metric} if metric is not None else {})


def _engine(options: Options) -> Any:
    from microtome.sweep.engines import ProcessEngine, RayEngine, cores

    if options.engine == "ray":
        return RayEngine(options.jobs, options.address)
    return ProcessEngine(options.jobs or cores())


def _print_dry_run(groups: Sequence[Sequence[tuple[Any, list[str]]]]) -> None:
    from microtome.sweep.command import with_interpreter

    for group in groups:
        if len(group) > 1:
            print(f"one batched program of {len(group)} trials:")
        for trial, words in group:
            values = ", ".join(f"{name}={value}" for name, value in trial.parameters.items())
            experiment = f"{trial.experiment}: " if trial.experiment else ""
            print(f"trial {trial.index}: {experiment}{values}")
            print(
                f"  would fail: {trial.reason}"
                if trial.reason
                else f"  {shlex.join(with_interpreter(words))}"
            )


def _print(result: Any) -> None:
    """The table, best first, and where everything is."""
    from rich.console import Console
    from rich.table import Table

    from microtome.sweep.picture_data import value_text

    ranked = result.ranked()
    table = Table(title=f"sweep {result.name}", title_justify="left")
    experiments = any(trial.experiment for trial in ranked)
    heads = ["trial", "status", *(["experiment"] if experiments else []), *result.varying]
    for name in [*heads, *([result.metric.name] if result.metric else []), "seconds"]:
        table.add_column(name, overflow="fold")
    for trial in ranked[:MOST_ROWS]:
        score = result.score(trial)
        cells = [str(trial.index), trial.status, *([trial.experiment or ""] if experiments else [])]
        cells += [value_text(trial.parameters.get(name, "")) for name in result.varying]
        cells += [] if result.metric is None else ["" if score is None else f"{score:.5g}"]
        table.add_row(*cells, "" if trial.seconds is None else f"{trial.seconds:.1f}")
    Console().print(table)
    if len(ranked) > MOST_ROWS:
        print(f"{len(ranked) - MOST_ROWS} more in {_near(result.folder / 'sweep.csv')}")
    for trial in [trial for trial in ranked if trial.status == "failed"][:MOST_ROWS]:
        print(f"trial {trial.index} failed: {trial.reason}")
    if result.best is not None and result.metric is not None:
        values = ", ".join(
            f"{name}={value_text(result.best.parameters.get(name))}" for name in result.varying
        )
        score = f"{result.metric.name} {result.score(result.best):.5g}"
        print(f"Best: trial {result.best.index} with {score} ({values})")
        print(f"      {_near(result.folder / result.best.name)}")
    if (problem := result.missing_metric()) is not None:
        say(problem + "; rank with `--resume FOLDER --metric NAME`")
    failed = result.count("failed")
    told = f"{failed} of {len(ranked)} trials failed" if failed else f"{len(ranked)} trials"
    print(f"Swept, {told}. Results: {_near(result.folder)}")


def _near(path: Path) -> Path:
    """A path as it is written from here."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
