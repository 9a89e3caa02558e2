"""The one-call Python interface: ``microtome.decompose(model, data=...)``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from microtome.core.errors import MicrotomeError
from microtome.data.images import ArrayData
from microtome.data.loading import DataSource
from microtome.decomposition.config import DecompositionConfig, config_from_mapping, method_of
from microtome.decomposition.decompose import Job, load_job, run_job
from microtome.decomposition.result import Decomposition, load
from microtome.targets.module_target import ModuleTarget
from microtome.targets.network import Target


def decompose(
    model: nn.Module | str | Path,
    method: str | None = None,
    *,
    data: DataSource | Float[Tensor, "n *d"] | None = None,
    sites: Sequence[str] = ("*",),
    config: DecompositionConfig | Mapping[str, Any] | None = None,
    out_dir: str | Path | None = None,
    runs_root: str | Path = Path("runs"),
    progress: bool = False,
    **settings: Any,
) -> Decomposition:
    """Take a network's weights apart and return the result, also kept as a run folder.

    ``model``: your own ``nn.Module`` (its ``nn.Linear`` layers that match ``sites`` are decomposed; it is
    neither changed nor trained), one of our targets, or where a trained target is (``latest``, a run folder,
    a checkpoint file). ``data``: inputs ``[n, ...]`` to draw batches from, or a data source; a target of ours
    knows its own. ``method``: ``spd`` (the default, unless ``config`` is for the other) or ``apd``.
    ``settings`` are fields of ``SPDConfig`` or ``APDConfig``, on top of ``config``.

    Raises ``MicrotomeError`` for settings that cannot be, and for a module without data.
    """
    if config is not None and not isinstance(config, Mapping):
        config = config.as_dict()
    values = {**(config or {}), **settings}
    method = values["method"] = method or method_of(values)
    if isinstance(model, nn.Module):
        if method == "spd":
            values.setdefault("target_module_patterns", list(sites))
            if not isinstance(model, Target):
                values.setdefault("task_config", {"task_name": "target_data"})
        job = _job_of_module(model, config_from_mapping(values, "settings"), data, sites)
    else:
        if method == "spd":
            values.setdefault("pretrained_model_path", str(model))
        job = load_job(config_from_mapping(values, "settings"), runs_root=Path(runs_root), model=str(model))
        if data is not None:
            job = job.with_data(_source(data))
    run = run_job(job, runs_root=Path(runs_root), out_dir=out_dir, progress=progress)
    return load(
        run.path, module=model if isinstance(model, nn.Module) and not isinstance(model, Target) else None
    )


def _job_of_module(model: nn.Module, config: DecompositionConfig, data: Any, sites: Sequence[str]) -> Job:
    if data is None:
        raise MicrotomeError("data=None: a module does not know its inputs; pass a tensor [n, ...] of them")
    if isinstance(model, Target):
        return Job.of(config, model, _source(data))
    patterns = getattr(config, "target_module_patterns", sites)
    return Job.of(config, ModuleTarget(model, patterns), _source(data))


def _source(data: DataSource | Tensor) -> DataSource:
    return ArrayData(data) if isinstance(data, torch.Tensor) else data
