"""The training's own losses, on the evaluation's inputs."""

from collections.abc import Mapping

import torch

from microtome.decomposition.config import DecompositionConfig
from microtome.decomposition.evaluation.seen import Seen
from microtome.decomposition.evaluation.series import Series
from microtome.decomposition.loss_configs import AnyLoss, PersistentPGDRecon, labelled
from microtome.decomposition.losses.registry import loss_function


class Losses:
    """``loss/<label>`` for every loss that was trained on or that the configuration's metrics name.

    Persistent adversaries live in training and are left out.
    """

    def __init__(self, losses: Mapping[str, AnyLoss], config: DecompositionConfig) -> None:
        named = [metric for metric in getattr(config, "metrics", ()) if isinstance(metric, AnyLoss)]
        trained = [_without_weight(loss) for loss in losses.values()]
        every = labelled([*trained, *(one for one in map(_without_weight, named) if one not in trained)])
        self.losses = {label: one for label, one in every.items() if not isinstance(one, PersistentPGDRecon)}
        self.series: dict[str, Series] = {f"loss/{label}": Series() for label in self.losses}

    @torch.no_grad()
    def update(self, seen: Seen) -> None:
        """One more batch."""
        for label, loss in self.losses.items():
            total = seen.step.zeros()
            for part in loss_function(loss)(seen.step, loss, {}):
                total = total + part.detach()
            self.series[f"loss/{label}"].add(total)


def _without_weight(loss: AnyLoss) -> AnyLoss:
    """A loss as it is measured: two that differ in their weight in the training are one."""
    return loss.model_copy(update={"coeff": None})
