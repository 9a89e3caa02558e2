"""From a configuration to a run folder: find the target and its inputs, train, evaluate, draw."""

import contextlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from microtome.core.device import set_threads
from microtome.core.distributed import Processes, from_main, process_device, processes, wait_for_all
from microtome.core.errors import CannotLoad
from microtome.core.run_lock import only_writer
from microtome.core.runs import RunFolder, timestamp
from microtome.core.tracking import NoTracker, Tracker, open_tracker
from microtome.data.loading import DataSource, data_from_spec, held_out_from_spec
from microtome.decomposition.apd import APD
from microtome.decomposition.config import DecompositionConfig, config_from_mapping
from microtome.decomposition.evaluate import Reporter, store_results
from microtome.decomposition.evaluation.along import Along
from microtome.decomposition.full_spd import FullSPD
from microtome.decomposition.jobs import Job, build_method, load_job
from microtome.decomposition.loop import Hooks, Loop, resume_words
from microtome.decomposition.outputs import run_name, save_model, save_start
from microtome.decomposition.pictures import draw_all
from microtome.decomposition.result import Decomposition, target_from
from microtome.decomposition.sharing import ResumeHint, check_sharing
from microtome.decomposition.spd import SPD
from microtome.decomposition.stored_target import latest_state


def run_config(
    config: DecompositionConfig,
    *,
    runs_root: str | Path = Path("runs"),
    out_dir: str | Path | None = None,
    relative_to: Path | None = None,
    command: Sequence[str] = (),
    progress: bool = True,
) -> RunFolder:
    """Decompose as the configuration says; returns the finished run folder.

    ``relative_to``: the folder of the file that the configuration was read from. Under torchrun all
    processes share every batch, and the first one writes.
    """
    hint = ResumeHint()
    with processes(config.device, watched=True, mend=hint) as group:
        job = load_job(config, runs_root=Path(runs_root), relative_to=relative_to, processes=group)
        return _run(job, group, hint, Path(runs_root), out_dir, command, progress)


def run_job(
    job: Job,
    *,
    runs_root: Path = Path("runs"),
    out_dir: str | Path | None = None,
    command: Sequence[str] = (),
    progress: bool = True,
) -> RunFolder:
    """Decompose a prepared target; returns the finished run folder."""
    hint = ResumeHint()
    with processes(job.config.device, watched=True, mend=hint) as group:
        return _run(job, group, hint, runs_root, out_dir, command, progress)


def _run(
    job: Job,
    group: Processes,
    hint: ResumeHint,
    runs_root: Path,
    out_dir: str | Path | None,
    command: Sequence[str],
    progress: bool,
) -> RunFolder:
    config = job.config
    set_threads(config.threads)
    check_sharing(job, group)
    method = build_method(job, group)
    path = Path(out_dir) if out_dir is not None else runs_root / f"{run_name(job)}-{timestamp()}"
    path = from_main(path, group)
    if not group.main:
        wait_for_all(group)
        run = RunFolder(path)
        hint.run, hint.group = run, group
        return _finish(run, job, method, group, progress=progress)
    existed = path.exists()
    device = next(iter(method.parameters.values())).device
    run = RunFolder.create(
        path, config, command=command, seed=config.seed, device=str(device), kind=f"decompose-{config.method}"
    )
    try:
        with only_writer(run.path):
            save_start(run, job)
            wait_for_all(group)
            hint.run, hint.group = run, group
            return _finish(run, job, method, group, progress=progress)
    except BaseException:
        if not run.checkpoint_steps():  # nothing to carry on from: leave nothing behind
            shutil.rmtree(run.path, ignore_errors=True)
            if existed:  # an empty folder that the user had made
                run.path.mkdir(parents=True, exist_ok=True)
        raise


