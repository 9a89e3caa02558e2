"""What a trained Toy Model of Superposition represents."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from microtome.targets.tms import TMS

REPRESENTED_NORM = 0.5


def feature_norms(target: TMS) -> Float[Tensor, "K n_features"]:
    """Length of each feature's direction: the rows of ``linear1``."""
    return target.linear1.weight.detach().norm(dim=-1)


def represented_features(target: TMS) -> Int[Tensor, " K"]:
    """How many features have a direction longer than 0.5; learnt ones are near 1, the others near 0."""
    return (feature_norms(target) > REPRESENTED_NORM).sum(-1)


def found_polygon(target: TMS) -> Bool[Tensor, " K"]:
    """Whether every feature is represented; in two dimensions also spread evenly, angles within a quarter."""
    found = represented_features(target) == target.config.n_features
    if target.config.n_hidden != 2:
        return found
    weight = target.linear1.weight.detach()
    angles = torch.atan2(weight[..., 1], weight[..., 0]).sort(dim=-1).values
    gaps = torch.diff(angles, dim=-1, append=angles[:, :1] + 2 * math.pi)
    even = 2 * math.pi / target.config.n_features
    return found & ((gaps - even).abs() < even / 4).all(-1)


def interference(target: TMS) -> Float[Tensor, "K n_features n_features"]:
    """Cosines between the features' directions; zero for a feature without direction."""
    directions = torch.nn.functional.normalize(target.linear1.weight.detach(), dim=-1)
    return directions @ directions.transpose(1, 2)
