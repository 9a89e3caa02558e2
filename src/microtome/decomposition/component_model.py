"""One decomposition as a plain ``nn.Module``: a target whose sites can be run component by component.

A ``Decomposition`` holds K of them along a leading axis; a ``ComponentModel`` is one of those, without the
axis, with the names and the orientation (``nn.Linear``: out first) that the SPD code's users know.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from microtome.core.errors import MicrotomeError, bad_value
from microtome.decomposition.causal_importance.sigmoids import sigmoid_pair
from microtome.decomposition.component_layers import ComponentLayer, GateFunction, OneInstance
from microtome.decomposition.config import DecompositionConfig
from microtome.decomposition.importance_functions import ALL_SITES, ImportanceFunctions
from microtome.decomposition.result import Decomposition, load_located
from microtome.decomposition.run_info import SPDRunInfo
from microtome.targets.network import Site

__all__ = [
    "CIOutputs",
    "ComponentModel",
    "MaskInfo",
    "OutputWithCache",
    "SPDRunInfo",
    "make_mask_infos",
]

_OLD_MODES = {"target": "none", "components": "none", "input_cache": "input"}


class OutputWithCache(NamedTuple):
    """A model's output and what was recorded at each site on the way to it."""

    output: Tensor
    cache: dict[str, Tensor]


class CIOutputs(NamedTuple):
    """Causal importances by site, each ``[..., C]``: for masks, for the minimality loss, and before both."""

    lower_leaky: dict[str, Tensor]
    upper_leaky: dict[str, Tensor]
    pre_sigmoid: dict[str, Tensor]


@dataclass(frozen=True)
class MaskInfo:
    """How one site runs: its components weighed by ``component_mask``.

    ``routing_mask``: where it is False the target's own weight is used. ``weight_delta_and_mask``: the part
    of the target's weight that the components leave out ``[d_out, d_in]``, and how much of it to add.
    """

    component_mask: Float[Tensor, "*B C"]
    routing_mask: Bool[Tensor, "*B"] | None = None
    weight_delta_and_mask: tuple[Float[Tensor, "d_out d_in"], Float[Tensor, "*B"]] | None = None


def make_mask_infos(
    component_masks: Mapping[str, Float[Tensor, "*B C"]],
    routing_masks: Mapping[str, Bool[Tensor, "*B"]] | Literal["all"] = "all",
    weight_deltas_and_masks: Mapping[str, tuple[Tensor, Tensor]] | None = None,
) -> dict[str, MaskInfo]:
    """Bundle masks by site, as ``ComponentModel`` takes them; sites that are left out run as trained.

    Raises ``MicrotomeError`` when the other mappings do not name the same sites.
    """
    for other in (routing_masks, weight_deltas_and_masks):
        if isinstance(other, Mapping) and set(other) != set(component_masks):
            raise MicrotomeError(
                f"make_mask_infos: masks for {sorted(component_masks)} but also for {sorted(other)};"
                " name the same sites in each"
            )
    return {
        name: MaskInfo(
            mask,
            None if isinstance(routing_masks, str) else routing_masks[name],
            None if weight_deltas_and_masks is None else weight_deltas_and_masks[name],
        )
        for name, mask in component_masks.items()
    }