def resume(path: str | Path, *, progress: bool = True, data: DataSource | None = None) -> RunFolder:
    """Carry a stopped run on from its last checkpoint, bit for bit on a CPU.

    ``data``: the inputs again, where the run was given them in memory. Under torchrun every process reads
    the run's folder. Raises ``CannotLoad``, and ``MicrotomeError`` while another process works on the run.
    """
    run = RunFolder.open(path)
    config = config_from_mapping(run.config, str(run.path / "config.yaml"))
    hint = ResumeHint(run)
    with processes(config.device, watched=True, mend=hint) as group:
        hint.group = group
        with only_writer(run.path) if group.main else contextlib.nullcontext():
            return _carry_on(run, config, group, progress=progress, data=data)


def _carry_on(
    run: RunFolder,
    config: DecompositionConfig,
    group: Processes,
    *,
    progress: bool,
    data: DataSource | None,
) -> RunFolder:
    checkpoint = latest_state(run)
    if checkpoint is None:
        raise CannotLoad(
            f"{run.path}: stopped before its first checkpoint; remove the folder and start the run again"
        )
    step, tensors, extra = checkpoint
    for left_by_a_kill in run.path.rglob(".*.partial") if group.main else ():
        left_by_a_kill.unlink(missing_ok=True)
    set_threads(config.threads)
    device = process_device(config.device, group)
    target = target_from(tensors, extra).to(device)
    held_out = None
    if data is None:
        tokenizer = getattr(target, "tokenizer", None)
        data = data_from_spec(extra["data"], device, tokenizer)
        if extra.get("held_out"):
            held_out = held_out_from_spec(extra["data"], device, tokenizer)
    job = Job(config, target, data, extra.get("train_config", {}), held_out=held_out)
    check_sharing(job, group)
    method = build_method(job, group, start_over=False)
    return _finish(run, job, method, group, progress=progress, restore=(step, tensors))


def _finish(
    run: RunFolder,
    job: Job,
    method: SPD | FullSPD | APD,
    group: Processes,
    *,
    progress: bool,
    restore: tuple[int, dict[str, Tensor]] | None = None,
) -> RunFolder:
    config = job.config
    tracker = _tracker(config, run) if group.main else NoTracker()
    loop = Loop(
        method,
        job.data,
        config,
        run,
        extra=job.description(),
        fixed=job.target.state_dict(),
        hooks=Hooks(
            report=Reporter(method, job.measured_on).report,
            evaluate=Along(job.target, config, method.parameters, job.measured_on, run).evaluate,
            picture=lambda step: picture(run, job, method.parameters, step, tracker),
            saved=lambda step: save_model(run, job, method.parameters, step),
            tracker=tracker,
            show=progress,
            title=f"decompose {config.method}",
        ),
        processes=group,
    )
    if restore is not None:
        loop.restore(*restore)
    try:
        loop.train()
        if group.main:
            summary = measure(run, job, method.parameters)
            for path in draw_all(run) if config.pictures else []:
                tracker.image(config.steps, path.stem, path)
            run.finish(summary)
        wait_for_all(group)
    except KeyboardInterrupt as stop:
        told = str(stop) or f"Stopped; carry on with `{resume_words(run, group)}`"
        raise KeyboardInterrupt(told) from None
    finally:
        tracker.finish()
    return run


def measure(run: RunFolder, job: Job, parameters: Mapping[str, Tensor]) -> dict[str, Any]:
    """Measure what was found, store it in the run, and return the summary."""
    found = Decomposition(job.config, job.target, parameters, job.data.spec(), run)
    return store_results(run, found, job.measured_on)


def picture(
    run: RunFolder, job: Job, parameters: Mapping[str, Tensor], step: int, tracker: Tracker | None = None
) -> None:
    """The pictures of a step on the way, named after it."""
    if not job.config.pictures:
        return
    measure(run, job, parameters)
    for path in draw_all(run):
        if tracker is not None:
            tracker.image(step, path.stem, path)
        path.replace(path.with_name(f"{path.stem}_s{step}.png"))


def _tracker(config: DecompositionConfig, run: RunFolder) -> Tracker:
    kind = config.tracker or ("wandb" if config.wandb_project else "none")
    if kind == "none":
        return NoTracker()
    name = config.wandb_run_name or f"{config.wandb_run_name_prefix}{run.path.name}"
    return open_tracker(kind, run, config.wandb_project, name, config.as_dict())
