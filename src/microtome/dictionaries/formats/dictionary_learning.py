"""Folders of saprmarks' dictionary_learning: ``ae.pt`` and ``config.json``.

``AutoEncoder`` is told in units of decoder length 1, which is how its own loader reads it; ``mlp_out`` in
these folders is what the MLP module gives out, before any norm.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from microtome.core.atomic import write_text
from microtome.core.errors import CannotLoad
from microtome.core.tensor_files import write_torch
from microtome.dictionaries.config import DictionaryConfig, Site
from microtome.dictionaries.dictionary import Dictionary
from microtome.dictionaries.formats.conversion import cannot_hold, common_threshold, shifted
from microtome.dictionaries.formats.own import placed, write_own
from microtome.dictionaries.formats.places import layer_of, place_of, read_json
from microtome.dictionaries.stored import DictionaryFile
from microtome.dictionaries.weights import FeatureRows, TensorWeights, read_pickled, row_norms

FORMAT = "dictionary_learning"
WEIGHTS = "ae.pt"

# Class -> (architecture, whether b_dec is subtracted, name of b_dec, names of the vectors).
_LINEAR = {"b_enc": "encoder.bias"}
_OWN = {"b_enc": "b_enc", "threshold": "threshold"}
CLASSES: dict[str, tuple[str, bool, str, dict[str, str]]] = {
    "AutoEncoder": ("relu", True, "bias", _LINEAR),
    "AutoEncoderNew": ("relu", False, "decoder.bias", _LINEAR),
    "GatedAutoEncoder": (
        "gated",
        True,
        "decoder_bias",
        {"b_gate": "gate_bias", "r_mag": "r_mag", "b_mag": "mag_bias"},
    ),
    "AutoEncoderTopK": ("topk", True, "b_dec", _LINEAR),
    "BatchTopKSAE": ("batch_topk", True, "b_dec", {**_LINEAR, "threshold": "threshold"}),
    "MatryoshkaBatchTopKSAE": ("matryoshka", True, "b_dec", _OWN),
    "JumpReluAutoEncoder": ("jumprelu", False, "b_dec", _OWN),
}


def open_dictionary_learning(folder: Path) -> DictionaryFile:
    """Open one folder. Raises ``CannotLoad``."""
    path = folder / "config.json"
    trainer = read_json(path).get("trainer")
    trainer = trainer if isinstance(trainer, dict) else {}
    name = str(trainer.get("dict_class"))
    if name not in CLASSES:
        raise CannotLoad(f"{path}: dict_class={name!r} is not read here; these are: {', '.join(CLASSES)}")
    architecture, subtract, b_dec, names = CLASSES[name]
    weights = TensorWeights(read_pickled(folder / WEIGHTS), folder / WEIGHTS)
    linear = weights.shape("encoder.weight") is not None
    encoder = FeatureRows(weights, "encoder.weight" if linear else "W_enc", transposed=not linear)
    decoder = FeatureRows(weights, "decoder.weight" if linear else "W_dec", transposed=linear)
    shape = encoder.shape()
    if shape is None or len(shape) != 2:
        raise CannotLoad(f"{folder / WEIGHTS}: no encoder.weight and no W_enc; not a {name}")
    config = _config(folder, trainer, shape, weights, architecture, subtract)
    vectors = {ours: weights.vector(theirs).float() for ours, theirs in names.items()}
    if "threshold" in vectors:
        vectors["threshold"] = vectors["threshold"].expand(shape[0])
    if name == "AutoEncoder":
        norm = row_norms(decoder, shape[0])
        if not torch.allclose(norm, torch.ones_like(norm)):
            encoder, decoder = encoder.times(norm), decoder.times(1 / norm)
            vectors["b_enc"] = vectors["b_enc"] * norm
    return DictionaryFile(
        placed(config, folder), FORMAT, weights.path, encoder, decoder, weights.vector(b_dec), vectors
    )


def _config(
    folder: Path,
    trainer: dict[str, Any],
    shape: tuple[int, ...],
    weights: TensorWeights,
    architecture: str,
    subtract: bool,
) -> DictionaryConfig:
    hook = trainer.get("submodule_name") or folder_hook(folder)
    layer = trainer.get("layer")
    k = trainer.get("k")
    if k is None and weights.shape("k") == ():
        k = int(weights.vector("k"))
    sizes = weights.vector("group_sizes").cumsum(0).tolist() if weights.shape("group_sizes") else []
    return DictionaryConfig.from_mapping(
        {
            "architecture": architecture,
            "d_in": shape[1],
            "n_features": shape[0],
            "k": k,
            "subtract_b_dec": subtract,
            "prefixes": sizes if architecture == "matryoshka" else [],
            "site": _site(str(hook)) if hook else None,
            "layer": layer if isinstance(layer, int) else layer_of(str(hook or "")),
            "hook": hook,
            "model_name": trainer.get("lm_name"),
        },
        source=str(folder / "config.json"),
    )


def folder_hook(folder: Path) -> str | None:
    """The part of the path that names the site, such as ``mlp_out_layer_3``."""
    parts = [part for part in folder.parts[-3:] if re.search(r"(mlp|resid|attn)\w*layer", part)]
    return parts[-1] if parts else None


def _site(hook: str) -> Site | None:
    return "mlp" if "mlp_out" in hook else place_of(hook)[0]


@torch.no_grad()
def save_dictionary_learning(dictionary: Dictionary, folder: str | Path) -> Path:
    """Write a folder that ``load_dictionary`` reads. Raises ``MicrotomeError`` where it has no class."""
    folder, c = Path(folder), dictionary.config
    if c.architecture not in _WRITERS or c.normalisation != "none":
        raise cannot_hold(FORMAT, c, "sparsify" if c.architecture == "groupmax" else "saelens")
    name, tensors = _WRITERS[c.architecture](dictionary)
    sites = {"mlp": "mlp_out", "mlp_out": "post_norm_mlp_out", "resid": "resid_post"}
    hook = f"{sites[c.site]}_layer_{c.layer}" if c.site is not None else c.hook
    trainer = {
        "dict_class": name,
        "activation_dim": c.d_in,
        "dict_size": c.n_features,
        "k": c.k,
        "layer": c.layer,
        "lm_name": c.model_name,
        "submodule_name": hook,
    }
    write_torch(folder / WEIGHTS, tensors)
    write_text(folder / "config.json", json.dumps({"trainer": trainer, "buffer": {}}, indent=2))
    write_own(folder, c.model_copy(update={"subtract_b_dec": CLASSES[name][1]}))
    return folder


Written = tuple[str, dict[str, Tensor]]


def _relu(dictionary: Dictionary) -> Written:
    # Told in units of decoder length 1, as their loader would make it.
    b_enc, norm = shifted(dictionary, subtract=True)["b_enc"], torch.norm(dictionary.W_dec, dim=1)
    return "AutoEncoder", {
        "bias": dictionary.b_dec,
        "encoder.weight": dictionary.W_enc * norm[:, None],
        "encoder.bias": b_enc * norm,
        "decoder.weight": (dictionary.W_dec / norm[:, None]).T,
    }


def _gated(dictionary: Dictionary) -> Written:
    v = shifted(dictionary, subtract=True)
    return "GatedAutoEncoder", {
        "decoder_bias": dictionary.b_dec,
        "r_mag": v["r_mag"],
        "gate_bias": v["b_gate"],
        "mag_bias": v["b_mag"],
        "encoder.weight": dictionary.W_enc,
        "decoder.weight": dictionary.W_dec.T,
    }


def _counted(dictionary: Dictionary) -> Written:
    assert dictionary.config.k is not None
    topk = dictionary.config.architecture == "topk"
    threshold = -1.0 if topk else common_threshold(dictionary, FORMAT, "saelens")
    return "AutoEncoderTopK" if topk else "BatchTopKSAE", {
        "b_dec": dictionary.b_dec,
        "k": torch.tensor(dictionary.config.k, dtype=torch.int),
        "threshold": torch.tensor(threshold),
        "encoder.weight": dictionary.W_enc,
        "encoder.bias": shifted(dictionary, subtract=True)["b_enc"],
        "decoder.weight": dictionary.W_dec.T,
    }


def _matryoshka(dictionary: Dictionary) -> Written:
    c = dictionary.config
    prefixes = torch.tensor([0, *(c.prefixes or (c.n_features,))])
    return "MatryoshkaBatchTopKSAE", {
        "W_enc": dictionary.W_enc.T,
        "b_enc": shifted(dictionary, subtract=True)["b_enc"],
        "W_dec": dictionary.W_dec,
        "b_dec": dictionary.b_dec,
        "k": torch.tensor(c.k or 1, dtype=torch.int),
        "threshold": torch.tensor(common_threshold(dictionary, FORMAT, "saelens")),
        "group_sizes": prefixes.diff(),
    }


def _jumprelu(dictionary: Dictionary) -> Written:
    v = shifted(dictionary, subtract=False)
    return "JumpReluAutoEncoder", {
        "W_enc": dictionary.W_enc.T,
        "W_dec": dictionary.W_dec,
        "b_dec": dictionary.b_dec,
        **v,
    }


_WRITERS: dict[str, Callable[[Dictionary], Written]] = {
    "relu": _relu,
    "gated": _gated,
    "topk": _counted,
    "batch_topk": _counted,
    "matryoshka": _matryoshka,
    "jumprelu": _jumprelu,
}
