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
from microtome.decomposition.inputs_fit import try_out
from microtome.decomposition.jobs import Job, load_job
from microtome.decomposition.result import Decomposition, load
from microtome.decomposition.spd_config import SPDConfig
from microtome.targets.language_target import LanguageTarget, is_language_model
from microtome.targets.module_target import ModuleTarget
from microtome.targets.network import Target
from microtome.targets.site_check import fit_sites


def decompose(
    model: nn.Module | str | Path,
    method: str | None = None,
    *,
    data: DataSource | Shaped[Tensor | np.ndarray, "n *d"] | None = None,
    sites: Sequence[str] | Mapping[str, int] = ("*",),
    identities: Sequence[str] | Mapping[str, int] = (),
    output: str | int | None = None,
    config: DecompositionConfig | Mapping[str, Any] | None = None,
    out_dir: str | Path | None = None,
    runs_root: str | Path = Path("runs"),
    progress: bool = False,
    **settings: Any,
) -> Decomposition:
    """Take a network's weights apart and return the result, also kept as a run folder.

    ``model``: your own ``nn.Module`` (its linear, embedding and convolution layers that match ``sites`` are
    decomposed; it is neither changed nor trained), a Hugging Face causal language model, one of our targets,
    or where a trained target is (``latest``, a run folder, a checkpoint file). ``data``: inputs ``[n, ...]``
    to draw batches from (token ids ``[n, T]`` for a language model), or a data source; a target of ours knows
    its own. ``sites``: name patterns, or patterns with the number of subcomponents of each (SPD);
    ``identities``: the same, of layers at whose input an identity is inserted and decomposed. ``output``:
    which part of what the module returns is compared, where that is no tensor (a key, an attribute or a
    position). ``method``: ``spd`` (the default, unless ``config`` is for the other) or
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
            _set_sites(values, sites, identities)
            if not isinstance(model, Target):
                values.setdefault("task_config", {"task_name": "target_data"})
            if is_language_model(model) or isinstance(model, LanguageTarget):
                values.setdefault("output_loss_type", "kl")
        job = _job_of_module(model, config_from_mapping(values, "settings"), data, sites, identities, output)
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


def _set_sites(values: dict[str, Any], sites: Any, identities: Any) -> None:
    """Sites and identities as the fields of ``SPDConfig`` that they are."""
    if isinstance(sites, Mapping):
        values.setdefault("module_info", [{"module_pattern": p, "C": n} for p, n in sites.items()])
    elif not values.get("module_info"):
        values.setdefault("target_module_patterns", list(sites))
    if identities:
        counts = identities if isinstance(identities, Mapping) else {}
        default = values.get("C", SPDConfig.model_fields["C"].default)
        values["identity_module_info"] = [
            {"module_pattern": pattern, "C": counts.get(pattern, default)} for pattern in identities
        ]


def _job_of_module(
    model: nn.Module, config: DecompositionConfig, data: Any, sites: Any, identities: Any, output: Any
) -> Job:
    if data is None:
        raise MicrotomeError("data=None: a module does not know its inputs; pass a tensor [n, ...] of them")
    source = _source(data)
    if isinstance(model, Target):
        return Job.of(config, model, source)
    spd = config if isinstance(config, SPDConfig) else None
    patterns = list(sites) if spd is None else spd.site_patterns
    inserted = list(identities) if spd is None else spd.identity_patterns
    if is_language_model(model):
        checkpointing = spd is not None and spd.activation_checkpointing
        target = LanguageTarget(model, None, patterns, inserted, checkpointing=checkpointing)
    else:
        target = ModuleTarget(model, patterns, output=output, identities=inserted)
    _check_kinds(target, config)
    _try_out(target, source)
    return Job.of(config, target, source)


def _check_kinds(target: ModuleTarget, config: DecompositionConfig) -> None:
    for name, site in target.sites().items():
        if site.weight.dtype != torch.float32:
            raise bad_value(name, site.weight.dtype, "not single precision", "pass module.float()")
        if config.method == "apd" and site.kind in ("embedding", "conv2d"):
            raise bad_value(
                "sites", name, f"APD does not decompose a site of kind {site.kind}", "use method='spd'"
            )


def _try_out(target: ModuleTarget, source: DataSource) -> None:
    """Run the module on a few of its inputs, so that what does not fit is told before anything is written."""
    x = source.batch(8, generator(0), n_instances=1)
    device = next(target.parameters()).device
    try_out(lambda rows: fit_sites(target, rows), x.to(device))


def _source(data: Any) -> DataSource:
    if isinstance(data, (Tensor, np.ndarray)):
        rows = torch.as_tensor(data)
        return ArrayData(rows.float() if rows.is_floating_point() else rows)
    if isinstance(data, DataSource):
        return data
    raise bad_value("data", type(data).__name__, "neither rows nor a data source", "pass a tensor [n, ...]")
