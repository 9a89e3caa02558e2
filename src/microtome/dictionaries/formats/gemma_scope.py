"""Gemma Scope: ``params.npz``, and ``params.safetensors`` with ``config.json`` of Gemma Scope 2.

JumpReLU with a threshold a feature; ``b_dec`` is not subtracted. The MLP dictionaries see what the block adds
to the residual stream, after Gemma's second norm: site ``mlp_out``. Site, layer and model are read from the
names of the folders above the file.
"""

import re
from pathlib import Path

from microtome.core.errors import CannotLoad
from microtome.dictionaries.config import DictionaryConfig, Site
from microtome.dictionaries.formats.npz import NpzWeights
from microtome.dictionaries.formats.places import layer_of
from microtome.dictionaries.stored import DictionaryFile
from microtome.dictionaries.weights import FeatureRows, SafetensorsWeights

FORMAT = "gemma_scope"
FILES = ("params.npz", "params.safetensors")


def open_gemma_scope(file: Path) -> DictionaryFile:
    """Open one file. Raises ``CannotLoad``; transcoders are refused."""
    where = "/".join(file.resolve().parts[-9:-1])
    weights = NpzWeights(file) if file.suffix == ".npz" else SafetensorsWeights(file)
    if "transcoder" in where or "clt" in where or weights.shape("affine_skip_connection") is not None:
        raise CannotLoad(f"{file}: a transcoder, not a dictionary of one site's activations; not used here")
    lower = weights.shape("W_enc") is None and weights.shape("w_enc") is not None
    w_enc, w_dec = ("w_enc", "w_dec") if lower else ("W_enc", "W_dec")
    shape = weights.shape(w_enc)
    if shape is None or len(shape) != 2:
        raise CannotLoad(f"{file}: no W_enc matrix in it; not a file of Gemma Scope")
    # The dictionaries of embeddings were trained on embeddings times sqrt(d).
    scale = shape[0] ** 0.5 if "embedding" in where else 1.0
    layer = re.search(r"layer_(\d+)", where)
    config = DictionaryConfig(
        architecture="jumprelu",
        d_in=shape[0],
        n_features=shape[1],
        subtract_b_dec=False,
        site=_site(where),
        layer=int(layer[1]) if layer else layer_of(file.parent.name),
        hook=where,
        model_name=_model(where),
    )
    return DictionaryFile(
        config,
        FORMAT,
        file,
        FeatureRows(weights, w_enc, transposed=True, scale=1 / scale),
        FeatureRows(weights, w_dec, scale=scale),
        weights.vector("b_dec"),
        {"b_enc": weights.vector("b_enc"), "threshold": weights.vector("threshold")},
    )


def _site(where: str) -> Site | None:
    if "embedding" in where or re.search(r"attn_out|-att(\b|_)", where):
        return None
    if re.search(r"mlp_out|-mlp(\b|_)", where):
        return "mlp_out"
    return "resid" if re.search(r"resid_post|-res(\b|_)", where) else None


def _model(where: str) -> str | None:
    found = re.search(r"gemma-scope-(2-)?(\d+[bm])-(pt|it)", where)
    if found is None:
        return None
    second, size, kind = found.groups()
    if second:
        return f"google/gemma-3-{size}-{kind}"
    return f"google/gemma-2-{size}" + ("-it" if kind == "it" else "")
