"""Which components are on for an input: by causal importance (SPD) or by top-k attribution (APD)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from microtome.decomposition.apd_config import APDConfig
from microtome.decomposition.attribution.topk import exact_counts, topk_mask
from microtome.decomposition.interpret.attributions import attribution_scores
from microtome.decomposition.interpret.subject import Masks, Subject
from microtome.decomposition.masks import stochastic_mask


def scores(s: Subject, x: Float[Tensor, "K B d"]) -> Float[Tensor, "K B C"]:
    """APD's attributions of a batch."""
    return attribution_scores(s.d, x, max(16, s.rows_at_once // 4))


def importances(s: Subject, x: Float[Tensor, "K B *d"]) -> Masks:
    """SPD's causal importances (lower leaky) of every site, ``[K, B, C]`` each."""
    parts = []
    for part in x.split(s.rows_at_once, dim=1):
        found = s.d.causal_importances(part)
        assert found is not None
        parts.append({name: ci.lower for name, ci in found.items()})
    return {name: torch.cat([part[name] for part in parts], dim=1) for name in parts[0]}


def own_masks(s: Subject, x: Float[Tensor, "K B *d"]) -> Masks:
    """The components that the method itself turns on.

    SPD: weighed by causal importance. APD: its top-k over batches of the size it was trained with (without
    a topk: as many as features are on); every site has the same mask.
    """
    if s.d.method == "spd":
        return importances(s, x)
    return _everywhere(s, torch.cat([_batch_topk(s, part) for part in x.split(_batch(s), dim=1)], dim=1))


def per_sample_masks(s: Subject, x: Float[Tensor, "K B d"], count: int) -> Masks:
    """APD: the ``count`` components of largest attribution for each input. SPD: causal importances."""
    if s.d.method == "spd":
        return importances(s, x)
    distil = _config(s).distil_from_target
    most = s.d.factors[next(iter(s.d.sites))][0].shape[1] - int(distil)
    return _everywhere(s, topk_mask(scores(s, x), float(min(count, most)), False, distil))


def responsible(s: Subject, x: Float[Tensor, "K B *d"]) -> dict[str, Bool[Tensor, "K B C"]]:
    """The components that answer for an input; all others should not matter.

    SPD: causal importance above ``ci_threshold``. APD on a toy model: for every feature that is on, the
    component with the largest attribution when that feature is alone (original APD code); otherwise top-k.
    """
    if s.d.method == "spd":
        return {name: ci > s.config.ci_threshold for name, ci in importances(s, x).items()}
    if s.toy is None:
        return {name: mask.bool() for name, mask in own_masks(s, x).items()}
    mapped = torch.nn.functional.one_hot(feature_components(s), _n_components(s)).float()
    mask = torch.bmm((x != 0).float(), mapped) > 0
    if _config(s).distil_from_target:
        mask[..., -1] = True
    return dict.fromkeys(s.d.sites, mask)


def feature_components(s: Subject) -> Tensor:
    """APD: the component of largest attribution when feature i is on alone, ``[K, n]``."""
    found = scores(s, s.one_hot())
    if _config(s).distil_from_target:
        found = found[..., :-1]
    return found.argmax(dim=-1)


def stochastic_masks(s: Subject, x: Float[Tensor, "K B *d"], stream: str) -> Masks:
    """SPD: causal importances with everything above them drawn at random, as in training."""
    draws = s.draws(f"masks {stream}")
    return {
        name: stochastic_mask(ci, torch.rand(ci.shape, generator=draws, device=ci.device))
        for name, ci in importances(s, x).items()
    }


def no_masks(s: Subject, x: Float[Tensor, "K B *d"]) -> Masks:
    """Every component off."""
    return {
        name: x.new_zeros(x.shape[0], x.shape[1], left.shape[1]) for name, (left, _) in s.d.factors.items()
    }


def _config(s: Subject) -> APDConfig:
    assert isinstance(s.d.config, APDConfig)
    return s.d.config


def _n_components(s: Subject) -> int:
    return next(iter(s.d.factors.values()))[0].shape[1]


def _batch(s: Subject) -> int:
    return max(_config(s).batch_size, 1)


def _batch_topk(s: Subject, x: Float[Tensor, "K B d"]) -> Bool[Tensor, "K B C"]:
    config = _config(s)
    topk = s.config.topk or config.topk
    counts = exact_counts(x) if topk is None or (config.exact_topk and s.config.topk is None) else None
    return topk_mask(scores(s, x), topk or 1.0, config.batch_topk, config.distil_from_target, counts)


def _everywhere(s: Subject, mask: Bool[Tensor, "K B C"]) -> Masks:
    return dict.fromkeys(s.d.sites, mask.float())
