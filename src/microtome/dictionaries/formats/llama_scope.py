"""Llama Scope of OpenMOSS: ``hyperparams.json`` and ``checkpoints/final.safetensors``.

JumpReLU with one threshold. The encoder sees inputs times ``s = sqrt(d) / dataset average norm``; the
threshold is told in units of the raw activations, that is ``s`` times as large for the scaled ones (SAELens
reads it so too, and the published thresholds are proportional to each layer's norm).
"""

from pathlib import Path

import torch

from microtome.core.errors import CannotLoad
from microtome.dictionaries.config import DictionaryConfig
from microtome.dictionaries.formats.places import factor, place_of, read_json, whole_number
from microtome.dictionaries.stored import DictionaryFile
from microtome.dictionaries.weights import FeatureRows, SafetensorsWeights

FORMAT = "llama_scope"
WEIGHTS = "checkpoints/final.safetensors"


def open_llama_scope(folder: Path) -> DictionaryFile:
    """Open one folder. Raises ``CannotLoad``; transcoders and GLU encoders are refused."""
    path = folder / "hyperparams.json"
    cfg = read_json(path)
    hook = str(cfg.get("hook_point_in"))
    if cfg.get("hook_point_out", hook) != hook:
        raise CannotLoad(f"{folder}: a transcoder, not a dictionary of one site's activations; not used here")
    if cfg.get("use_glu_encoder") or str(cfg.get("act_fn", "jumprelu")).lower() not in ("jumprelu", "relu"):
        raise CannotLoad(f"{path}: act_fn={cfg.get('act_fn')!r} is not read here; only jumprelu and relu")
    d = whole_number(path, cfg, "d_model")
    s = _input_factor(path, cfg, d)
    weights = SafetensorsWeights(folder / WEIGHTS)
    shape = weights.shape("encoder.weight")
    n_features = shape[0] if shape else whole_number(path, cfg, "d_sae")
    threshold = 0.0
    if str(cfg.get("act_fn", "jumprelu")).lower() == "jumprelu":
        threshold = float(cfg.get("jump_relu_threshold") or 0.0) * s
    site, layer = place_of(hook)
    config = DictionaryConfig(
        architecture="jumprelu",
        d_in=d,
        n_features=n_features,
        subtract_b_dec=bool(cfg.get("apply_decoder_bias_to_pre_encoder", False)),
        site=site,
        layer=layer,
        hook=hook,
        model_name="meta-llama/Llama-3.1-8B",
    )
    b_dec = weights.vector("decoder.bias") if weights.shape("decoder.bias") else torch.zeros(d)
    return DictionaryFile(
        config,
        FORMAT,
        weights.path,
        FeatureRows(weights, "encoder.weight", scale=s),
        FeatureRows(weights, "decoder.weight", transposed=True, scale=1 / s),
        b_dec.float() / s,
        {"b_enc": weights.vector("encoder.bias"), "threshold": torch.full((n_features,), threshold)},
    )


def _input_factor(path: Path, cfg: dict, d: int) -> float:
    norm = cfg.get("norm_activation", "dataset-wise")
    if norm == "inference":
        return 1.0
    if norm != "dataset-wise":
        raise CannotLoad(
            f"{path}: norm_activation={norm!r} is not read here; only dataset-wise and inference"
        )
    average = cfg.get("dataset_average_activation_norm")
    average = average.get("in") if isinstance(average, dict) else average
    return d**0.5 / factor(path, average, "dataset_average_activation_norm.in")