class ComponentModel(nn.Module):
    """One instance of a decomposition, ``[B, ...]`` in and out, differentiable in its input.

    Its tensors are frozen copies: what is done to them changes neither the run nor the decomposition.
    """

    def __init__(self, decomposition: Decomposition, instance: int = 0) -> None:
        super().__init__()
        k = decomposition.n_instances
        if not 0 <= instance < k:
            raise bad_value("instance", instance, f"the run holds {k}", f"use 0 to {k - 1}")
        self.config: DecompositionConfig = decomposition.config
        self.instance = instance
        self.target_model = OneInstance(decomposition.target.select([instance]))
        self.target_module_paths: list[str] = list(decomposition.sites)
        self._components = nn.ModuleDict()
        self._ci_fns = nn.ModuleDict()
        self.sigmoid_type = decomposition.sigmoid_type
        for name, site in decomposition.sites.items():
            left, right = (factor[instance] for factor in decomposition.factors[name])
            bias = None if site.bias is None else site.bias[instance]
            layer = ComponentLayer(left, right, site.weight[instance], bias, site.kind)
            self._components[_key(name)] = layer
        functions = decomposition.importance_functions
        for name, function in ({} if functions is None else functions.by_site).items():
            self._ci_fns[_key(name)] = GateFunction(function, instance)
        self.requires_grad_(False).eval()

    @classmethod
    def from_run_info(
        cls, run_info: SPDRunInfo, instance: int = 0, module: nn.Module | None = None
    ) -> "ComponentModel":
        """Instance ``instance`` of a run, at the step of ``run_info.checkpoint_path``.

        ``module``: the user's own module, where the run cannot make it again. Raises ``CannotLoad``.
        """
        return cls(load_located(run_info.located, module=module), instance)

    @classmethod
    def from_pretrained(
        cls, path: str | Path, instance: int = 0, module: nn.Module | None = None
    ) -> "ComponentModel":
        """As ``from_run_info``, from whatever ``SPDRunInfo.from_path`` takes."""
        return cls.from_run_info(SPDRunInfo.from_path(path), instance, module)

    @property
    def components(self) -> dict[str, ComponentLayer]:
        """The components of every site, by its name."""
        return {name: self._components[_key(name)] for name in self.target_module_paths}  # pyright: ignore

    @property
    def ci_fns(self) -> dict[str, GateFunction]:
        """The causal importance function of every site, by its name; or the one of ``all_sites``.

        Raises ``MicrotomeError`` for a method without gates.
        """
        if not self._ci_fns:
            raise MicrotomeError(
                f"{self.config.method.upper()} components have no gates, so no causal importances;"
                " decompose with method: spd, or use the run's attributions"
            )
        names = [ALL_SITES] if ALL_SITES in self._ci_fns else self.target_module_paths
        return {name: self._ci_fns[_key(name)] for name in names}  # pyright: ignore

    @property
    def module_to_c(self) -> dict[str, int]:
        """Number of components at every site."""
        return {name: layer.C for name, layer in self.components.items()}

    def forward(
        self,
        x: Shaped[Tensor, "B *d"],
        cache_type: str = "none",
        mask_infos: Mapping[str, MaskInfo] | None = None,
        *,
        mode: str | None = None,
        module_names: Sequence[str] | None = None,
    ) -> Tensor | OutputWithCache:
        """The target's output; with ``mask_infos`` the sites named there run as their masked components.

        ``cache_type="input"`` also returns what reaches each site (at its last use), ``"component_acts"``
        each component's inner activation there. ``mode`` and ``module_names`` are the older way to ask for
        the same. Raises ``MicrotomeError`` for an unknown site or a mask of the wrong width.
        """
        if mode is not None:
            if mode not in _OLD_MODES:
                raise bad_value("mode", mode, "unknown", f"use {', '.join(_OLD_MODES)}")
            cache_type = _OLD_MODES[mode]
        if cache_type not in ("none", "input", "component_acts"):
            raise bad_value("cache_type", cache_type, "unknown", "use none, input or component_acts")
        masks = self._checked(mask_infos or {})
        wanted = set(self._checked_names(module_names))
        components, cache = self.components, {}

        def site(name: str, inputs: Tensor) -> Tensor:
            if name not in components:
                return self.target_model.site(name).apply(inputs.unsqueeze(0)).squeeze(0)
            layer = components[name]
            if cache_type != "none" and name in wanted:
                cache[name] = inputs if cache_type == "input" else layer.get_component_acts(inputs)
            return _run(layer, inputs, masks[name]) if name in masks else layer.target(inputs)

        output = self.target_model(x, site)
        return output if cache_type == "none" else OutputWithCache(output, cache)

    def calc_causal_importances(
        self,
        pre_weight_acts: Mapping[str, Shaped[Tensor, "*B"]],
        sampling: str = "continuous",
        detach_inputs: bool = False,
    ) -> CIOutputs:
        """Causal importances of the components at the sites whose inputs are given.

        ``sampling="binomial"`` jitters the gates under ``lower_leaky`` (``1.05 g - 0.05 u``, u uniform in
        [0, 1)), as the later SPD code does. ``detach_inputs`` cuts the gradient to the inputs.
        """
        if sampling not in ("continuous", "binomial"):
            raise bad_value("sampling", sampling, "unknown", "use continuous or binomial")
        out = CIOutputs({}, {}, {})
        lower, upper = sigmoid_pair(self.sigmoid_type)
        for name, gate in self._gates(pre_weight_acts, detach_inputs).items():
            jittered = 1.05 * gate - 0.05 * torch.rand_like(gate) if sampling == "binomial" else gate
            out.pre_sigmoid[name] = gate
            out.lower_leaky[name], out.upper_leaky[name] = lower(jittered), upper(gate)
        return out

    def _gates(self, acts: Mapping[str, Tensor], detach: bool) -> dict[str, Tensor]:
        names, functions = self._checked_names(list(acts)), self.ci_fns
        if ALL_SITES in functions:
            missing = [name for name in self.target_module_paths if name not in acts]
            if missing:
                raise bad_value(
                    "pre_weight_acts",
                    missing[0],
                    "missing: one function reads all sites",
                    "give every site's",
                )
            names = self.target_module_paths
        layers, by_site = (
            self.components,
            {n: functions[n].function() for n in functions if n in {*names, ALL_SITES}},
        )
        sites = {
            n: Site(n, layers[n].target_weight.mT.unsqueeze(0), None, None, layers[n].kind) for n in names
        }
        made = ImportanceFunctions(sites, {n: layers[n].C for n in names}, by_site)
        inner: dict[str, list[Tensor]] = {}
        if made.reads_inner:
            inner = {n: [_cut(layers[n].get_component_acts(acts[n]), detach).unsqueeze(0)] for n in names}
        found = made({n: [_cut(acts[n], detach).unsqueeze(0)] for n in names}, inner)
        return {name: calls[0].squeeze(0) for name, calls in found.items()}

    def calc_weight_deltas(self) -> dict[str, Float[Tensor, "d_out d_in"]]:
        """What the components leave out of every site's weight: the target's minus their sum."""
        return {name: layer.target_weight - layer.weight for name, layer in self.components.items()}

    def _checked_names(self, names: Sequence[str] | None) -> Sequence[str]:
        for name in names or ():
            if name not in self.target_module_paths:
                raise bad_value("site", name, "not decomposed", f"there are {self.target_module_paths}")
        return self.target_module_paths if names is None else names

    def _checked(self, masks: Mapping[str, MaskInfo]) -> Mapping[str, MaskInfo]:
        self._checked_names(list(masks))
        for name, info in masks.items():
            if info.component_mask.shape[-1] != self.module_to_c[name]:
                width = info.component_mask.shape[-1]
                raise bad_value(
                    "component_mask", width, f"wide, at {name}", f"give one of {self.module_to_c[name]}"
                )
        return masks


def _run(layer: ComponentLayer, x: Tensor, info: MaskInfo) -> Tensor:
    out = layer(x, info.component_mask)
    if info.weight_delta_and_mask is not None:
        delta, amount = info.weight_delta_and_mask
        out = out + layer.apply_weight(x, delta) * amount.unsqueeze(-1)
    if info.routing_mask is not None:
        out = torch.where(info.routing_mask.unsqueeze(-1), out, layer.target(x))
    return out


def _cut(x: Tensor, detach: bool) -> Tensor:
    return x.detach() if detach else x


def _key(site: str) -> str:
    """``nn.ModuleDict`` takes no dots."""
    return site.replace(".", "-")
