"""What a configuration asks for: the target with an instance for every decomposition, and its inputs."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from microtome.core.device import say
from microtome.core.distributed import Processes, process_device
from microtome.core.errors import MicrotomeError, bad_value
from microtome.data.loading import DataSource, data_from_spec, held_out_from_spec
from microtome.decomposition.apd import APD, start
from microtome.decomposition.apd_config import APDConfig
from microtome.decomposition.apd_variation import Variation
from microtome.decomposition.config import DecompositionConfig
from microtome.decomposition.full_spd import FullSPD
from microtome.decomposition.language_job import load_language_parts
from microtome.decomposition.spd import SPD
from microtome.decomposition.spd_config import SPDConfig
from microtome.decomposition.spd_tasks import SPDLanguageTask
from microtome.decomposition.start_from import start_from
from microtome.targets.loading import load_target
from microtome.targets.network import Target

# Task -> the kind of run that ``latest`` means.
LATEST = {
    "tms": "train-tms",
    "residual_mlp": "train-resid-mlp",
    "resid_mlp": "train-resid-mlp",
    "digits": "train-digits",
    "ih": "train-induction",
    "induction_head": "train-induction",
    "induction": "train-induction",
}


@dataclass(frozen=True)
class Job:
    """A configuration with its target (one instance for every decomposition to make) and its inputs."""

    config: DecompositionConfig
    target: Target
    data: DataSource
    train_config: dict[str, Any]
    together: tuple[DecompositionConfig, ...] = ()
    """Configurations that share one batched program, in the order of their instances; empty for one alone."""
    held_out: DataSource | None = None
    """What to measure on, where that is not ``data``."""

    @classmethod
    def of(
        cls,
        config: DecompositionConfig,
        target: Target,
        data: DataSource,
        train_config: dict[str, Any] | None = None,
        held_out: DataSource | None = None,
    ) -> "Job":
        """Every chosen instance of ``target``, ``n_seeds`` times. Raises ``MicrotomeError``."""
        for name, tensor in target.state_dict().items():
            if not torch.isfinite(tensor).all():
                raise MicrotomeError(f"{name}: the target's weights hold NaN or infinity; train it again")
        chosen = _instances(config, target.n_instances)
        repeated = [k for k in chosen for _ in range(config.n_seeds)]
        target = target.select(repeated).requires_grad_(False).eval()
        return cls(config, target, data, train_config or {}, held_out=held_out)

    @property
    def measured_on(self) -> DataSource:
        """The inputs of reports and results: held-out text, else draws from ``data``."""
        return self.data if self.held_out is None else self.held_out

    @property
    def seeds(self) -> list[int]:
        """The seed of every decomposition."""
        each = self.target.n_instances // len(self.configs)
        return [config.seed + k for config in self.configs for k in range(each)]

    @property
    def configs(self) -> tuple[DecompositionConfig, ...]:
        """The configurations of the program's equal parts."""
        return self.together or (self.config,)

    def parts(self) -> "list[Job]":
        """Every configuration as a job of its own, on its share of the instances."""
        each = self.target.n_instances // len(self.configs)
        ranges = [range(i * each, (i + 1) * each) for i in range(len(self.configs))]
        return [
            Job(config, self.target.select(mine), self.data, self.train_config, held_out=self.held_out)
            for config, mine in zip(self.configs, ranges, strict=True)
        ]

    def description(self) -> dict[str, Any]:
        """What a checkpoint says of the job, enough to make it again."""
        return {
            "target": self.target.spec(),
            "data": self.data.spec(),
            "held_out": self.held_out is not None,
            "train_config": self.train_config,
        }

    def with_data(self, data: DataSource) -> "Job":
        """The same job on other inputs."""
        return replace(self, data=data, held_out=None)


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
    processes: Processes | None = None,
) -> Job:
    """Load the target that the configuration names (or ``model``) and the inputs to decompose it on.

    A path that is not found from the working folder is looked for from ``relative_to``. Each of several
    ``processes`` loads its own copy. Raises ``MicrotomeError`` when there is none, or the task does not fit.
    """
    task = config.task_config
    path = (
        model
        or getattr(task, "pretrained_model_path", None)
        or getattr(config, "pretrained_model_path", None)
    )
    language = config if isinstance(config, SPDConfig) and isinstance(task, SPDLanguageTask) else None
    if language is not None:
        path = path or language.pretrained_model_name_hf
    if path is None:
        raise bad_value(
            "pretrained_model_path", None, "no target", "give a run folder, a checkpoint, or `latest`"
        )
    device = process_device(config.device, processes or Processes())
    if language is not None:
        target, data, held_out = load_language_parts(
            language, path, device=device, runs_root=runs_root, relative_to=relative_to
        )
        return Job.of(config, target, data, held_out=held_out)
    want = LATEST.get(task.task_name if task is not None else "", "train")
    loaded = load_target(path, runs_root=runs_root, relative_to=relative_to, device=device, want=want)
    if path == "latest":
        say(f"latest is {loaded.source.parent}")
    spec = dict(loaded.data or {})
    kinds = {
        "tms": ("tms",),
        "resid_mlp": ("residual_mlp", "resid_mlp"),
        "induction": ("induction", "induction_head", "ih"),
    }
    kind = kinds.get(str(loaded.target.spec()["kind"]), ("digits",))
    if task is not None and task.task_name not in (*kind, "target_data"):
        raise bad_value(
            "task_config.task_name",
            task.task_name,
            f"the target at {path} is of another kind",
            f"use {kind[0]}",
        )
    for field in ("feature_probability", "data_generation_type", "prefix_window"):
        if task is not None and field in spec and getattr(task, field, None) is not None:
            spec[field] = getattr(task, field)
    held_out = held_out_from_spec(spec, device) if spec.get("kind") == "digits" else None
    return Job.of(config, loaded.target, data_from_spec(spec, device), loaded.train_config, held_out=held_out)


