"""Folders of EleutherAI's sparsify: ``layers.{i}.mlp/cfg.json`` and ``sae.safetensors``."""

import json
from pathlib import Path

from microtome.core.errors import CannotLoad, MicrotomeError
from microtome.core.tensor_files import write_safetensors
from microtome.dictionaries.config import DictionaryConfig
from microtome.dictionaries.dictionary import Dictionary
from microtome.dictionaries.formats.places import place_of, read_json, whole_number
from microtome.dictionaries.stored import DictionaryFile
from microtome.dictionaries.weights import FeatureRows, SafetensorsWeights

FORMAT = "sparsify"


def is_sparsify(folder: Path) -> bool:
    """Whether a folder holds a sparsify dictionary."""
    return (folder / "sae.safetensors").is_file()


def open_sparsify(folder: Path) -> DictionaryFile:
    """Open one folder. Raises ``CannotLoad``; transcoders are refused."""
    cfg = read_json(folder / "cfg.json")
    if cfg.get("transcode") or cfg.get("skip_connection"):
        raise CannotLoad(
            f"{folder}: a transcoder (it predicts a module's output from its input), not a dictionary of one"
            " site's activations; transcoders cannot be used here"
        )
    weights = SafetensorsWeights(folder / "sae.safetensors")
    d_in = whole_number(folder / "cfg.json", cfg, "d_in")
    shape = weights.shape("encoder.weight")
    latents = int(cfg.get("num_latents") or 0) or d_in * int(cfg.get("expansion_factor") or 32)
    site, layer = place_of(folder.name)
    config = DictionaryConfig(
        architecture="groupmax" if cfg.get("activation") == "groupmax" else "topk",
        d_in=d_in,
        n_features=shape[0] if shape else latents,
        k=whole_number(folder / "cfg.json", cfg, "k"),
        site=site,
        layer=layer,
        hook=folder.name,
        model_name=cfg.get("model_name"),
    )
    return DictionaryFile(
        config,
        FORMAT,
        weights.path,
        FeatureRows(weights, "encoder.weight"),
        FeatureRows(weights, "W_dec"),
        weights.read("b_dec"),
        {"b_enc": weights.read("encoder.bias")},
    )


def save_sparsify(dictionary: Dictionary, folder: str | Path) -> Path:
    """Write ``cfg.json`` and ``sae.safetensors``. Raises ``MicrotomeError`` for what sparsify has not."""
    folder, c = Path(folder), dictionary.config
    if c.architecture not in ("topk", "groupmax"):
        raise MicrotomeError(
            f"format='sparsify': sparsify has no {c.architecture} dictionaries; use --format saelens"
        )
    cfg = {
        "activation": c.architecture,
        "expansion_factor": max(c.n_features // c.d_in, 1),
        "normalize_decoder": True,
        "num_latents": c.n_features,
        "k": c.k,
        "multi_topk": False,
        "skip_connection": False,
        "transcode": False,
        "d_in": c.d_in,
    }
    tensors = {
        "encoder.weight": dictionary.W_enc,
        "encoder.bias": dictionary.b_enc,
        "W_dec": dictionary.W_dec,
        "b_dec": dictionary.b_dec,
    }
    write_safetensors(folder / "sae.safetensors", {n: t.detach() for n, t in tensors.items()}, {})
    (folder / "cfg.json").write_text(json.dumps(cfg), encoding="utf-8")
    return folder
