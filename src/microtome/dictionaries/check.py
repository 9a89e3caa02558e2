"""Whether a dictionary belongs to the activations it is given."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from microtome.core.errors import MicrotomeError
from microtome.dictionaries.dictionary import Dictionary
from microtome.dictionaries.stored import DictionaryFile

# Below this share of the variance a dictionary is taken for one of another site or model.
WORST = 0.2


def explained_variance(x: Float[Tensor, "N d"], x_hat: Float[Tensor, "N d"]) -> float:
    """``1 - sum |x - x_hat|^2 / sum |x - mean|^2`` over all rows; below 0 is worse than the mean."""
    x, x_hat = x.double(), x_hat.double()
    total = (x - x.mean(0)).square().sum()
    return float(1 - (x - x_hat).square().sum() / total)


@torch.no_grad()
def check_reconstruction(
    dictionary: Dictionary | DictionaryFile, x: Float[Tensor, "*B d"], worst: float | None = WORST
) -> float:
    """Explained variance of one batch of activations.

    Raises ``MicrotomeError`` when the width differs, or when it is below ``worst`` (None: never).
    """
    x = x.reshape(-1, x.shape[-1])
    explained = explained_variance(x, reconstruction(dictionary, x))
    if worst is not None and not explained >= worst:
        raise MicrotomeError(
            f"{_name(dictionary)}: explains {explained:.2f} of the variance of these activations, less than"
            f" {worst}; it belongs to another site, layer or model"
        )
    return explained


@torch.no_grad()
def fitting_site(
    dictionary: Dictionary | DictionaryFile, sites: Mapping[str, Float[Tensor, "*B d"]]
) -> tuple[str, dict[str, float]]:
    """The site whose activations the dictionary explains best, and the explained variance at each.

    Sites of another width count as minus infinity.
    """
    scores = {
        name: check_reconstruction(dictionary, x, worst=None)
        if x.shape[-1] == dictionary.config.d_in
        else float("-inf")
        for name, x in sites.items()
    }
    return max(scores, key=lambda name: scores[name]), scores


def reconstruction(dictionary: Dictionary | DictionaryFile, x: Float[Tensor, "N d"]) -> Float[Tensor, "N d"]:
    """``decode(encode(x))``."""
    if isinstance(dictionary, DictionaryFile):
        dictionary = dictionary.load(x.device)
    return dictionary(x)


def _name(dictionary: Dictionary | DictionaryFile) -> str:
    return str(dictionary.source) if isinstance(dictionary, DictionaryFile) else type(dictionary).__name__
