"""From a configuration to a run folder: find the target and its inputs, train, evaluate, draw."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from microtome.core.device import resolve_device, set_threads
from microtome.core.errors import CannotLoad
from microtome.core.run_lock import only_writer
from microtome.core.runs import RunFolder, timestamp
from microtome.core.tracking import NoTracker, Tracker, open_tracker
from microtome.data.loading import DataSource, data_from_spec
from microtome.decomposition.apd import APD
from microtome.decomposition.config import DecompositionConfig, config_from_mapping
from microtome.decomposition.evaluate import Reporter, store_results
from microtome.decomposition.jobs import Job, build_method, load_job
from microtome.decomposition.loop import Hooks, Loop
from microtome.decomposition.outputs import run_name, save_model, save_start
from microtome.decomposition.pictures import draw_all
from microtome.decomposition.result import Decomposition, target_from
from microtome.decomposition.spd import SPD


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

    ``relative_to``: the folder of the file that the configuration was read from.
    """
    job = load_job(config, runs_root=Path(runs_root), relative_to=relative_to)
    return run_job(job, runs_root=Path(runs_root), out_dir=out_dir, command=command, progress=progress)


def run_job(
    job: Job,
    *,
    runs_root: Path = Path("runs"),
    out_dir: str | Path | None = None,
    command: Sequence[str] = (),
    progress: bool = True,
) -> RunFolder:
    """Decompose a prepared target; returns the finished run folder."""
    config = job.config
    set_threads(config.threads)
    method = build_method(job)
    path = Path(out_dir) if out_dir is not None else runs_root / f"{run_name(job)}-{timestamp()}"
    existed = path.exists()
    device = next(iter(method.parameters.values())).device
    run = RunFolder.create(
        path, config, command=command, seed=config.seed, device=str(device), kind=f"decompose-{config.method}"
    )
    try:
        with only_writer(run.path):
            save_start(run, job)
            return _finish(run, job, method, progress=progress)
    except BaseException:
        if not run.checkpoint_steps():  # nothing to carry on from: leave nothing behind
            shutil.rmtree(run.path, ignore_errors=True)
            if existed:  # an empty folder that the user had made
                run.path.mkdir(parents=True, exist_ok=True)
        raise


def resume(path: str | Path, *, progress: bool = True, data: DataSource | None = None) -> RunFolder:
    """Carry a stopped run on from its last checkpoint, bit for bit on a CPU.

    ``data``: the inputs again, where the run was given them in memory. Raises ``CannotLoad``, and
    ``MicrotomeError`` while another process works on the run.
    """
    run = RunFolder.open(path)
    with only_writer(run.path):
        return _carry_on(run, progress=progress, data=data)


def _carry_on(run: RunFolder, *, progress: bool, data: DataSource | None) -> RunFolder:
    checkpoint = run.latest_checkpoint()
    if checkpoint is None:
        raise CannotLoad(f"{run.path}: holds no checkpoint to carry on from; start the run again")
    step, tensors, extra = checkpoint
    for left_by_a_kill in run.path.rglob(".*.partial"):
        left_by_a_kill.unlink(missing_ok=True)
    config = config_from_mapping(run.config, str(run.path / "config.yaml"))
    set_threads(config.threads)
    device = resolve_device(config.device)
    target = target_from(tensors, extra).to(device)
    source = data if data is not None else data_from_spec(extra["data"], device)
    job = Job(config, target, source, extra.get("train_config", {}))
    return _finish(run, job, build_method(job), progress=progress, restore=(step, tensors))


def _finish(
    run: RunFolder,
    job: Job,
    method: SPD | APD,
    *,
    progress: bool,
    restore: tuple[int, dict[str, torch.Tensor]] | None = None,
) -> RunFolder:
    config = job.config
    tracker = _tracker(config, run)
    loop = Loop(
        method,
        job.data,
        config,
        run,
        extra=job.description(),
        fixed=job.target.state_dict(),
        hooks=Hooks(
            report=Reporter(method, job.data).report,
            picture=lambda step: picture(run, job, method.parameters, step, tracker),
            saved=lambda step: save_model(run, job, method.parameters, step),
            tracker=tracker,
            show=progress,
            title=f"decompose {config.method}",
        ),
    )
    if restore is not None:
        loop.restore(*restore)
    try:
        loop.train()
        summary = measure(run, job, method.parameters)
        for path in draw_all(run) if config.pictures else []:
            tracker.image(config.steps, path.stem, path)
    except KeyboardInterrupt as stop:
        told = str(stop) or f"Stopped; carry on with `microtome decompose --resume {run.path}`"
        raise KeyboardInterrupt(told) from None
    finally:
        tracker.finish()
    run.finish(summary)
    return run


def measure(run: RunFolder, job: Job, parameters: Mapping[str, Tensor]) -> dict[str, Any]:
    """Measure what was found, store it in the run, and return the summary."""
    found = Decomposition(job.config, job.target, parameters, job.data.spec(), run)
    return store_results(run, found, job.data)


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
