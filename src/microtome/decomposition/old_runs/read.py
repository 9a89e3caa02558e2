"""An original code's run as the parts of a ``Decomposition``."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from microtome.core.config import read_yaml
from microtome.core.errors import CannotLoad
from microtome.core.tensor_files import load_state_dict
from microtome.data.loading import DataSpec
from microtome.decomposition.importance_functions import ALL_SITES
from microtome.decomposition.old_runs.configs import OldConfig, read_old_config
from microtome.decomposition.old_runs.find import Located
from microtome.decomposition.old_runs.gates import gate_parameters
from microtome.decomposition.old_runs.tensors import OldTensors, sort_tensors
from microtome.decomposition.site_configs import PRE_IDENTITY
from microtome.targets.layouts import kind_of, renamed, target_part
from microtome.targets.loading import TRAIN_CONFIGS, target_from_state
from microtome.targets.module_target import ModuleTarget
from microtome.targets.network import Site, Target


@dataclass(frozen=True)
class OldRun:
    """Configuration, frozen target, trained tensors by our names, inputs, and the decomposed sites."""

    settings: OldConfig
    target: Target
    parameters: dict[str, Tensor]
    data: DataSpec | None
    sites: tuple[str, ...]


def read_old_run(located: Located, module: nn.Module | None = None) -> OldRun:
    """Read a model file, its final_config.yaml and the target's files beside it.

    ``module``: the network that was decomposed, where it is neither a TMS nor a residual MLP; a copy of it
    is filled with the weights in the file. Raises ``CannotLoad`` in one line.
    """
    path = located.checkpoint
    tensors = sort_tensors(load_state_dict(path), path)
    settings = read_old_config(read_yaml(located.config_file), located.config_file.name, tensors.method)
    if module is None:
        target, data = _toy_target(tensors, path)
        data = _as_decomposed(data, settings)
    else:
        target, data = _module_target(tensors, module, path), None
    target = target.requires_grad_(False).eval()
    names = _site_names(tensors, target.sites(), path)
    left_out = [site for site in tensors.components if site not in names]
    if left_out:
        note = f"{path.name}: the inserted identity sites {', '.join(left_out)} are left out"
        settings = replace(settings, notes=(*settings.notes, note))
    read = _apd_parameters if tensors.method == "apd" else _spd_parameters
    return OldRun(
        settings,
        target,
        read(tensors, target.sites(), names, settings.ci_fn_type, path),
        data,
        tuple(target.sites()) if tensors.method == "apd" else tuple(names.values()),
    )


def _toy_target(tensors: OldTensors, path: Path) -> tuple[Target, DataSpec]:
    """The TMS or residual MLP: out of the model file (SPD), or its copy beside it (APD)."""
    own = target_part(tensors.state)
    if tensors.method == "apd":
        kind, weights = _target_copy(path)
        own = load_state_dict(weights)
    else:
        kind, weights = kind_of(own), path
    if kind is None:
        shown = ", ".join(list(own)[:4]) or "no weights"
        raise CannotLoad(
            f"{path}: decomposes neither a TMS nor a residual MLP (its target has {shown});"
            " pass the network: microtome.load(path, module=...)"
        )
    train_config = path.parent / TRAIN_CONFIGS[kind]
    given = read_yaml(train_config) if train_config.is_file() else None
    if tensors.method == "apd":  # files from before instances were trained side by side
        own = {k: t.unsqueeze(0) if _without_instances(k, t) else t for k, t in renamed(own).items()}
    return target_from_state(kind, own, given, weights)


def _without_instances(name: str, tensor: Tensor) -> bool:
    return tensor.ndim < (2 if name.endswith("bias") or name == "b_final" else 3)


def _target_copy(path: Path) -> tuple[str, Path]:
    for kind in ("tms", "resid_mlp"):
        if (path.parent / f"{kind}.pth").is_file():
            return kind, path.parent / f"{kind}.pth"
    raise CannotLoad(
        f"{path}: holds components only; put the target that they decompose (tms.pth or resid_mlp.pth, with"
        f" its training configuration) in {path.parent}"
    )


def _module_target(tensors: OldTensors, module: nn.Module, path: Path) -> Target:
    own = {k: t for k, t in target_part(tensors.state).items() if not k.endswith(f"{PRE_IDENTITY}.weight")}
    sites = [key.removesuffix(".weight") for key in own if key.endswith(".weight")]
    dashed = {site.replace(".", "-"): site for site in sites}
    decomposed = {name.replace(".", "-") for name in tensors.components}
    identities = [
        name for name, _ in module.named_modules() if f"{name}{PRE_IDENTITY}".replace(".", "-") in decomposed
    ]
    target = ModuleTarget(
        module,
        [dashed[name] for name in tensors.components if name in dashed] or ["*"],
        identities=identities,
    )
    try:
        target.module.load_state_dict(own)
    except RuntimeError:
        raise CannotLoad(
            f"{path}: its target's tensors do not fit {type(module).__name__}; pass the network it decomposes"
        ) from None
    return target


def _site_names(tensors: OldTensors, sites: Mapping[str, Site], path: Path) -> dict[str, str]:
    """The checkpoint's site names (dots written as dashes) to the target's."""
    known = {**{site: site for site in sites}, **{site.replace(".", "-"): site for site in sites}}
    names = {name: known[name] for name in tensors.components if name in known}
    for name, (left, right) in tensors.components.items():
        if name not in names:
            if name.endswith("pre_identity") and names:
                continue  # inserted in front of a layer: the target computes the same without it
            raise CannotLoad(
                f"{path}: decomposes {name}, which its target lacks ({', '.join(sites)});"
                " is the target beside it the one that was decomposed?"
            )
        shape = list(sites[names[name]].weight.shape[-2:])
        if [left.shape[-2], right.shape[-1]] != shape or not _fit(tensors.method, left, right):
            raise CannotLoad(
                f"{path}: factors of shapes {list(left.shape)} and {list(right.shape)} do not make up {name}"
                f" {shape}; is the target beside it the one that was decomposed?"
            )
    return names


def _fit(method: str, left: Tensor, right: Tensor) -> bool:
    same = left.shape[-1] == right.shape[-2]
    return same and (method == "spd" or left.shape[:2] == right.shape[:2])


def _spd_parameters(
    tensors: OldTensors, sites: Mapping[str, Site], names: Mapping[str, str], kind: str | None, path: Path
) -> dict[str, Tensor]:
    parameters: dict[str, Tensor] = {}
    together = tensors.gates.get(ALL_SITES)
    for name, site in names.items():
        v, u = tensors.components[name]
        parameters[f"components.{site}.V"] = v.unsqueeze(0)
        parameters[f"components.{site}.U"] = u.unsqueeze(0)
        if together is not None:
            continue
        d_in, where = sites[site].weight.shape[-2], f"{path}: gates of {site}"
        gate = gate_parameters(tensors.gates[name], kind, d_in, v.shape[-1], where)
        parameters |= {f"gates.{site}.{part}": tensor for part, tensor in gate.items()}
    if together is not None:
        left_out = [name for name in tensors.components if name not in names]
        if left_out:
            raise CannotLoad(
                f"{path}: one causal importance function reads {left_out[0]} too, which its target lacks;"
                " pass the network: microtome.load(path, module=...)"
            )
        width = sum(sites[site].weight.shape[-2] for site in names.values())
        count = sum(v.shape[-1] for v, _ in tensors.components.values())
        gate = gate_parameters(together, "shared_mlp", width, count, f"{path}: the gates of all sites")
        parameters |= {f"gates.{ALL_SITES}.{part}": tensor for part, tensor in gate.items()}
    return parameters


def _apd_parameters(
    tensors: OldTensors, sites: Mapping[str, Site], names: Mapping[str, str], kind: str | None, path: Path
) -> dict[str, Tensor]:
    del kind
    k = next(iter(sites.values())).weight.shape[0]
    counts = {left.shape[:2] for left, _ in tensors.components.values()}
    missing = [name for name, site in sites.items() if site.tied_to is None and name not in names.values()]
    if missing or counts != {torch.Size((k, next(iter(counts))[1]))}:
        problem = f"has no factors for {missing[0]}" if missing else f"its target has {k} instances"
        shown = ", ".join(str(list(left.shape)) for left, _ in tensors.components.values())
        raise CannotLoad(
            f"{path}: {problem} (A has shapes {shown}); is the target beside it the one that was decomposed?"
        )
    parameters: dict[str, Tensor] = {}
    for name, site in names.items():
        a, b = tensors.components[name]
        parameters[f"{site}.A_T"], parameters[f"{site}.B"] = a.mT.contiguous(), b
    return parameters


def _as_decomposed(data: DataSpec, settings: OldConfig) -> DataSpec:
    """The inputs that the decomposition was made on, where they differ from the training's."""
    task = settings.original.get("task_config")
    task = task if isinstance(task, Mapping) else {}
    wanted = ("feature_probability", "data_generation_type")
    return {**data, **{name: task[name] for name in wanted if task.get(name) is not None}}
