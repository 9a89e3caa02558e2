"""The components that carry induction in a decomposed toy, and what becomes of it without them."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from microtome.core.errors import MicrotomeError, bad_value
from microtome.core.seeds import generator
from microtome.data.induction import InductionSequences
from microtome.data.loading import data_from_spec
from microtome.decomposition.result import Decomposition
from microtome.decomposition.site_masks import SiteMask
from microtome.targets.induction import InductionTransformer
from microtome.training.induction_measures import accuracy_where

_ROWS = 256
Chosen = Mapping[str, Bool[Tensor, " C"]]


@dataclass(frozen=True)
class InductionCircuit:
    """The chosen components of every site, and all components' mean importance where induction needs them."""

    components: dict[str, list[int]]
    importance: dict[str, Float[Tensor, " C"]]

    @property
    def size(self) -> int:
        """The number of components."""
        return sum(len(found) for found in self.components.values())


@dataclass(frozen=True)
class InductionAblation:
    """Accuracies where what comes next has been seen, 0 to 1; random sets have as many components a site.

    ``removed``: the target less the components; ``only``: nothing but them. ``others``: random sets of
    components outside the circuit (fewer where a site has not enough), ``anywhere``: of all.
    """

    target: float
    all_components: float
    causal_importance: float
    removed: float
    only: float
    others_removed: tuple[float, ...]
    others_only: tuple[float, ...]
    anywhere_removed: tuple[float, ...]
    anywhere_only: tuple[float, ...]
    chance: float


def find_circuit(
    d: Decomposition, threshold: float = 0.1, instance: int = 0, seed: int = 0
) -> InductionCircuit:
    """The components whose mean causal importance is above ``threshold`` where an induction head needs them.

    At positions that a later one looks back to (right after an earlier occurrence of its token): the
    previous-token head, all sites of the layers before the last, and the last layer's keys and values. At the
    positions that look back: the last layer's queries and outputs. Raises ``MicrotomeError`` for the
    decomposition of something else.
    """
    target, data = _toy(d)
    x = data.batch(_ROWS, generator(seed, data.device, "circuit"))
    seen, source = data.predictable(x)[0], _looked_at(x[0])
    last = len(target.blocks) - 1
    importance = {
        site: ci[seen if site in _looking(last) else source].mean(0)
        for site, ci in _importances(d, x, instance).items()
    }
    found = {site: (mean > threshold).nonzero().flatten().tolist() for site, mean in importance.items()}
    if not any(found.values()):
        raise bad_value("threshold", threshold, "no component matters that much", "use a smaller one")
    return InductionCircuit(found, importance)


def ablate_circuit(
    d: Decomposition, circuit: InductionCircuit, n_random: int = 20, instance: int = 0, seed: int = 1
) -> InductionAblation:
    """Induction without the circuit and with nothing else, against random sets, on fresh sequences."""
    _, data = _toy(d)
    x = data.batch(_ROWS, generator(seed, data.device, "ablation"))
    expanded = x.expand(d.n_instances, -1, -1)
    counts = {site: left.shape[1] for site, (left, _) in d.factors.items()}
    draws = generator(seed, "cpu", "random sets")

    def accuracy(weights: Mapping[str, Tensor], delta: float) -> float:
        masks = {site: [_mask(weight, expanded, delta)] for site, weight in weights.items()}
        with torch.no_grad():
            output = d.masked_network.run(expanded, d.joined, masks)
        return float(accuracy_where(output[instance, None], x, data))

    def without(chosen: Chosen) -> float:
        return accuracy({site: 1.0 - kept.float() for site, kept in chosen.items()}, 1.0)

    def alone(chosen: Chosen) -> float:
        return accuracy({site: kept.float() for site, kept in chosen.items()}, 0.0)

    chosen = {site: _members(circuit.components[site], c) for site, c in counts.items()}
    everything = {site: torch.ones_like(kept) for site, kept in chosen.items()}
    outside = {site: ~kept for site, kept in chosen.items()}
    others = [_random(chosen, outside, draws) for _ in range(n_random)]
    anywhere = [_random(chosen, everything, draws) for _ in range(n_random)]
    rows = _importances(d, x, instance)
    return InductionAblation(
        target=float(accuracy_where(d.target(expanded)[instance, None], x, data)),
        all_components=alone(everything),
        causal_importance=accuracy({site: ci.flatten(0, 1) for site, ci in rows.items()}, 0.0),
        removed=without(chosen),
        only=alone(chosen),
        others_removed=tuple(map(without, others)),
        others_only=tuple(map(alone, others)),
        anywhere_removed=tuple(map(without, anywhere)),
        anywhere_only=tuple(map(alone, anywhere)),
        chance=1.0 / data.vocab_size,
    )


def _toy(d: Decomposition) -> tuple[InductionTransformer, InductionSequences]:
    data = data_from_spec(d.data) if d.data is not None else None
    if not isinstance(d.target, InductionTransformer) or not isinstance(data, InductionSequences):
        raise MicrotomeError(
            f"{d.name}: decomposes no induction toy; make one that does with `microtome decompose induction`"
        )
    return d.target, data


def _looking(last: int) -> tuple[str, ...]:
    """The sites that are needed where a head looks from."""
    return f"blocks.{last}.attn.q_proj", f"blocks.{last}.attn.out_proj", "unembed"


def _looked_at(x: Int[Tensor, "B T"]) -> Bool[Tensor, "B T"]:
    """Positions right after an occurrence of a token that comes again later."""
    later = torch.ones(x.shape[-1], x.shape[-1], dtype=torch.bool, device=x.device).tril(-1)
    again = ((x.unsqueeze(-1) == x.unsqueeze(-2)) & later).any(-2)
    return torch.cat([torch.zeros_like(again[:, :1]), again[:, :-1]], -1)


def _importances(
    d: Decomposition, x: Int[Tensor, "1 B T"], instance: int
) -> dict[str, Float[Tensor, "B T C"]]:
    with torch.no_grad():
        found = d.causal_importances(x.expand(d.n_instances, -1, -1))
    if found is None:
        raise MicrotomeError(f"{d.name}: has no causal importances; give an SPD run")
    return {site: ci.lower[instance].unflatten(0, tuple(x.shape[1:])) for site, ci in found.items()}


def _mask(weight: Tensor, x: Int[Tensor, "K B T"], delta: float) -> SiteMask:
    """``weight [C]`` or ``[B * T, C]`` at every position."""
    wide = weight.expand(*x.shape, -1) if weight.ndim == 1 else weight.reshape(1, *x.shape[1:], -1)
    return SiteMask(wide.expand(*x.shape, -1), torch.full(x.shape, delta, device=x.device))


def _members(numbers: list[int], count: int) -> Bool[Tensor, " C"]:
    kept = torch.zeros(count, dtype=torch.bool)
    kept[numbers] = True
    return kept


def _random(chosen: Chosen, pool: Chosen, draws: torch.Generator) -> dict[str, Bool[Tensor, " C"]]:
    """As many components of each site as are chosen, out of the pool, or all of the pool."""
    found = {}
    for site, kept in chosen.items():
        free = pool[site].nonzero().flatten()
        order = torch.randperm(len(free), generator=draws)[: int(kept.sum())]
        found[site] = _members(free[order].tolist(), len(kept))
    return found
