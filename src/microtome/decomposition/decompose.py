"""From a configuration to a run folder: find the target and its inputs, train, evaluate, draw."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from microtome.core.device import resolve_device, say, set_threads
from microtome.core.errors import CannotLoad, MicrotomeError, bad_value
from microtome.core.run_lock import only_writer
from microtome.core.runs import RunFolder, timestamp
from microtome.core.tracking import NoTracker, Tracker, open_tracker
from microtome.data.loading import DataSource, data_from_spec
from microtome.decomposition.apd import APD
from microtome.decomposition.apd_config import APDConfig
from microtome.decomposition.config import DecompositionConfig, config_from_mapping
from microtome.decomposition.evaluate import Reporter, store_results
from microtome.decomposition.loop import Hooks, Loop
from microtome.decomposition.pictures import draw_all
from microtome.decomposition.result import Decomposition, target_from
from microtome.decomposition.spd import SPD
from microtome.targets.loading import load_target
from microtome.targets.network import Target

# Task -> the kind of run that ``latest`` means.
LATEST = {
    "tms": "train-tms",
    "residual_mlp": "train-resid-mlp",
    "resid_mlp": "train-resid-mlp",
    "digits": "train-digits",
}


@dataclass(frozen=True)
class Job:
    """A configuration with its target (one instance for every decomposition to make) and its inputs."""

    config: DecompositionConfig
    target: Target
    data: DataSource
    train_config: dict[str, Any]

    @classmethod
    def of(
        cls,
        config: DecompositionConfig,
        target: Target,
        data: DataSource,
        train_config: dict[str, Any] | None = None,
    ) -> "Job":
        """Every chosen instance of ``target``, ``n_seeds`` times. Raises ``MicrotomeError``."""
        for name, tensor in target.state_dict().items():
            if not torch.isfinite(tensor).all():
                raise MicrotomeError(f"{name}: the target's weights hold NaN or infinity; train it again")
        chosen = _instances(config, target.n_instances)
        repeated = [k for k in chosen for _ in range(config.n_seeds)]
        target = target.select(repeated).requires_grad_(False).eval()
        return cls(config, target, data, train_config or {})

    @property
    def seeds(self) -> list[int]:
        """The seed of every decomposition."""
        return [self.config.seed + k for k in range(self.target.n_instances)]

    def with_data(self, data: DataSource) -> "Job":
        """The same job on other inputs."""
        return replace(self, data=data)


def _instances(config: DecompositionConfig, available: int) -> list[int]:
    if isinstance(config, APDConfig):
        wanted = config.n_instances or available
        if wanted > available:
            raise bad_value("n_instances", wanted, f"the target has {available}", f"use at most {available}")
        return list(range(wanted))
    if config.instances is None:
        return list(range(available))
    for k in config.instances:
        if k >= available:
            raise bad_value("instances", k, f"the target has {available}", f"use 0 to {available - 1}")
    return list(config.instances)


def load_job(
    config: DecompositionConfig,
    *,
    runs_root: Path = Path("runs"),
    model: str | None = None,
    relative_to: Path | None = None,
) -> Job:
    """Load the target that the configuration names (or ``model``) and the inputs to decompose it on.

    A path that is not found from the working folder is looked for from ``relative_to``. Raises
    ``MicrotomeError`` when there is none, or the task does not fit it.
    """
    task = config.task_config
    path = (
        model
        or getattr(task, "pretrained_model_path", None)
        or getattr(config, "pretrained_model_path", None)
    )
    if task is not None and task.task_name == "lm":
        raise bad_value(
            "task_config.task_name",
            "lm",
            "language models cannot be decomposed yet",
            "use tms, residual_mlp, digits, or your own module from Python",
        )
    if path is None:
        raise bad_value(
            "pretrained_model_path", None, "no target", "give a run folder, a checkpoint, or `latest`"
        )
    device = resolve_device(config.device)
    want = LATEST.get(task.task_name if task is not None else "", "train")
    loaded = load_target(path, runs_root=runs_root, relative_to=relative_to, device=device, want=want)
    if path == "latest":
        say(f"latest is {loaded.source.parent}")
    spec = dict(loaded.data or {})
    kinds = {"tms": ("tms",), "resid_mlp": ("residual_mlp", "resid_mlp")}
    kind = kinds.get(str(loaded.target.spec()["kind"]), ("digits",))
    if task is not None and task.task_name not in (*kind, "target_data"):
        raise bad_value(
            "task_config.task_name",
            task.task_name,
            f"the target at {path} is of another kind",
            f"use {kind[0]}",
        )
    for field in ("feature_probability", "data_generation_type"):
        if task is not None and field in spec and hasattr(task, field):
            spec[field] = getattr(task, field)
    return Job.of(config, loaded.target, data_from_spec(spec, device), loaded.train_config)


def build_method(job: Job) -> SPD | APD:
    """The trainable method on the job's target."""
    if isinstance(job.config, APDConfig):
        return APD(job.target, job.config)
    return SPD(job.target, job.config, job.seeds)


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
    path = Path(out_dir) if out_dir is not None else runs_root / f"{_run_name(job)}-{timestamp()}"
    existed = path.exists()
    device = next(iter(method.parameters.values())).device
    run = RunFolder.create(
        path, config, command=command, seed=config.seed, device=str(device), kind=f"decompose-{config.method}"
    )
    try:
        with only_writer(run.path):
            run.save_yaml("final_config.yaml", config.as_dict())
            _copy_target(run, job)
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
    extra = {"target": job.target.spec(), "data": job.data.spec(), "train_config": job.train_config}
    tracker = _tracker(config, run)
    reporter = Reporter(method, job.data)

    def picture(step: int) -> None:
        store_results(run, _decomposition(job, method, run), job.data)
        for path in draw_all(run):
            tracker.image(step, path.stem, path)
            path.replace(path.with_name(f"{path.stem}_s{step}.png"))

    loop = Loop(
        method,
        job.data,
        config,
        run,
        extra=extra,
        fixed=job.target.state_dict(),
        hooks=Hooks(
            report=reporter.report,
            picture=picture,
            saved=lambda step: _save_model(run, job, method, step),
            tracker=tracker,
            show=progress,
            title=f"decompose {config.method}",
        ),
    )
    if restore is not None:
        loop.restore(*restore)
    try:
        loop.train()
        summary = store_results(run, _decomposition(job, method, run), job.data)
        for path in draw_all(run):
            tracker.image(config.steps, path.stem, path)
    except KeyboardInterrupt as stop:
        told = str(stop) or f"Stopped; carry on with `microtome decompose --resume {run.path}`"
        raise KeyboardInterrupt(told) from None
    finally:
        tracker.finish()
    run.finish(summary)
    return run


