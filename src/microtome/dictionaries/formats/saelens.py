"""Folders of SAELens, before and after its version 6: ``cfg.json`` and ``sae_weights.safetensors``.

``W_enc`` is stored ``[d, F]``. ``expected_average_only_in`` is not applied when encoding (SAELens folds it
into the weights after training), and neither is it here.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from microtome.core.atomic import write_text
from microtome.core.errors import CannotLoad
from microtome.core.tensor_files import write_safetensors
from microtome.dictionaries.config import DictionaryConfig
from microtome.dictionaries.dictionary import Dictionary
from microtome.dictionaries.formats.conversion import cannot_hold
from microtome.dictionaries.formats.own import placed, write_own
from microtome.dictionaries.formats.places import place_of, read_json, whole_number
from microtome.dictionaries.stored import DictionaryFile
from microtome.dictionaries.weights import FeatureRows, SafetensorsWeights, row_norms

FORMAT = "saelens"
WEIGHTS = "sae_weights.safetensors"
VERSION = "6.0.0"  # of the configuration that is written

ARCHITECTURES = {
    "standard": "relu",
    "topk": "topk",
    "jumprelu": "jumprelu",
    "gated": "gated",
    "batchtopk": "batch_topk",
    "matryoshka_batchtopk": "matryoshka",
}
NORMALISATIONS = {
    "none": "none",
    "expected_average_only_in": "none",
    "layer_norm": "layer_norm",
    "constant_norm_rescale": "constant_norm",
}


def open_saelens(folder: Path) -> DictionaryFile:
    """Open one folder. Raises ``CannotLoad``; transcoders and the rarer architectures are refused."""
    cfg = read_json(folder / "cfg.json")
    weights = SafetensorsWeights(folder / WEIGHTS)
    config = _config(folder, cfg)
    encoder, decoder = FeatureRows(weights, "W_enc", transposed=True), FeatureRows(weights, "W_dec")
    vectors = _vectors(config, weights)
    config = placed(config, folder)
    norm = row_norms(decoder, config.n_features) if cfg.get("rescale_acts_by_decoder_norm") else None
    if norm is not None:
        # The norms count in the choice of the k largest, so features are told in units of decoder length 1.
        norm = norm.clamp_min(1e-8)
        encoder, decoder = encoder.times(norm), decoder.times(1 / norm)
        vectors["b_enc"] = vectors["b_enc"].float() * norm
    elif cfg.get("finetuning_scaling_factor"):
        name = next((n for n in ("scaling_factor", "finetuning_scaling_factor") if weights.shape(n)), None)
        decoder = decoder.times(weights.vector(name).float()) if name else decoder
    return DictionaryFile(config, FORMAT, weights.path, encoder, decoder, weights.vector("b_dec"), vectors)


def _config(folder: Path, cfg: dict[str, Any]) -> DictionaryConfig:
    path = folder / "cfg.json"
    metadata = cfg.get("metadata") if isinstance(cfg.get("metadata"), dict) else cfg.get("meta")
    about = {**cfg, **(metadata if isinstance(metadata, dict) else {})}
    architecture, k = _architecture(path, cfg)
    normalise = cfg.get("normalize_activations")
    if isinstance(normalise, bool) or normalise is None:
        normalise = "none"
    if normalise not in NORMALISATIONS:
        raise CannotLoad(
            f"{path}: normalize_activations={normalise!r} is not folded into the weights;"
            " save it after training"
        )
    hook = about.get("hook_name") or about.get("hook_point")
    site, layer = place_of(str(hook)) if hook else (None, None)
    if layer is None and isinstance(about.get("hook_layer"), int):
        layer = about["hook_layer"]
    return DictionaryConfig.from_mapping(
        {
            "architecture": architecture,
            "d_in": whole_number(path, cfg, "d_in"),
            "n_features": whole_number(path, cfg, "d_sae"),
            "k": k,
            "subtract_b_dec": bool(cfg.get("apply_b_dec_to_input", True)),
            "normalisation": NORMALISATIONS[normalise],
            "prefixes": _prefixes(cfg, architecture),
            "site": site,
            "layer": layer,
            "hook": hook,
            "model_name": about.get("model_name"),
        },
        source=str(path),
    )


def _architecture(path: Path, cfg: dict[str, Any]) -> tuple[str, int | None]:
    name = str(cfg.get("architecture", "standard"))
    activation = cfg.get("activation_fn_str") or cfg.get("activation_fn") or "relu"
    arguments = cfg.get("activation_fn_kwargs")
    k = cfg.get("k") or (arguments.get("k") if isinstance(arguments, dict) else None)
    if name == "standard" and activation == "topk":
        name = "topk"
    elif name in ("standard", "gated", "jumprelu") and activation != "relu":
        raise CannotLoad(f"{path}: activation function {activation!r} is not read here; only relu and topk")
    if name not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise CannotLoad(f"{path}: architecture={name!r} is not read here; these are: {known}")
    if name == "topk" and not isinstance(k, (int, float)):
        raise CannotLoad(f"{path}: a topk dictionary without k")
    return ARCHITECTURES[name], max(round(k), 1) if isinstance(k, (int, float)) else None


def _prefixes(cfg: dict[str, Any], architecture: str) -> list[int]:
    widths = cfg.get("matryoshka_widths")
    if architecture != "matryoshka" or not isinstance(widths, list):
        return []
    return widths if widths[-1] == cfg.get("d_sae") else [*widths, cfg["d_sae"]]


def _vectors(config: DictionaryConfig, weights: SafetensorsWeights) -> dict[str, Tensor]:
    if config.architecture == "gated":
        return {name: weights.vector(name) for name in ("b_gate", "r_mag", "b_mag")}
    vectors = {"b_enc": weights.vector("b_enc")}
    if config.architecture in ("batch_topk", "matryoshka"):
        # A checkpoint of training: one running threshold in the units of rescaled activations.
        vectors["threshold"] = weights.vector("topk_threshold").float().expand(config.n_features)
    elif config.architecture == "jumprelu":
        if weights.shape("threshold") is None and weights.shape("log_threshold") is not None:
            vectors["threshold"] = weights.vector("log_threshold").float().exp()
        else:
            vectors["threshold"] = weights.vector("threshold")
    return vectors


@torch.no_grad()
def save_saelens(dictionary: Dictionary, folder: str | Path) -> Path:
    """Write a folder that ``SAE.load_from_disk`` reads. Raises ``MicrotomeError`` where it cannot."""
    folder, c = Path(folder), dictionary.config
    if c.architecture == "groupmax":
        raise cannot_hold(FORMAT, c, "sparsify")
    names = {"relu": "standard", "batch_topk": "jumprelu", "matryoshka": "jumprelu"}
    normalise = {ours: theirs for theirs, ours in reversed(NORMALISATIONS.items())}
    cfg: dict[str, Any] = {
        "d_in": c.d_in,
        "d_sae": c.n_features,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": c.subtract_b_dec,
        "normalize_activations": normalise[c.normalisation],
        "reshape_activations": "none",
        "metadata": {
            "sae_lens_version": VERSION,
            "sae_lens_training_version": None,
            "model_name": c.model_name,
            "hook_name": hook_name(c),
        },
        "architecture": names.get(c.architecture, c.architecture),
    }
    if c.architecture == "topk":
        cfg |= {"k": c.k, "rescale_acts_by_decoder_norm": False}
    tensors = {
        "W_enc": dictionary.W_enc.T.float(),
        "W_dec": dictionary.W_dec.float(),
        "b_dec": dictionary.b_dec.float(),
        **{name: getattr(dictionary, name).float() for name in dictionary.vectors},
    }
    write_safetensors(folder / WEIGHTS, tensors, {})
    write_text(folder / "cfg.json", json.dumps(cfg))
    write_own(folder, c)
    return folder


def hook_name(config: DictionaryConfig) -> str | None:
    """The site in the words of TransformerLens, which SAELens uses."""
    names = {"mlp": "mlp", "mlp_out": "hook_mlp_out", "resid": "hook_resid_post"}
    if config.site is None or config.layer is None:
        return config.hook
    return f"blocks.{config.layer}.{names[config.site]}"