def build_method(
    job: Job, processes: Processes | None = None, *, start_over: bool = True
) -> SPD | FullSPD | APD:
    """The trainable method on the job's target: the fast form of SPD where it computes what is asked for.

    ``processes``: those that share every batch. ``start_over=False``: a checkpoint will fill the parameters.
    Raises ``MicrotomeError`` where the method cannot.
    """
    config, n_parts = job.config, len(job.configs)
    each = job.target.n_instances // n_parts
    several = processes is not None and processes.size > 1
    if isinstance(config, APDConfig):
        if several:
            raise bad_value("method", "apd", "trains in one process only", "start it without torchrun")
        apd = [one for one in job.configs if isinstance(one, APDConfig)]
        starts = [start(part.target, one) for part, one in zip(job.parts(), apd, strict=True)]
        parameters = {
            name: torch.cat([one[name].detach() for one in starts]).requires_grad_() for name in starts[0]
        }
        device = next(iter(parameters.values())).device
        return APD(job.target, config, parameters=parameters, varied=Variation.of(apd, each, device))
    coefficients = _varied_coefficients(job, each)
    if several or not SPD.can(config, job.target):
        method = FullSPD(job.target, config, job.seeds, processes=processes, coefficients=coefficients)
    else:
        method = SPD(job.target, config, job.seeds, coefficients=coefficients)
    if start_over and config.init_spd_checkpoint is not None:
        start_from(config.init_spd_checkpoint, method.parameters)
    return method


def _varied_coefficients(job: Job, each: int) -> dict[str, torch.Tensor]:
    """The coefficients that differ between the job's configurations, one for every instance, by label."""
    device = next(iter(job.target.sites().values())).weight.device
    losses = [one.all_losses for one in job.configs if isinstance(one, SPDConfig)]
    varied: dict[str, torch.Tensor] = {}
    for label in losses[0]:
        values = [one[label].coeff or 0.0 for one in losses]
        if len(set(values)) > 1:
            varied[label] = torch.tensor(values, device=device).repeat_interleave(each)
    return varied
