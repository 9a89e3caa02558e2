"""Neuron contributions and virtual weights of a residual MLP (APD paper, section 3.2 and appendix)."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from microtome.measures.arrays import Array, to_numpy


def neuron_contributions(
    embed: Float[Array, "n_features d_embed"],
    w_in: Float[Array, "d_embed d_mlp"],
    w_out: Float[Array, "d_mlp d_embed"],
    unembed: Float[Array, "d_embed n_features"],
) -> Float[np.ndarray, "n_features d_mlp"]:
    """``(W_E W_in)[i, k] * (W_out W_U)[k, i]``: how much neuron k carries feature i from input to output.

    Source: APD paper, eq. of figure 6 (neuron contributions).
    """
    read = to_numpy(embed) @ to_numpy(w_in)
    write = to_numpy(w_out) @ to_numpy(unembed)
    return read * write.T


def component_neuron_contributions(
    embed: Float[Array, "n_features d_embed"],
    w_in: Float[Array, "C d_embed d_mlp"],
    w_out: Float[Array, "d_mlp d_embed"] | Float[Array, "C d_mlp d_embed"],
    unembed: Float[Array, "d_embed n_features"],
) -> Float[np.ndarray, "C n_features d_mlp"]:
    """Neuron contributions of each component.

    With one ``w_out`` for all (SPD: the sum of the output components) only the input side is taken
    apart; with one per component (APD) both sides belong to component c.
    """
    read = np.einsum("ne,cem->cnm", to_numpy(embed), to_numpy(w_in))
    write = to_numpy(w_out) @ to_numpy(unembed)
    return read * np.swapaxes(write, -1, -2)


@dataclass(frozen=True)
class BestContributions:
    """For each feature the contributions of the component that contributes most in total."""

    values: Float[np.ndarray, "n_features d_mlp"]
    component: Int[np.ndarray, " n_features"]


def best_component_contributions(
    contributions: Float[Array, "C n_features d_mlp"], by: Literal["sum", "largest"] = "sum"
) -> BestContributions:
    """Per feature the component with the largest ``sum`` over neurons, or the ``largest`` single neuron.

    The APD paper's figure names components by the sum, the SPD paper's by the largest neuron.
    """
    values = to_numpy(contributions)
    strength = values.sum(axis=-1) if by == "sum" else values.max(axis=-1)
    best = strength.argmax(axis=0)
    return BestContributions(values[best, np.arange(values.shape[1])], best)


@dataclass(frozen=True)
class VirtualWeights:
    """Weights between features and neurons, seen through the embedding.

    ``read [n_features, d_mlp]`` = W_E W_in, ``write [d_mlp, n_features]`` = W_out W_U,
    ``through [n_features, n_features]`` = read @ write, ``direct`` = W_E W_U.
    """

    read: Float[np.ndarray, "n_features d_mlp"]
    write: Float[np.ndarray, "d_mlp n_features"]
    through: Float[np.ndarray, "n_features n_features"]
    direct: Float[np.ndarray, "n_features n_features"]


def virtual_weights(
    embed: Float[Array, "n_features d_embed"],
    w_in: Float[Array, "d_embed d_mlp"],
    w_out: Float[Array, "d_mlp d_embed"],
    unembed: Float[Array, "d_embed n_features"],
) -> VirtualWeights:
    """Products of the embedding and the MLP weights of one layer, nonlinearity left out."""
    embed_, unembed_ = to_numpy(embed), to_numpy(unembed)
    read = embed_ @ to_numpy(w_in)
    write = to_numpy(w_out) @ unembed_
    return VirtualWeights(read=read, write=write, through=read @ write, direct=embed_ @ unembed_)
