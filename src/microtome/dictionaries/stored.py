"""A dictionary in a file: its matrices are read in blocks of features, when they are wanted."""

from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from microtome.core.errors import CannotLoad
from microtome.dictionaries.active import block_active
from microtome.dictionaries.architectures import ARCHITECTURES, new_dictionary
from microtome.dictionaries.config import DictionaryConfig
from microtome.dictionaries.dictionary import Dictionary, check_width, normalised
from microtome.dictionaries.weights import BLOCK, FeatureRows


class DictionaryFile:
    """A dictionary that was opened but not loaded.

    ``config``: architecture, widths, site, layer, model. ``format``: what wrote it. ``source``: the file of
    its weights. Everything is in the units of the activations: factors that the writer applied to all inputs
    alike are folded into the rows that come out.
    """

    def __init__(
        self,
        config: DictionaryConfig,
        format: str,
        source: Path,
        encoder: FeatureRows,
        decoder: FeatureRows,
        b_dec: Tensor,
        vectors: Mapping[str, Tensor],
    ) -> None:
        self.config, self.format, self.source = config, format, source
        self.encoder, self.decoder = encoder, decoder
        self.b_dec = b_dec.float()
        self.vectors = {name: value.float() for name, value in vectors.items()}
        self._check()

    def __repr__(self) -> str:
        c = self.config
        widths = f"{c.d_in} -> {c.n_features}"
        return f"DictionaryFile({c.architecture}, {widths}, {self.format}, {str(self.source)!r})"

    def decoder_rows(self, a: int, b: int, dtype: torch.dtype = torch.float32) -> Float[Tensor, "n d"]:
        """Rows ``a`` to ``b`` of the decoder: the direction that each feature adds per unit."""
        return self.decoder.rows(a, min(b, self.config.n_features), dtype)

    def encoder_rows(self, a: int, b: int, dtype: torch.dtype = torch.float32) -> Float[Tensor, "n d"]:
        """Rows ``a`` to ``b`` of the encoder, one a feature."""
        return self.encoder.rows(a, min(b, self.config.n_features), dtype)

    def load(self, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> Dictionary:
        """The whole dictionary as a module, frozen."""
        dictionary = new_dictionary(self.config)
        n = self.config.n_features
        with torch.no_grad():
            for start in range(0, n, BLOCK):
                stop = min(start + BLOCK, n)
                dictionary.W_enc[start:stop] = self.encoder_rows(start, stop)
                dictionary.W_dec[start:stop] = self.decoder_rows(start, stop)
            dictionary.b_dec.copy_(self.b_dec)
            for name, value in self.vectors.items():
                getattr(dictionary, name).copy_(value)
        return dictionary.requires_grad_(False).to(device=device, dtype=dtype).eval()

    def active(
        self, x: Float[Tensor, "N d"], block: int = BLOCK, dtype: torch.dtype = torch.float32
    ) -> tuple[Float[Tensor, "N m"], Int[Tensor, "N m"]]:
        """The features that act on every row of ``x``: their values and their numbers.

        ``m`` is the most that act on one row; rows with fewer are padded with value 0 at feature 0. The
        encoder is read in blocks of features and ``[N, F]`` never exists; ``dtype`` is that of the
        projection (bfloat16 halves its time).
        """
        check_width(x, self.config)
        scaled, _, _ = normalised(x.float(), self.config)
        if self.config.subtract_b_dec:
            scaled = scaled - self.b_dec.to(x.device)
        kind = ARCHITECTURES[self.config.architecture]
        vectors = [self.vectors[name].to(x.device) for name in kind.vectors]
        return block_active(
            scaled,
            lambda a, b: self.encoder_rows(a, b, dtype).to(x.device),
            lambda projection, a, b: kind.candidates(projection, *(v[a:b] for v in vectors)),
            self.config,
            block,
        )

    def _check(self) -> None:
        wanted = (self.config.n_features, self.config.d_in)
        for what, rows in (("encoder", self.encoder), ("decoder", self.decoder)):
            shape = rows.shape()
            if shape is None:
                raise CannotLoad(f"{self.source}: no {rows.name} in it ({what}); the file is not complete")
            if shape != wanted:
                raise CannotLoad(
                    f"{self.source}: {rows.name} ({what}) is {shape}, expected {wanted} (features, width);"
                    " the weights do not belong to the configuration beside them"
                )
        sizes = {"b_dec": (self.b_dec, self.config.d_in)}
        sizes |= {name: (value, self.config.n_features) for name, value in self.vectors.items()}
        for name, (value, size) in sizes.items():
            if tuple(value.shape) != (size,):
                raise CannotLoad(f"{self.source}: {name} has shape {tuple(value.shape)}, expected ({size},)")