def _decomposition(job: Job, method: SPD | APD, run: RunFolder) -> Decomposition:
    return Decomposition(job.config, job.target, method.parameters, job.data.spec(), run)


def _tracker(config: DecompositionConfig, run: RunFolder) -> Tracker:
    kind = config.tracker or ("wandb" if config.wandb_project else "none")
    if kind == "none":
        return NoTracker()
    name = config.wandb_run_name or f"{config.wandb_run_name_prefix}{run.path.name}"
    return open_tracker(kind, run, config.wandb_project, name, config.as_dict())


def _run_name(job: Job) -> str:
    spec = job.target.spec()
    kind = str(spec["kind"])
    if kind == "tms":
        hidden = f"-id{spec['n_hidden_layers']}" if spec["n_hidden_layers"] else ""
        kind = f"tms_{spec['n_features']}-{spec['n_hidden']}{hidden}"
    elif kind == "resid_mlp":
        kind = f"resid_mlp{spec['n_layers']}"
    return f"decompose-{job.config.method}-{kind}"


def _save_model(run: RunFolder, job: Job, method: SPD | APD, step: int) -> None:
    """The documented model file of a step: components, and what of the target is not decomposed."""
    decomposed = tuple(f"{site}.weight" for site in job.target.sites())
    kept = {n: t for n, t in job.target.state_dict().items() if not n.endswith(decomposed)}
    name = "spd_model" if job.config.method == "apd" else "model"
    state = {**kept, **{n: t.detach() for n, t in method.parameters.items()}}
    # The original APD code's layout: A itself.
    state = {n.removesuffix("_T"): t.mT if n.endswith(".A_T") else t for n, t in state.items()}
    run.save_state_dict(f"{name}_{step}.pth", state)


def _copy_target(run: RunFolder, job: Job) -> None:
    """The target beside its components, under the documented names."""
    kind = {"tms": "tms", "resid_mlp": "resid_mlp", "mlp": "digits"}.get(str(job.target.spec()["kind"]))
    if kind is None or not job.train_config:
        return
    run.save_state_dict(f"{kind}.pth", job.target.state_dict())
    run.save_yaml(f"{kind}_train_config.yaml", job.train_config)
