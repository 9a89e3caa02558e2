"""What all dictionaries share: projection, decoding, and the normalisation of single inputs."""

from collections.abc import Callable
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from microtome.core.errors import MicrotomeError, bad_value
from microtome.dictionaries.config import DictionaryConfig

Scaled = tuple[Tensor, Tensor | None, Tensor | None]


class Dictionary(nn.Module):
    """A sparse autoencoder: ``f = encode(x) [*B, F]``, ``x_hat = f @ W_dec + b_dec``.

    ``W_enc`` and ``W_dec`` are both ``[F, d]``: one row a feature. Subclasses say which vectors of one number
    a feature they have (``vectors``) and what they make of the projection onto ``W_enc`` (``candidates``,
    feature by feature, never below 0) before some of it is kept (``keep``).
    """

    vectors: ClassVar[tuple[str, ...]] = ("b_enc",)
    # (projection [*B, n], vectors of these n features) -> [*B, n]
    candidates: ClassVar[Callable[..., Tensor]]

    def __init__(self, config: DictionaryConfig) -> None:
        super().__init__()
        self.config = config
        f, d = config.n_features, config.d_in
        self.W_enc = nn.Parameter(torch.zeros(f, d))
        self.W_dec = nn.Parameter(torch.zeros(f, d))
        self.b_dec = nn.Parameter(torch.zeros(d))
        for name in self.vectors:
            setattr(self, name, nn.Parameter(torch.zeros(f)))

    def encode(self, x: Float[Tensor, "*B d"]) -> Float[Tensor, "*B F"]:
        """Features of the activations ``x``. Raises ``MicrotomeError`` when their width is another."""
        return self.keep(self.candidates(self.project(x), *(getattr(self, name) for name in self.vectors)))

    def project(self, x: Float[Tensor, "*B d"]) -> Float[Tensor, "*B F"]:
        """``x @ W_enc.T``, after normalisation and, where the architecture does so, less ``b_dec``."""
        check_width(x, self.config)
        scaled, _, _ = normalised(x.to(self.W_enc.dtype), self.config)
        if self.config.subtract_b_dec:
            scaled = scaled - self.b_dec
        return scaled @ self.W_enc.T

    def keep(self, values: Float[Tensor, "*B F"]) -> Float[Tensor, "*B F"]:
        """Which of the candidate values stay; the others become 0. All of them, unless overridden."""
        return values

    def decode(
        self, f: Float[Tensor, "*B F"], like: Float[Tensor, "*B d"] | None = None
    ) -> Float[Tensor, "*B d"]:
        """``f @ W_dec + b_dec``, in the units of the activations.

        Where every single input is normalised, that is undone with the mean and scale of ``like``, the
        input that was encoded.
        """
        x_hat = f.to(self.W_dec.dtype) @ self.W_dec + self.b_dec
        if self.config.normalisation == "none":
            return x_hat
        if like is None:
            raise MicrotomeError(
                f"decode: this dictionary normalises every input ({self.config.normalisation});"
                " give the input that was encoded as `like`"
            )
        _, mean, scale = normalised(like.to(self.W_dec.dtype), self.config)
        x_hat = x_hat if scale is None else x_hat * scale
        return x_hat if mean is None else x_hat + mean

    def forward(self, x: Float[Tensor, "*B d"]) -> Float[Tensor, "*B d"]:
        """The reconstruction of ``x``."""
        return self.decode(self.encode(x), like=x)


def normalised(x: Float[Tensor, "*B d"], config: DictionaryConfig) -> Scaled:
    """Inputs as the encoder sees them, and the mean and scale ``[*B, 1]`` that undo it (None: nothing)."""
    if config.normalisation == "layer_norm":
        mean = x.mean(-1, keepdim=True)
        centred = x - mean
        scale = centred.std(-1, keepdim=True)
        return centred / (scale + config.layer_norm_eps), mean, scale
    if config.normalisation == "constant_norm":
        scale = x.norm(dim=-1, keepdim=True) / config.d_in**0.5
        return x / scale, None, scale
    return x, None, None


def check_width(x: Tensor, config: DictionaryConfig) -> None:
    """Raise ``MicrotomeError`` unless the last dimension of ``x`` is ``d_in``."""
    if x.shape[-1] != config.d_in:
        made_for = f" of {config.model_name}" if config.model_name else ""
        raise bad_value(
            "d_in",
            config.d_in,
            f"the activations are {x.shape[-1]} wide",
            f"this dictionary was made for another model or site{made_for}",
        )
