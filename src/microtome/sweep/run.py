"""``run_sweep``: from settings to a finished sweep folder, new or carried on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from microtome.core.config import Note
from microtome.core.device import say
from microtome.core.errors import MicrotomeError
from microtome.core.run_lock import only_writer
from microtome.core.runs import RunFolder
from microtome.sweep.command import Programs
from microtome.sweep.driver import Driver
from microtome.sweep.engines import Engine
from microtome.sweep.jobs import Workshop
from microtome.sweep.plan import (
    Plan,
    SweepSettings,
    default_folder,
    make_plan,
    pin_latest,
    settings_from,
    spaces_and_metric,
)
from microtome.sweep.record import Record, Trial
from microtome.sweep.result import SweepResult

KIND = "sweep"


@dataclass(frozen=True)
class Start:
    """A sweep about to run: what it is, and the folder it is in or will be in."""

    settings: SweepSettings
    plan: Plan
    folder: Path

    @property
    def begun(self) -> bool:
        """Whether the folder already holds the sweep."""
        return (self.folder / "environment.json").is_file()


def new_start(settings: SweepSettings, out_dir: Path | None, programs: Programs, note: Note = say) -> Start:
    """Read the sweep and choose its folder; a folder that holds the same sweep is carried on.

    Raises ``MicrotomeError`` in one line; nothing is written.
    """
    plan = make_plan(settings, programs, note)
    folder = out_dir if out_dir is not None else default_folder(plan, settings)
    if not (folder / "environment.json").is_file():
        return Start(settings, plan, folder)
    before = stored_settings(folder)
    if default_folder(make_plan(before, programs, lambda _: None), before) != default_folder(plan, settings):
        raise MicrotomeError(
            f"out_dir={str(folder)!r}: holds another sweep ({before.source}); choose another --out_dir"
        )
    return Start(settings.model_copy(update={"pinned": before.pinned}), plan, folder)


def resumed(folder: Path, changes: dict[str, object], programs: Programs) -> Start:
    """The sweep in a folder, with a few settings changed. Raises ``CannotLoad`` when there is none."""
    settings = stored_settings(folder).model_copy(update=changes)
    return Start(settings, make_plan(settings, programs, lambda _: None), folder)


def run_sweep(
    start: Start,
    programs: Programs,
    engine: Callable[[], Engine],
    *,
    command: Sequence[str] = (),
    retry_failed: bool = False,
    show: bool = True,
    note: Note = say,
) -> SweepResult:
    """Run every trial that is not done; returns what was found.

    ``engine`` is called once there is something to run. On Ctrl-C everything is stopped and recorded, and
    ``KeyboardInterrupt`` goes on with the words to resume with.
    """
    run, settings = _open(start, programs, command, note)
    plan = start.plan
    workshop = Workshop(plan, settings, programs, run.path)
    record = Record(run.path)
    with only_writer(run.path):
        for left_by_a_kill in run.path.glob("*/.*.partial"):
            left_by_a_kill.unlink(missing_ok=True)
        running = engine()
        try:
            driver = Driver(workshop, record, running, note, retry_failed)
            driver.run(show)
        except KeyboardInterrupt:
            _result(run, plan).save(run)
            raise KeyboardInterrupt(f"Stopped; carry on with `microtome sweep --resume {run.path}`") from None
        finally:
            running.close()
        result = _result(run, plan)
        result.save(run)
        run.finish(result.summary())
    return result


def load_sweep(folder: str | Path) -> SweepResult:
    """What the sweep in a folder found so far. Raises ``CannotLoad`` when there is none."""
    settings = stored_settings(Path(folder))
    spaces, metric = spaces_and_metric(settings)
    parameters = {name: p for space in spaces.values() for name, p in space.parameters.items()}
    trials = tuple(Record(Path(folder)).load().values())
    return SweepResult(Path(folder), Path(settings.source).stem, trials, parameters, metric)


def dry_run(start: Start, programs: Programs, slots: int) -> list[list[tuple[Trial, list[str]]]]:
    """The trials that would run, with their command lines, in the processes that would run them.

    Of a Bayesian search only the first ones are known.
    """
    workshop = Workshop(start.plan, start.settings, programs, start.folder)
    search = start.plan.search
    known = range(search.total if search.ahead else min(slots, search.total))
    done = {trial.index: trial for trial in Record(start.folder).load().values() if trial.ended}
    trials = []
    for index in known:
        if index not in done:
            proposal = search.propose(index, trials)
            trials.append(Trial(index, proposal.parameters, proposal.experiment, status="running"))
    sound, unsound = workshop.sorted_out(trials)
    groups = workshop.groups(sound, slots) if search.ahead else [[trial] for trial in sound]
    groups = sorted([*groups, *([trial] for trial in unsound)], key=lambda group: group[0].index)
    return [[(trial, workshop.command(trial)) for trial in group] for group in groups]


def stored_settings(folder: Path) -> SweepSettings:
    """The settings of the sweep in a folder. Raises ``CannotLoad`` when it holds none."""
    run = RunFolder.open(folder)
    if run.kind != KIND:
        raise MicrotomeError(
            f"{folder}: is a {run.kind} run, not a sweep; `microtome runs --kind sweep` lists those"
        )
    return settings_from(run.config, str(folder / "config.yaml"))


def _open(
    start: Start, programs: Programs, command: Sequence[str], note: Note
) -> tuple[RunFolder, SweepSettings]:
    if start.begun:
        run = RunFolder.open(start.folder)
        trials = Record(run.path).load()
        done = sum(trial.ended for trial in trials.values())
        total = start.plan.search.total
        next_words = "carrying on" if done < total else "another --out_dir runs it anew"
        note(f"{run.path}: {done} of {total} trials are done; {next_words}")
        start.settings.to_file(run.path / "config.yaml")
        return run, start.settings
    pinned = pin_latest(start.plan, start.settings, programs, note)
    settings = start.settings.model_copy(update={"pinned": pinned})
    _refuse_hopeless(Workshop(start.plan, settings, programs, start.folder))
    run = RunFolder.create(start.folder, settings, command=command, seed=settings.seed, kind=KIND)
    source = Path(settings.source)
    if source.is_file():
        (run.path / "sweep.yaml").write_bytes(source.read_bytes())
    return run, settings


def _refuse_hopeless(workshop: Workshop) -> None:
    """Raise the first trial's error when no trial that is known beforehand has a sound configuration."""
    search = workshop.plan.search
    problem: MicrotomeError | None = None
    for index in range(search.total if search.ahead else 1):
        proposal = search.propose(index, [])
        try:
            workshop.check(Trial(index, proposal.parameters, proposal.experiment))
            return
        except MicrotomeError as error:
            problem = problem or error
    if problem is not None:
        raise problem


def _result(run: RunFolder, plan: Plan) -> SweepResult:
    return SweepResult(
        run.path, plan.name, tuple(Record(run.path).load().values()), plan.space.parameters, plan.metric
    )
