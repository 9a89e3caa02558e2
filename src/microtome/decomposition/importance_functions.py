"""The causal importance functions of a decomposition: one a site, or one that reads all sites at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from microtome.core.errors import MicrotomeError, bad_value
from microtome.decomposition.causal_importance.functions import (
    CausalImportanceFunction,
    Kind,
    functions_from,
)
from microtome.decomposition.causal_importance.initial import initial_layers
from microtome.decomposition.gates import init_gates
from microtome.decomposition.importance_config import ImportanceFunction
from microtome.targets.network import Site, times

ALL_SITES = "all_sites"
Calls = Mapping[str, Sequence[Tensor]]


@dataclass(frozen=True)
class ImportanceFunctions:
    """What reaches the sites ``->`` gates (before the sigmoid) of every subcomponent.

    ``by_site``: a function a site; or, with the single key ``all_sites``, one that reads the inputs of all
    sites beside each other (in the order of their names) and whose outputs are split in the same order.
    ``counts``: subcomponents of every site. An embedding's input is the row that it gives out.
    """

    sites: Mapping[str, Site]
    counts: Mapping[str, int]
    by_site: Mapping[str, CausalImportanceFunction]

    @classmethod
    def initial(
        cls,
        sites: Mapping[str, Site],
        counts: Mapping[str, int],
        wanted: ImportanceFunction,
        draws: Mapping[str, list[torch.Generator]],
    ) -> "ImportanceFunctions":
        """Untrained functions. ``draws``: a generator for every instance, by site (and ``all_sites``).

        Raises ``MicrotomeError`` for a global function of another kind than ``shared_mlp``.
        """
        kind: Kind = "linear" if wanted.kind == "mlp" and not wanted.hidden_dims else wanted.kind
        if wanted.mode == "global":
            if kind != "shared_mlp":
                raise bad_value("ci_fn_type", kind, "a global function is a shared_mlp", "use shared_mlp")
            width, c = sum(seen_width(site) for site in sites.values()), sum(counts.values())
            weights = initial_layers(kind, width, c, wanted.hidden_dims, draws[ALL_SITES])
            return cls(sites, counts, {ALL_SITES: CausalImportanceFunction(kind, weights)})
        functions: dict[str, CausalImportanceFunction] = {}
        for name, site in sites.items():
            if kind in ("mlp", "linear") and len(wanted.hidden_dims) < 2:
                gates = init_gates(
                    len(draws[name]), counts[name], sum(wanted.hidden_dims), draws[name]
                ).named(name)
                weights = {key.removeprefix(f"gates.{name}."): tensor for key, tensor in gates.items()}
            else:
                width = 1 if kind == "mlp" else seen_width(site)
                weights = initial_layers(kind, width, counts[name], wanted.hidden_dims, draws[name])
            functions[name] = CausalImportanceFunction(kind, weights)
        return cls(sites, counts, functions)

    @classmethod
    def from_parameters(
        cls, parameters: Mapping[str, Tensor], sites: Mapping[str, Site], counts: Mapping[str, int]
    ) -> "ImportanceFunctions":
        """The functions that a checkpoint's tensors ``gates.<site>.<name>`` make up."""
        if any(name.startswith(f"gates.{ALL_SITES}.") for name in parameters):
            return cls(sites, counts, functions_from(parameters, [ALL_SITES]))
        return cls(sites, counts, functions_from(parameters, sites))

    @property
    def is_global(self) -> bool:
        """Whether one function reads all sites."""
        return ALL_SITES in self.by_site

    @property
    def reads_inner(self) -> bool:
        """Whether they are functions of inner activations, and not of the sites' inputs."""
        return all(function.reads == "component_acts" for function in self.by_site.values())

    def named(self) -> dict[str, Tensor]:
        """Every tensor under the name that checkpoints use."""
        return {
            f"gates.{site}.{name}": tensor
            for site, function in self.by_site.items()
            for name, tensor in function.weights.items()
        }

    def __call__(self, inputs: Calls, inner: Calls | None = None) -> dict[str, list[Float[Tensor, "K *B C"]]]:
        """Gates of every call of every site.

        ``inputs``: what reaches each site. ``inner``: inner activations ``[K, *B, C]``, which only functions
        that read them need. Raises ``MicrotomeError`` where a global function's sites see different shapes.
        """
        if self.is_global:
            return self._together(inputs)
        gates: dict[str, list[Tensor]] = {}
        for name, function in self.by_site.items():
            if function.reads == "component_acts":
                assert inner is not None, name
                gates[name] = [_by_rows(function, h) for h in inner[name]]
            else:
                site = self.sites[name]
                gates[name] = [_by_rows(function, seen_by_function(site, x)) for x in inputs[name]]
        return gates

    def _together(self, inputs: Calls) -> dict[str, list[Tensor]]:
        order = sorted(self.sites)
        gates: dict[str, list[Tensor]] = {name: [] for name in self.sites}
        for call in range(self._calls(inputs)):
            seen = [seen_by_function(self.sites[name], inputs[name][call]) for name in order]
            shapes = {name: list(x.shape[1:-1]) for name, x in zip(order, seen, strict=True)}
            if len({tuple(shape) for shape in shapes.values()}) > 1:
                raise MicrotomeError(
                    f"ci_fn_mode=global: the sites' inputs have different rows and positions ({shapes});"
                    " use layerwise, or leave the odd ones out of the patterns"
                )
            out = _by_rows(self.by_site[ALL_SITES], torch.cat(seen, dim=-1))
            split = out.split([self.counts[name] for name in order], dim=-1)
            for name, gate in zip(order, split, strict=True):
                gates[name].append(gate)
        return gates

    def _calls(self, inputs: Calls) -> int:
        calls = {name: len(inputs[name]) for name in self.sites}
        if len(set(calls.values())) > 1:
            raise MicrotomeError(
                f"ci_fn_mode=global: the sites run different numbers of times ({calls}); use layerwise"
            )
        return next(iter(calls.values()))


def seen_width(site: Site) -> int:
    """Width of what a function that reads a site's input is given."""
    return site.weight.shape[-1] if site.kind == "embedding" else site.weight.shape[-2]


def seen_by_function(site: Site, x: Tensor) -> Float[Tensor, "K *B width"]:
    """What a function that reads a site's input is given: the input, or the row of an embedding."""
    return x if x.is_floating_point() else times(x, site.weight)


def _by_rows(function: Any, x: Float[Tensor, "K *B width"]) -> Float[Tensor, "K *B C"]:
    out = function(x.reshape(x.shape[0], -1, x.shape[-1]))
    return out.reshape(*x.shape[:-1], out.shape[-1])
