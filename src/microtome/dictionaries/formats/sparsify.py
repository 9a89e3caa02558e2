"""Folders of EleutherAI's sparsify: ``layers.{i}.mlp/cfg.json`` and ``sae.safetensors``.

Encoding subtracts ``b_dec`` always (whatever ``normalize_decoder`` says), keeps the k largest, or the largest
of each group. BatchTopK and Matryoshka dictionaries are written as TopK of the same k, which is how sparsify
then encodes with them; their threshold and prefixes stand in ``microtome.json``.
"""

import json
from pathlib import Path
from typing import Any

import torch

from microtome.core.atomic import write_text
from microtome.core.errors import CannotLoad
from microtome.core.tensor_files import write_safetensors
from microtome.dictionaries.config import DictionaryConfig
from microtome.dictionaries.dictionary import Dictionary
from microtome.dictionaries.formats.conversion import cannot_hold, common_threshold, shifted
from microtome.dictionaries.formats.own import read_own, write_own
from microtome.dictionaries.formats.places import place_of, read_json, whole_number
from microtome.dictionaries.stored import DictionaryFile
from microtome.dictionaries.weights import FeatureRows, SafetensorsWeights

FORMAT = "sparsify"
WEIGHTS = "sae.safetensors"


def open_sparsify(folder: Path) -> DictionaryFile:
    """Open one folder. Raises ``CannotLoad``; transcoders are refused."""
    path = folder / "cfg.json"
    cfg = read_json(path)
    weights = SafetensorsWeights(folder / WEIGHTS)
    if cfg.get("transcode") or cfg.get("skip_connection") or weights.shape("W_skip") is not None:
        raise CannotLoad(
            f"{folder}: a transcoder (it predicts a module's output from its input), not a dictionary of one"
            " site's activations; transcoders cannot be used here"
        )
    config, vectors = _config(folder, cfg)
    return DictionaryFile(
        config,
        FORMAT,
        weights.path,
        FeatureRows(weights, "encoder.weight"),
        FeatureRows(weights, "W_dec"),
        weights.vector("b_dec"),
        {"b_enc": weights.vector("encoder.bias"), **vectors},
    )


def _config(folder: Path, cfg: dict[str, Any]) -> tuple[DictionaryConfig, dict[str, Any]]:
    path = folder / "cfg.json"
    own = read_own(folder)
    d_in = whole_number(path, cfg, "d_in")
    latents = int(cfg.get("num_latents") or 0) or d_in * whole_number(path, cfg, "expansion_factor")
    site, layer = place_of(folder.name)
    if own is not None:
        config, more = own
        if config.site is None:
            config = config.model_copy(update={"site": site, "layer": layer, "hook": folder.name})
        vectors = {}
        if config.architecture in ("batch_topk", "matryoshka"):
            threshold = float(more.get("threshold") or 0.0)
            vectors["threshold"] = torch.full((config.n_features,), threshold)
        return config, vectors
    activation = cfg.get("activation", "topk")
    if activation not in ("topk", "groupmax"):
        raise CannotLoad(f"{path}: activation={activation!r} is neither topk nor groupmax; not read here")
    whole_run = folder.parent / "config.json"
    model = read_json(whole_run).get("model") if whole_run.is_file() else None
    config = DictionaryConfig(
        architecture=activation,
        d_in=d_in,
        n_features=latents,
        k=whole_number(path, cfg, "k"),
        site=site,
        layer=layer,
        hook=folder.name,
        model_name=model if isinstance(model, str) else None,
    )
    return config, {}


def save_sparsify(dictionary: Dictionary, folder: str | Path) -> Path:
    """Write ``cfg.json`` and ``sae.safetensors``. Raises ``MicrotomeError`` for what sparsify has not."""
    folder, c = Path(folder), dictionary.config
    if c.architecture in ("relu", "gated", "jumprelu") or c.normalisation != "none" or c.k is None:
        raise cannot_hold(FORMAT, c, "saelens")
    cfg = {
        "activation": "groupmax" if c.architecture == "groupmax" else "topk",
        "expansion_factor": max(c.n_features // c.d_in, 1),
        "normalize_decoder": True,
        "num_latents": c.n_features,
        "k": c.k,
        "multi_topk": False,
        "skip_connection": False,
        "transcode": False,
        "d_in": c.d_in,
    }
    more = {}
    if c.architecture in ("batch_topk", "matryoshka"):
        more["threshold"] = common_threshold(dictionary, FORMAT, "saelens")
    tensors = {
        "encoder.weight": dictionary.W_enc.detach(),
        "encoder.bias": shifted(dictionary, subtract=True)["b_enc"],
        "W_dec": dictionary.W_dec.detach(),
        "b_dec": dictionary.b_dec.detach(),
    }
    write_safetensors(folder / WEIGHTS, tensors, {})
    write_text(folder / "cfg.json", json.dumps(cfg))
    write_own(folder, c.model_copy(update={"subtract_b_dec": True}), **more)
    return folder
