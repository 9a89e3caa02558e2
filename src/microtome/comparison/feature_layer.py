"""Dictionaries of one layer of several networks, paired feature by feature on the same images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from microtome.comparison.feature_matching import FeatureMatch, leave_out_means, match_features
from microtome.comparison.feature_training import LayerRows, TrainedDictionary
from microtome.core.seeds import generator


@dataclass(frozen=True)
class Pairing:
    """Features of two dictionaries on the same rows, matched, with each group of images left out in turn."""

    match: FeatureMatch
    left_out: np.ndarray


@dataclass(frozen=True)
class Layer:
    """Rows and dictionaries of one layer. ``again`` are second dictionaries; ``group`` is every row's."""

    label: str
    data: LayerRows
    own: dict[str, TrainedDictionary]
    again: dict[str, TrainedDictionary]
    group: torch.Tensor

    def pairing(self, x: TrainedDictionary, y: TrainedDictionary) -> Pairing:
        """Features of two dictionaries, matched."""
        match = match_features(x.features, y.features)
        n = int(self.group.max()) + 1
        return Pairing(match, leave_out_means(x.features, y.features, match, self.group, n))

    def shuffled(self, x: TrainedDictionary, y: TrainedDictionary, seed: int) -> float:
        """What matching gives when the rows of one side are in random order."""
        order = torch.randperm(len(y.features), generator=generator(seed, stream="shuffled"))
        return match_features(x.features, y.features[order]).mean


def mean_left(pairings: Sequence[Pairing]) -> np.ndarray:
    """The mean over pairings, for every group of images left out."""
    return np.mean([one.left_out for one in pairings], axis=0)
