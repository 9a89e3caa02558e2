"""Do the components that were not chosen matter? (APD paper, figures 7 and 8)."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from microtome.decomposition.interpret.labels import monosemantic
from microtome.decomposition.interpret.selection import no_masks, own_masks, per_sample_masks, responsible
from microtome.decomposition.interpret.subject import Subject
from microtome.measures.scrubbing import coin_masks, scrubbed_losses

KEEP = 0.5
ABLATIONS = 100


def scrubbing(s: Subject) -> dict[str, np.ndarray]:
    """Squared errors against the target's output for every input, ``[K, B]``, nan where no feature is on.

    ``active``: as ``own_masks`` say. ``scrubbed``: all ``responsible`` components and a random half of the
    others. ``anti_scrubbed``: that half without the responsible ones. ``zero``: an output of 0 throughout.
    Toy models also have ``monosemantic``.
    """
    x = s.inputs("scrubbing")
    wanted = s.target(x)
    found = scrubbed_losses(
        lambda masks: s.decomposed(x, masks),
        wanted,
        responsible(s, x),
        s.draws("scrubbing coins"),
        KEEP,
        plain=own_masks(s, x),
    )
    losses = {"active": found.active, "scrubbed": found.scrubbed, "anti_scrubbed": found.anti_scrubbed}
    losses["zero"] = wanted.square().mean(dim=-1)
    if s.labels is not None and s.toy is not None:
        losses["monosemantic"] = (monosemantic(s.d, x, s.labels) - wanted).square().mean(dim=-1)
    on = (x != 0).flatten(2).any(dim=-1)
    return {
        name: _nan_unless(loss.flatten(2).mean(-1) if loss.ndim > 2 else loss, on)
        for name, loss in losses.items()
    }


def _nan_unless(loss: Float[Tensor, "K B"], on: Tensor) -> np.ndarray:
    return torch.where(on, loss, torch.full_like(loss, torch.nan)).cpu().numpy()


def ablated_responses(s: Subject, features: list[int]) -> dict[str, np.ndarray]:
    """What each layer stack adds to the output for one feature at 1, under random ablations.

    ``direct`` (every component off) is taken away from all. ``target [K, F, n]``; mean and standard deviation
    over 100 random halves of the components, with the responsible ones kept (``scrubbed``) and removed
    (``anti_scrubbed``). Source: APD paper, figure 7 (``feature_response_with_subnets``).
    """
    x = s.one_hot()[:, features]
    direct = s.decomposed(x, no_masks(s, x))
    arrays = {"features": np.array(features), "target": (s.target(x) - direct).cpu().numpy()}
    repeated = x.repeat_interleave(ABLATIONS, dim=1)
    found = responsible(s, x)
    wide = {id(mask): mask.repeat_interleave(ABLATIONS, dim=1) for mask in found.values()}
    active = {name: wide[id(mask)] for name, mask in found.items()}
    kept, removed = coin_masks(active, s.draws("ablations"), KEEP)
    base = direct.repeat_interleave(ABLATIONS, dim=1)
    for name, masks in (("scrubbed", kept), ("anti_scrubbed", removed)):
        added = s.decomposed(repeated, masks) - base
        grouped = added.reshape(*added.shape[:1], len(features), ABLATIONS, added.shape[-1])
        arrays[f"{name}_mean"] = grouped.mean(dim=2).cpu().numpy()
        arrays[f"{name}_sd"] = grouped.std(dim=2).cpu().numpy()
    chosen = s.decomposed(x, per_sample_masks(s, x, 1)) - direct
    return {**arrays, "chosen": chosen.cpu().numpy()}
