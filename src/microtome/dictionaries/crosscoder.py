"""Cross-coders: one dictionary of the activations of several models on the same inputs.

Lindsey et al. 2024 (transformer-circuits.pub, "Sparse crosscoders for cross-layer features and model
diffing"): a feature has one activation and a decoder vector for every model. How long the vectors are says
whose feature it is. With TopK instead of an L1 penalty, which makes shared features look like one model's
(Minder et al. 2025, arXiv 2504.02922).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from microtome.core.errors import MicrotomeError
from microtome.dictionaries.dictionary import Dictionary
from microtome.dictionaries.together import fit_together
from microtome.dictionaries.train_config import DictionaryTraining


@dataclass(frozen=True)
class CrossCoder:
    """A dictionary of the models' activations side by side, each times a ``scale`` of its own.

    The scales give every model the same variance, so that none is explained at the cost of another.
    """

    dictionary: Dictionary
    widths: dict[str, int]
    scales: dict[str, float]

    def encode(self, activations: Mapping[str, Float[Tensor, "n _"]]) -> Float[Tensor, "n F"]:
        """The features of the same inputs in all models."""
        return self.dictionary.encode(side_by_side(activations, self.scales))

    def decode(self, f: Float[Tensor, "n F"]) -> dict[str, Tensor]:
        """What the features say each model's activations are."""
        parts = self.dictionary.decode(f).split(list(self.widths.values()), dim=-1)
        return {name: part / self.scales[name] for name, part in zip(self.widths, parts, strict=True)}

    def decoder_norms(self) -> Float[Tensor, "models F"]:
        """Length of every feature's decoder vector in each model, in the scaled units."""
        parts = self.dictionary.W_dec.detach().split(list(self.widths.values()), dim=1)
        return torch.stack([part.norm(dim=1) for part in parts])

    def norm_ratio(self) -> Float[Tensor, " F"]:
        """``|second| / (|first| + |second|)`` of two models: 0 is the first's alone, 1 the second's."""
        norms = self.decoder_norms()
        if len(norms) != 2:
            raise MicrotomeError(f"models={len(norms)}: the ratio of decoder norms is of two models")
        return norms[1] / norms.sum(0).clamp_min(1e-12)


def side_by_side(
    activations: Mapping[str, Float[Tensor, "n _"]], scales: Mapping[str, float]
) -> Float[Tensor, "n d"]:
    """All models' activations in one row an input, scaled. Raises ``MicrotomeError`` for unequal rows."""
    missing = [name for name in scales if name not in activations]
    if missing:
        raise MicrotomeError(f"activations: none of {missing[0]}; give those of {', '.join(scales)}")
    if len({len(activations[name]) for name in scales}) > 1:
        raise MicrotomeError("activations: models with unequal numbers of rows; give the same inputs to all")
    return torch.cat([activations[name].float() * scale for name, scale in scales.items()], 1)


def fit_crosscoders(
    pairs: Sequence[Mapping[str, Float[Tensor, "n _"]]],
    training: DictionaryTraining,
    seeds: Sequence[int],
) -> list[CrossCoder]:
    """One cross-coder on each mapping of model to activations ``[n, d]``, all of the same widths.

    Raises ``MicrotomeError`` for unequal rows, and ``Diverged``.
    """
    scales = [{name: _scale(x) for name, x in pair.items()} for pair in pairs]
    rows = [side_by_side(pair, scale) for pair, scale in zip(pairs, scales, strict=True)]
    trained = fit_together(rows, training, seeds)
    return [
        CrossCoder(dictionary, {name: x.shape[1] for name, x in pair.items()}, scale)
        for dictionary, pair, scale in zip(trained.dictionaries, pairs, scales, strict=True)
    ]


def _scale(x: Tensor) -> float:
    variance = float((x.float() - x.float().mean(0)).square().sum(1).mean())
    return (x.shape[1] / variance) ** 0.5 if variance > 0 else 1.0
