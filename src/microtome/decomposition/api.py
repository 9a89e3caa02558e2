"""The one-call Python interface: ``microtome.decompose(model, data=...)``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from microtome.core.errors import MicrotomeError, bad_value
from microtome.core.seeds import generator
from microtome.data.images import ArrayData
from microtome.data.loading import DataSource
from microtome.decomposition.config import DecompositionConfig, config_from_mapping, method_of
from microtome.decomposition.decompose import run_job
from microtome.decomposition.jobs import Job, load_job
from microtome.decomposition.result import Decomposition, load
from microtome.targets.module_target import ModuleTarget
from microtome.targets.network import Target


def decompose(
    model: nn.Module | str | Path,
    method: str | None = None,
    *,
    data: DataSource | Shaped[Tensor | np.ndarray, "n *d"] | None = None,
    sites: Sequence[str] = ("*",),
    output: str | int | None = None,
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
    knows its own. ``output``: which part of what the module returns is compared, where that is no tensor (a
    key, an attribute or a position). ``method``: ``spd`` (the default, unless ``config`` is for the other) or
    ``apd``. ``settings`` are fields of ``SPDConfig`` or ``APDConfig``, on top of ``config``.

    Raises ``MicrotomeError`` for settings that cannot be, for a module without data or that cannot run on it,
    and for weights that are not single precision.
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
        job = _job_of_module(model, config_from_mapping(values, "settings"), data, sites, output)
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


def _job_of_module(
    model: nn.Module, config: DecompositionConfig, data: Any, sites: Sequence[str], output: str | int | None
) -> Job:
    if data is None:
        raise MicrotomeError("data=None: a module does not know its inputs; pass a tensor [n, ...] of them")
    source = _source(data)
    if isinstance(model, Target):
        return Job.of(config, model, source)
    target = ModuleTarget(model, getattr(config, "target_module_patterns", sites), output=output)
    for name, site in target.sites().items():
        if site.weight.dtype != torch.float32:
            raise bad_value(name, site.weight.dtype, "not single precision", "pass module.float()")
    _try_out(target, source)
    return Job.of(config, target, source)


def _try_out(target: ModuleTarget, source: DataSource) -> None:
    """Run the module on two of its inputs, so that what does not fit is told before anything is written."""
    x = source.batch(2, generator(0), n_instances=1)
    device = next(target.parameters()).device
    try:
        with torch.no_grad():
            target(x.to(device))
    except (RuntimeError, IndexError, TypeError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        kind = f"{x.dtype} of shape [n, {', '.join(map(str, x.shape[2:]))}]"
        raise MicrotomeError(f"data: the module cannot run on {kind} ({first}); pass its inputs") from error


def _source(data: Any) -> DataSource:
    if isinstance(data, (Tensor, np.ndarray)):
        rows = torch.as_tensor(data)
        return ArrayData(rows.float() if rows.is_floating_point() else rows)
    if isinstance(data, DataSource):
        return data
    raise bad_value("data", type(data).__name__, "neither rows nor a data source", "pass a tensor [n, ...]")
