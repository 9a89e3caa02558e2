"""One decomposition as a plain ``nn.Module``: a target whose sites can be run component by component.

A ``Decomposition`` holds K of them along a leading axis; a ``ComponentModel`` is one of those, without the
axis, with the names and the orientation (``nn.Linear``: out first) that the SPD code's users know.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from microtome.core.errors import MicrotomeError, bad_value
from microtome.decomposition.causal_importance.sigmoids import sigmoid_pair
from microtome.decomposition.component_layers import ComponentLayer, GateFunction, OneInstance
from microtome.decomposition.config import DecompositionConfig
from microtome.decomposition.result import Decomposition, load_located
from microtome.decomposition.run_info import SPDRunInfo

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
            self._components[_key(name)] = ComponentLayer(left, right, site.weight[instance], bias)
            if name in decomposition.ci_fns:
                self._ci_fns[_key(name)] = GateFunction(decomposition.ci_fns[name], instance)
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
        """The causal importance function of every site, by its name.

        Raises ``MicrotomeError`` for a method without gates.
        """
        if not self._ci_fns:
            raise MicrotomeError(
                f"{self.config.method.upper()} components have no gates, so no causal importances;"
                " decompose with method: spd, or use the run's attributions"
            )
        return {name: self._ci_fns[_key(name)] for name in self.target_module_paths}  # pyright: ignore

    @property
    def module_to_c(self) -> dict[str, int]:
        """Number of components at every site."""
        return {name: layer.C for name, layer in self.components.items()}

    def forward(
        self,
        x: Float[Tensor, "B *d"],
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
        pre_weight_acts: Mapping[str, Float[Tensor, "*B d_in"]],
        sampling: str = "continuous",
        detach_inputs: bool = False,
    ) -> CIOutputs:
        """Causal importances of the components at the sites whose inputs are given.

        ``sampling="binomial"`` jitters the gates under ``lower_leaky`` (``1.05 g - 0.05 u``, u uniform in
        [0, 1)), as the later SPD code does. ``detach_inputs`` cuts the gradient to the inputs.
        """
        if sampling not in ("continuous", "binomial"):
            raise bad_value("sampling", sampling, "unknown", "use continuous or binomial")
        functions, out = self.ci_fns, CIOutputs({}, {}, {})
        lower, upper = sigmoid_pair(self.sigmoid_type)
        for name in self._checked_names(list(pre_weight_acts)):
            seen = pre_weight_acts[name]
            if functions[name].reads == "component_acts":
                seen = self.components[name].get_component_acts(seen)
            gate = functions[name](seen.detach() if detach_inputs else seen)
            jittered = 1.05 * gate - 0.05 * torch.rand_like(gate) if sampling == "binomial" else gate
            out.pre_sigmoid[name] = gate
            out.lower_leaky[name], out.upper_leaky[name] = lower(jittered), upper(gate)
        return out

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
        out = out + (x @ delta.mT) * amount.unsqueeze(-1)
    if info.routing_mask is not None:
        out = torch.where(info.routing_mask.unsqueeze(-1), out, layer.target(x))
    return out


def _key(site: str) -> str:
    """``nn.ModuleDict`` takes no dots."""
    return site.replace(".", "-")
