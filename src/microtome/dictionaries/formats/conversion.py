"""Rewriting a dictionary in the terms of another library, without changing what it computes."""

import torch
from torch import Tensor

from microtome.core.errors import MicrotomeError
from microtome.dictionaries.config import DictionaryConfig
from microtome.dictionaries.dictionary import Dictionary


@torch.no_grad()
def shifted(dictionary: Dictionary, subtract: bool) -> dict[str, Tensor]:
    """The vectors of a dictionary that does (or does not) subtract ``b_dec`` before it encodes.

    ``W (x - b_dec) + b`` is ``W x + (b - W b_dec)``: only the biases change.
    """
    vectors = {name: getattr(dictionary, name).detach().clone() for name in dictionary.vectors}
    if dictionary.config.subtract_b_dec == subtract:
        return vectors
    move = torch.mv(dictionary.W_enc, dictionary.b_dec)
    move = move if subtract else -move
    if "b_enc" in vectors:
        vectors["b_enc"] += move
    else:
        vectors["b_gate"] += move
        vectors["b_mag"] += move * vectors["r_mag"].exp()
    return vectors


def common_threshold(dictionary: Dictionary, format: str, better: str) -> float:
    """The one threshold of all features. Raises ``MicrotomeError`` when they have several."""
    threshold = dictionary.get_parameter("threshold").detach()
    if bool((threshold == threshold[0]).all()):
        return float(threshold[0])
    raise MicrotomeError(
        f"format={format!r}: holds one threshold, this dictionary has one for every feature;"
        f" use --format {better}"
    )


def cannot_hold(format: str, config: DictionaryConfig, better: str) -> MicrotomeError:
    """The error for a dictionary that a format has no place for."""
    what = config.architecture
    if config.normalisation != "none":
        what += f" with {config.normalisation} inputs"
    return MicrotomeError(f"format={format!r}: cannot hold a {what} dictionary; use --format {better}")
