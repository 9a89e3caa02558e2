"""Causal-scrubbing test: do the components that are not responsible matter? (APD paper, section 3.2)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Masks = Mapping[str, Float[Tensor, "*B C"]]
MaskedForward = Callable[[dict[str, Tensor]], Float[Tensor, "*B d_out"]]


@dataclass(frozen=True)
class ScrubbedLosses:
    """Mean squared error per input, against the target's output."""

    active: Float[Tensor, " *B"]
    scrubbed: Float[Tensor, " *B"]
    anti_scrubbed: Float[Tensor, " *B"]


def scrubbed_mask(
    active: Bool[Tensor, "*B C"], keep: Bool[Tensor, "*B C"]
) -> tuple[Float[Tensor, "*B C"], Float[Tensor, "*B C"]]:
    """Masks of a scrubbed and an anti-scrubbed run, from the responsible components and a coin per component.

    Scrubbed: all responsible components and those others whose coin says keep.
    Anti-scrubbed: the same others, no responsible component.
    """
    return (keep | active).float(), (keep & ~active).float()


def scrubbed_losses(
    forward: MaskedForward,
    target_output: Float[Tensor, "*B d_out"],
    active: Mapping[str, Bool[Tensor, "*B C"]],
    generator: torch.Generator,
    keep_probability: float = 0.5,
    plain: Masks | None = None,
) -> ScrubbedLosses:
    """Squared errors (mean over outputs) with the responsible components, scrubbed and anti-scrubbed.

    ``forward(masks)`` runs the decomposed network on a fixed batch, ``active[site]`` tells which
    components are responsible for each input (top-k attribution, or causal importance above a
    threshold). Half of the other components is ablated at random in both runs; the responsible ones are
    spared in the scrubbed run and ablated too in the anti-scrubbed run (APD paper, figures 7 and 8). Sites
    that share one mask (components that span all sites) share their coins too. ``plain``: the masks of the
    first run, where that is not the responsible components with weight one.
    """
    scrubbed, anti_scrubbed = coin_masks(active, generator, keep_probability)
    whole = {site: responsible.float() for site, responsible in active.items()} if plain is None else plain
    return ScrubbedLosses(
        active=_squared_error(forward(dict(whole)), target_output),
        scrubbed=_squared_error(forward(scrubbed), target_output),
        anti_scrubbed=_squared_error(forward(anti_scrubbed), target_output),
    )


def coin_masks(
    active: Mapping[str, Bool[Tensor, "*B C"]], generator: torch.Generator, keep_probability: float = 0.5
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Scrubbed and anti-scrubbed masks of every site; one and the same mask tensor gets one set of coins."""
    tossed: dict[int, tuple[Tensor, Tensor]] = {}
    for responsible in active.values():
        if id(responsible) not in tossed:
            coins = torch.rand(responsible.shape, generator=generator, device=responsible.device)
            tossed[id(responsible)] = scrubbed_mask(responsible, coins < keep_probability)
    return (
        {site: tossed[id(mask)][0] for site, mask in active.items()},
        {site: tossed[id(mask)][1] for site, mask in active.items()},
    )


def _squared_error(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().mean(dim=-1)
