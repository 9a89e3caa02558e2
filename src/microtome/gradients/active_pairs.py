"""Where which features of a dictionary act, and what they make together."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from microtome.dictionaries.config import DictionaryConfig
from microtome.dictionaries.dictionary import check_width, normalised

BLOCK = 8192  # decoder rows, and pairs, at a time
ENTRIES = 2**22  # projections onto encoder rows that stand in memory at a time: 16 MB in fp32


@runtime_checkable
class FeatureSource(Protocol):
    """What is asked of a dictionary here; `dictionaries.stored.DictionaryFile` is one."""

    @property
    def config(self) -> DictionaryConfig:
        """Its architecture and widths."""
        ...

    @property
    def b_dec(self) -> Tensor:
        """What is added to every reconstruction, ``[d]``."""
        ...

    def decoder_rows(self, a: int, b: int) -> Tensor:
        """Rows ``a`` to ``b`` of the decoder, ``[b - a, d]``."""
        ...

    def active(self, x: Tensor, *, block: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Values and numbers ``[N, m]`` of the features that act on each row, padded with value 0."""
        ...


@dataclass(frozen=True)
class ActivePairs:
    """The P (position, feature) pairs where a feature acts, in the order of features, with its values."""

    row: Int[Tensor, " P"]
    feature: Int[Tensor, " P"]
    value: Float[Tensor, " P"]

    def between(self, start: int, stop: int) -> slice:
        """The pairs of features ``start`` up to ``stop``."""
        ends = torch.tensor([start, stop], device=self.feature.device)
        return slice(*torch.searchsorted(self.feature, ends).tolist())


def active_pairs(
    dictionary: FeatureSource, x: Float[Tensor, "N d"], dtype: torch.dtype = torch.float32
) -> ActivePairs:
    """Where which features act on ``x``; the encoder's products are in ``dtype``."""
    block = max(ENTRIES // max(len(x), 1), 256) if x.device.type == "cpu" else BLOCK
    values, indices = dictionary.active(x, block=block, dtype=dtype)
    row, column = (values != 0).nonzero(as_tuple=True)
    feature, value = indices[row, column], values[row, column]
    order = torch.argsort(feature, stable=True)
    return ActivePairs(row[order], feature[order], value[order])


@torch.no_grad()
def reconstruct(dictionary: FeatureSource, x: Float[Tensor, "N d"]) -> Float[Tensor, "N d"]:
    """What the dictionary makes of ``x``, encoder and decoder read block by block."""
    check_width(x, dictionary.config)
    pairs = active_pairs(dictionary, x)
    _, mean, scale = normalised(x.float(), dictionary.config)
    x_hat = dictionary.b_dec.to(x.device).expand(x.shape).float().clone()
    for start in range(0, dictionary.config.n_features, BLOCK):
        stop = min(start + BLOCK, dictionary.config.n_features)
        here = pairs.between(start, stop)
        if here.start == here.stop:
            continue
        decoder = dictionary.decoder_rows(start, stop).to(x.device)
        for part in torch.arange(here.start, here.stop, device=x.device).split(BLOCK):
            directions = decoder[pairs.feature[part] - start] * pairs.value[part, None]
            x_hat.index_add_(0, pairs.row[part], directions.to(x_hat))
    x_hat = x_hat if scale is None else x_hat * scale
    return (x_hat if mean is None else x_hat + mean).to(x.dtype)
