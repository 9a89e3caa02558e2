"""The target as the decomposition runs it: sites exchange terms, so that wide axes can be folded away."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from microtome.core.errors import bad_value
from microtome.decomposition.streams import Products, Stream, Term, multiply_terms
from microtome.targets.network import Site, Target, times
from microtome.targets.resid_mlp import ResidMLP

SiteInput = Tensor | Stream
# (site name, its input) -> terms whose sum is the site's output without bias
SiteTerms = Callable[[str, SiteInput], list[Term]]


def project(x: SiteInput, matrix: Tensor) -> list[Term]:
    """Terms of ``x @ matrix``, the leading axes of a tensor flattened into rows."""
    if isinstance(x, Stream):
        return x.project_terms(matrix)
    if not x.is_floating_point():  # ids choose rows: the row itself is the term
        rows = times(x, matrix).flatten(1, -2)
        return [(rows, torch.eye(rows.shape[-1], device=rows.device).expand(len(rows), -1, -1))]
    return [(x.reshape(x.shape[0], -1, x.shape[-1]), matrix)]


def frozen_sites(target: Target) -> dict[str, Site]:
    """The target's sites without gradients: one tensor a weight, for as long as the network lives."""
    return {
        name: replace(
            site, weight=site.weight.detach(), bias=None if site.bias is None else site.bias.detach()
        )
        for name, site in target.sites().items()
    }


def chosen_sites(sites: Mapping[str, Site], patterns: Sequence[str]) -> dict[str, Site]:
    """The sites whose names match a pattern. Raises ``MicrotomeError`` listing those that exist."""
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in sites):
            raise bad_value(
                "target_module_patterns", pattern, "matches no site", f"sites: {', '.join(sites)}"
            )
    return {n: s for n, s in sites.items() if any(fnmatchcase(n, pattern) for pattern in patterns)}


class PlainNetwork:
    """Any target, through its own forward pass: every site's terms are multiplied out."""

    def __init__(self, target: Target, patterns: Sequence[str] = ("*",)) -> None:
        self.target = target
        self.all_sites = frozen_sites(target)
        self.sites = chosen_sites(self.all_sites, patterns)

    def begin_step(self) -> None:
        """Nothing to forget between steps."""

    def run(self, x: Tensor, site: SiteTerms) -> Tensor:
        """The output ``[K, N, ..., d_out]`` with every site replaced by ``site``."""

        def replaced(name: str, inputs: Tensor) -> Tensor:
            if name not in self.sites:
                return self.all_sites[name].apply(inputs)
            out = multiply_terms(site(name, inputs))
            bias = self.sites[name].bias
            if bias is not None:
                out = out + bias.unsqueeze(1)
            where = inputs.shape[:-1] if inputs.is_floating_point() else inputs.shape
            return out.reshape(*where, out.shape[-1])

        return self.target(x, replaced)


class FoldedResidMLP:
    """A ResidMLP whose residual stream stays a sum of terms; equal to its own forward pass."""

    def __init__(self, target: ResidMLP, patterns: Sequence[str] = ("*",)) -> None:
        self.target = target
        self.all_sites = frozen_sites(target)
        self.sites = chosen_sites(self.all_sites, patterns)
        k = target.n_instances
        self.embed = target.W_E.detach().expand(k, -1, -1)
        self.unembed = target.W_U.detach().expand(k, -1, -1)
        self._frozen = Products()
        self._multiply_frozen()
        self.products = Products(dict(self._frozen.known))

    def _multiply_frozen(self) -> None:
        """Products of frozen matrices never change: computed once, shared by every step."""
        readers = [s.weight for name, s in self.all_sites.items() if name.endswith("mlp_in")]
        writers = [s.weight for name, s in self.all_sites.items() if name.endswith("mlp_out")]
        for writer in [self.embed, *writers]:
            for reader in [*readers, self.unembed]:
                self._frozen.of(writer, reader)

    def begin_step(self) -> None:
        """Forget the products that hold the last step's parameters."""
        self.products = Products(dict(self._frozen.known))

    def run(self, x: Tensor, site: SiteTerms) -> Tensor:
        """The output ``[K, N, n_features]`` with every site replaced by ``site``."""
        target = self.target

        def terms(name: str, inputs: SiteInput) -> list[Term]:
            if name in self.sites:
                return site(name, inputs)
            return project(inputs, self.all_sites[name].weight)

        stream = Stream(((x, self.embed),), self.products)
        for index in range(len(target.layers)):
            name = f"layers.{index}.mlp_in"
            neurons = self._sum(x, terms(name, stream))
            bias = self.all_sites[name].bias
            neurons = target.act_fn(neurons if bias is None else neurons + bias.unsqueeze(1))
            name = f"layers.{index}.mlp_out"
            stream = stream.plus(terms(name, neurons))
            bias = self.all_sites[name].bias
            if bias is not None:
                stream = stream.plus([(x.new_ones(*x.shape[:2], 1), bias.unsqueeze(1))])
        out = self._sum(x, stream.project_terms(self.unembed))
        return target.act_fn(out) if target.config.apply_output_act_fn else out

    def _sum(self, x: Tensor, terms: list[Term]) -> Tensor:
        """The terms multiplied out; what the input alone gives is the same in every pass of a step."""
        start, rest = None, []
        for coefficients, matrix in terms:
            if coefficients is x and not matrix.requires_grad:
                part = self.products.of_rows(x, matrix)
                start = part if start is None else start + part
            else:
                rest.append((coefficients, matrix))
        return multiply_terms(rest, start)


Network = PlainNetwork | FoldedResidMLP


def network_of(target: Target, patterns: Sequence[str] = ("*",)) -> Network:
    """The fastest exact way to run ``target`` again and again with the matching sites replaced."""
    kind = FoldedResidMLP if isinstance(target, ResidMLP) else PlainNetwork
    return kind(target, patterns)  # pyright: ignore[reportArgumentType]


def site_inputs(network: Network, x: Tensor) -> tuple[Tensor, dict[str, list[SiteInput]]]:
    """The target's output and what reaches each site (one entry a call, where a site runs more than once)."""
    seen: dict[str, list[SiteInput]] = {name: [] for name in network.sites}

    def site(name: str, inputs: SiteInput) -> list[Term]:
        seen[name].append(inputs)
        return project(inputs, network.sites[name].weight)

    with torch.no_grad():
        out = network.run(x, site)
    return out, seen
