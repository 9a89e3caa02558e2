"""The output under the masks that hurt it most."""

import torch

from microtome.decomposition.adversary.ascent import ascend
from microtome.decomposition.adversary.attack import attack_on
from microtome.decomposition.adversary.sources import fresh_sources, masks_of
from microtome.decomposition.evaluation.recon import under_masks
from microtome.decomposition.evaluation.seen import Seen
from microtome.decomposition.evaluation.series import Series
from microtome.decomposition.loss_configs import PGDRecon
from microtome.decomposition.site_masks import Masks
from microtome.decomposition.step import Step

SCOPES = {"shared_across_batch": "pgd", "unique_per_datapoint": "pgd_per_input"}


class Adversarial:
    """Errors under the worst masks between the causal importances and 1 that sign ascent finds.

    ``<measure>/pgd``: one set of sources for the whole batch; ``<measure>/pgd_per_input``: a set for each
    input. Source: PGDReconLoss of the later SPD code.
    """

    def __init__(self, attacks: tuple[PGDRecon, ...]) -> None:
        self.attacks = attacks
        self.series: dict[str, Series] = {}

    def update(self, seen: Seen) -> None:
        """One more batch."""
        for attack in self.attacks:
            masks = worst_masks(seen.step, attack)
            with torch.no_grad():
                found = under_masks(seen, masks)
            for measure, value in found.items():
                self.series.setdefault(f"{measure}/{SCOPES[attack.mask_scope]}", Series()).add(value)


def worst_masks(step: Step, attack: PGDRecon) -> Masks:
    """The masks at all sites with the largest error that the ascent met."""
    routes = dict.fromkeys(step.network.sites)
    start = fresh_sources(step, list(routes), attack.init, attack.mask_scope)
    shared = attack.mask_scope == "shared_across_batch"
    sources = ascend(attack_on(step, routes), start, attack.step_size, attack.n_steps, shared=shared)
    return masks_of(step, sources, routes)
