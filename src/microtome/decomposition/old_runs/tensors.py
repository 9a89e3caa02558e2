"""The tensors of an original code's model file under one set of names, whichever version wrote it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from microtome.core.errors import CannotLoad
from microtome.decomposition.importance_functions import ALL_SITES

State = dict[str, Tensor]
# Longest first: ci_fn._ci_fns is the newest spelling, gates the SPD paper's.
_GATE_PREFIXES = ("ci_fn._ci_fns.", "_ci_fns.", "_gates.", "gates.")
_GLOBAL = "_global_ci_fn."  # one function for all sites
_COMPONENT_PREFIXES = ("_components.", "components.")
_WRAPPED = re.compile(r"(?:patched_model|target_model|model)\.(.+)\.components\.([UV])")
_APD = re.compile(r"(?:(.+)\.)?([AB])")


@dataclass
class OldTensors:
    """``components[site]`` is (V [d_in, C], U [C, d_out]), for APD (A [K, C, d_in, m], B [K, C, m, d_out]).

    ``gates[site]`` are its causal importance function's tensors by their own names. ``state`` is everything.
    """

    method: Literal["spd", "apd"]
    state: State
    components: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    gates: dict[str, State] = field(default_factory=dict)


def sort_tensors(state: Mapping[str, Tensor], path: Path) -> OldTensors:
    """Sort a model file's tensors. Raises ``CannotLoad`` for files that hold something else."""
    state = {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in state.items()}
    unsupported = [
        key
        for key in state
        if "_group_ci_fns." in key or (_GLOBAL in key and not key.split(_GLOBAL)[1].startswith("layers."))
    ]
    if unsupported:
        raise CannotLoad(
            f"{path}: a causal importance function of an unknown kind ({unsupported[0]}); this version loads"
            " one MLP for all sites (global_shared_mlp), or a function of each site's own"
        )
    factors = _spd_factors(state)
    if factors:
        found = OldTensors("spd", state, _pairs(factors, "VU", path), _gates(state))
        missing = [site for site in found.components if site not in found.gates]
        if missing and ALL_SITES not in found.gates:
            raise CannotLoad(
                f"{path}: has components but no gates for {missing[0]}; give the file as its run wrote it"
            )
        return found
    factors = _apd_factors(state)
    if factors:
        return OldTensors("apd", state, _pairs(factors, "AB", path))
    raise CannotLoad(f"{path}: {_what_else(state)}")


def _what_else(state: State) -> str:
    if any(key.startswith("components.") and key.endswith(".V") and t.ndim == 3 for key, t in state.items()):
        return "a model file of ours away from its run; give the run folder that it was copied from"
    shown = ", ".join(list(state)[:4]) or "nothing"
    if any(key.endswith(".weight") or key == "W" for key in state):
        return (
            f"a trained target or another network, not a decomposition (it has {shown}); give the"
            " model_<step>.pth that a decomposition wrote"
        )
    return f"no decomposition (it has {shown}); give the model_<step>.pth that one wrote"


def _spd_factors(state: State) -> dict[str, dict[str, Tensor]]:
    """Site, its dots still dashes, to its factors; A and B are the paper's names of V and U."""
    factors: dict[str, dict[str, Tensor]] = {}
    for key, tensor in state.items():
        wrapped = _WRAPPED.fullmatch(key)
        if wrapped:
            factors.setdefault(wrapped[1].replace(".", "-"), {})[wrapped[2]] = tensor
            continue
        prefix = next((p for p in _COMPONENT_PREFIXES if key.startswith(p)), None)
        parts = key[len(prefix or "") :].split(".")
        if prefix and len(parts) == 2 and parts[1] in ("A", "B", "U", "V") and tensor.ndim == 2:
            name = {"A": "V", "B": "U"}.get(parts[1], parts[1])
            factors.setdefault(parts[0], {})[name] = tensor
    return factors


def _apd_factors(state: State) -> dict[str, dict[str, Tensor]]:
    """Site to its factors, with an instance axis; the first APD runs called some sites otherwise."""
    factors: dict[str, dict[str, Tensor]] = {}
    for key, tensor in state.items():
        match = _APD.fullmatch(key)
        if not match or tensor.ndim not in (3, 4):
            continue
        site = re.sub(r"^(layers\.\d+)\.linear1$", r"\1.mlp_in", match[1] or "linear1")
        site = re.sub(r"^(layers\.\d+)\.linear2$", r"\1.mlp_out", site)
        factors.setdefault(site, {})[match[2]] = tensor if tensor.ndim == 4 else tensor.unsqueeze(0)
    return factors


def _gates(state: State) -> dict[str, State]:
    """Site, its dots still dashes (or ``all_sites``), to the tensors of its causal importance function."""
    gates: dict[str, State] = {}
    for key, tensor in state.items():
        if _GLOBAL in key:
            gates.setdefault(ALL_SITES, {})[key.split(_GLOBAL)[1]] = tensor
            continue
        prefix = next((p for p in _GATE_PREFIXES if key.startswith(p)), None)
        if prefix:
            site, _, name = key[len(prefix) :].partition(".")
            gates.setdefault(site, {})[name] = tensor
    return gates


def _pairs(
    factors: Mapping[str, Mapping[str, Tensor]], names: str, path: Path
) -> dict[str, tuple[Tensor, Tensor]]:
    pairs: dict[str, tuple[Tensor, Tensor]] = {}
    for site, found in factors.items():
        for name in names:
            called = {"V": "V (or A)", "U": "U (or B)"}.get(name, name)
            if name not in found:
                raise CannotLoad(f"{path}: {site} has no {called}; give the file as its run wrote it")
            if not torch.isfinite(found[name]).all():
                raise CannotLoad(
                    f"{path}: {called} of {site} holds NaN or infinity; give an earlier step's file"
                )
        pairs[site] = (found[names[0]], found[names[1]])
    return pairs
