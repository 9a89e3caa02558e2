"""Dictionaries in the files of other libraries, written by hand from a formula, not by the code under test.

``library_encodings.npz`` holds what the libraries themselves made of these very files: sparsify 1.3.3,
SAELens 6.54.12 (which also read those of Gemma Scope, Llama Scope and Qwen Scope), dictionary_learning 0.1.0.
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

D, F, K = 6, 20, 3


def numbers(*shape: int, start: float = 0.0, scale: float = 1.0) -> torch.Tensor:
    """Numbers that look random and are the same everywhere."""
    i = torch.arange(int(np.prod(shape)), dtype=torch.float64)
    return (scale * torch.sin(0.7 + 2.3 * i + start + 0.05 * i**2)).reshape(shape).float()


X = numbers(12, D, start=5.0, scale=2.0)
W_ENC = numbers(F, D, start=1.0)
W_DEC = numbers(F, D, start=2.0)
B_ENC = numbers(F, start=3.0, scale=0.3)
B_DEC = numbers(D, start=4.0, scale=0.5)
THRESHOLD = numbers(F, start=6.0, scale=0.4).abs() + 0.2
R_MAG = numbers(F, start=7.0, scale=0.3)
B_MAG = numbers(F, start=8.0, scale=0.3)


def sparsify(folder: Path, **cfg) -> Path:
    folder = folder / "layers.3.mlp"
    folder.mkdir(parents=True, exist_ok=True)
    whole = {
        "activation": "topk",
        "expansion_factor": 32,
        "normalize_decoder": True,
        "num_latents": F,
        "k": K,
        "multi_topk": False,
        "skip_connection": False,
        "transcode": False,
        "d_in": D,
        **cfg,
    }
    (folder / "cfg.json").write_text(json.dumps(whole))
    tensors = {"encoder.weight": W_ENC, "encoder.bias": B_ENC, "W_dec": W_DEC, "b_dec": B_DEC}
    save_file({name: t.clone() for name, t in tensors.items()}, folder / "sae.safetensors")
    return folder


def sparsify_groupmax(folder: Path) -> Path:
    return sparsify(folder, activation="groupmax", k=4)


def saelens(folder: Path, architecture: str, vectors: dict[str, torch.Tensor], **cfg) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    whole = {
        "architecture": architecture,
        "d_in": D,
        "d_sae": F,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            "sae_lens_version": "6.54.12",
            "model_name": "tiny",
            "hook_name": "blocks.2.hook_resid_post",
        },
        **cfg,
    }
    (folder / "cfg.json").write_text(json.dumps(whole))
    tensors = {"W_enc": W_ENC.T.contiguous(), "W_dec": W_DEC, "b_dec": B_DEC, **vectors}
    save_file({name: t.clone() for name, t in tensors.items()}, folder / "sae_weights.safetensors")
    return folder


def saelens_standard(folder: Path) -> Path:
    return saelens(folder, "standard", {"b_enc": B_ENC})


def saelens_layer_norm(folder: Path) -> Path:
    return saelens(
        folder, "standard", {"b_enc": B_ENC}, normalize_activations="layer_norm", apply_b_dec_to_input=False
    )


def saelens_topk(folder: Path) -> Path:
    return saelens(folder, "topk", {"b_enc": B_ENC}, k=K)


def saelens_topk_rescaled(folder: Path) -> Path:
    return saelens(folder, "topk", {"b_enc": B_ENC}, k=K, rescale_acts_by_decoder_norm=True)


def saelens_jumprelu(folder: Path) -> Path:
    return saelens(folder, "jumprelu", {"b_enc": B_ENC, "threshold": THRESHOLD})


def saelens_gated(folder: Path) -> Path:
    return saelens(folder, "gated", {"b_gate": B_ENC, "r_mag": R_MAG, "b_mag": B_MAG})


def saelens_before_6(folder: Path) -> Path:
    """A configuration of version 5: flat, the activation function by name."""
    folder = saelens(folder, "standard", {"b_enc": B_ENC})
    old = {
        "architecture": "standard",
        "d_in": D,
        "d_sae": F,
        "activation_fn_str": "topk",
        "activation_fn_kwargs": {"k": K},
        "apply_b_dec_to_input": True,
        "finetuning_scaling_factor": False,
        "context_size": 128,
        "model_name": "tiny",
        "hook_name": "blocks.4.hook_mlp_out",
        "hook_layer": 4,
        "hook_head_index": None,
        "prepend_bos": True,
        "dataset_path": "x",
        "dataset_trust_remote_code": False,
        "normalize_activations": "none",
        "dtype": "float32",
        "device": "cpu",
        "sae_lens_training_version": "5.1.0",
        "neuronpedia_id": None,
    }
    (folder / "cfg.json").write_text(json.dumps(old))
    return folder


def dictionary_learning(folder: Path, dict_class: str, state: dict[str, torch.Tensor]) -> Path:
    folder = folder / "mlp_out_layer_1" / "trainer_0"
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / "ae.pt")
    trainer = {
        "dict_class": dict_class,
        "activation_dim": D,
        "dict_size": F,
        "layer": 1,
        "lm_name": "Qwen/Qwen2.5-0.5B",
        "submodule_name": "mlp_out_layer_1",
    }
    if "k" in state:
        trainer["k"] = K
    (folder / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {"ctx_len": 128}}))
    return folder


LINEAR = {"encoder.weight": W_ENC, "encoder.bias": B_ENC, "decoder.weight": W_DEC.T}
MATRICES = {"W_enc": W_ENC.T, "b_enc": B_ENC, "W_dec": W_DEC, "b_dec": B_DEC}
COUNTED = {"k": torch.tensor(K, dtype=torch.int), "threshold": torch.tensor(0.7)}


def dl_autoencoder(folder: Path) -> Path:
    return dictionary_learning(folder, "AutoEncoder", {**LINEAR, "bias": B_DEC})


def dl_autoencoder_new(folder: Path) -> Path:
    return dictionary_learning(folder, "AutoEncoderNew", {**LINEAR, "decoder.bias": B_DEC})


def dl_gated(folder: Path) -> Path:
    state = {
        "decoder_bias": B_DEC,
        "r_mag": R_MAG,
        "gate_bias": B_ENC,
        "mag_bias": B_MAG,
        "encoder.weight": W_ENC,
        "decoder.weight": W_DEC.T,
    }
    return dictionary_learning(folder, "GatedAutoEncoder", state)


def dl_topk(folder: Path) -> Path:
    return dictionary_learning(folder, "AutoEncoderTopK", {**LINEAR, **COUNTED, "b_dec": B_DEC})


def dl_batch_topk(folder: Path) -> Path:
    return dictionary_learning(folder, "BatchTopKSAE", {**LINEAR, **COUNTED, "b_dec": B_DEC})


def dl_matryoshka(folder: Path) -> Path:
    state = {**MATRICES, **COUNTED, "group_sizes": torch.tensor([5, 5, 10])}
    return dictionary_learning(folder, "MatryoshkaBatchTopKSAE", state)


def dl_jumprelu(folder: Path) -> Path:
    return dictionary_learning(folder, "JumpReluAutoEncoder", {**MATRICES, "threshold": THRESHOLD})


def gemma_scope(folder: Path, save: Callable = np.savez) -> Path:
    folder = folder / "gemma-scope-2b-pt-mlp" / "layer_7" / "width_16k" / "average_l0_71"
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {name: t.numpy() for name, t in MATRICES.items()} | {"threshold": THRESHOLD.numpy()}
    save(folder / "params.npz", **arrays)
    return folder


def gemma_scope_compressed(folder: Path) -> Path:
    return gemma_scope(folder, np.savez_compressed)


def llama_scope(folder: Path) -> Path:
    folder = folder / "Llama3_1-8B-Base-L8M-8x"
    (folder / "checkpoints").mkdir(parents=True)
    about = {
        "d_model": D,
        "d_sae": F,
        "hook_point_in": "blocks.8.hook_mlp_out",
        "hook_point_out": "blocks.8.hook_mlp_out",
        "act_fn": "jumprelu",
        "jump_relu_threshold": 0.4,
        "norm_activation": "dataset-wise",
        "dataset_average_activation_norm": {"in": 1.7, "out": 1.7},
        "apply_decoder_bias_to_pre_encoder": False,
        "use_decoder_bias": True,
        "sparsity_include_decoder_norm": True,
        "top_k": 50,
    }
    (folder / "hyperparams.json").write_text(json.dumps(about))
    state = {**LINEAR, "decoder.bias": B_DEC}
    tensors = {name: t.contiguous().clone() for name, t in state.items()}
    save_file(tensors, folder / "checkpoints" / "final.safetensors")
    return folder


def qwen_scope(folder: Path) -> Path:
    folder = folder / "SAE-Res-Qwen3-1.7B-Base-W32K-L0_3"
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"W_enc": W_ENC, "W_dec": W_DEC.T, "b_enc": B_ENC, "b_dec": B_DEC}, folder / "layer5.sae.pt")
    return folder


# What each writer's file is: (format, architecture, site, layer).
WRITERS = {
    sparsify: ("sparsify", "topk", "mlp", 3),
    sparsify_groupmax: ("sparsify", "groupmax", "mlp", 3),
    saelens_standard: ("saelens", "relu", "resid", 2),
    saelens_layer_norm: ("saelens", "relu", "resid", 2),
    saelens_topk: ("saelens", "topk", "resid", 2),
    saelens_topk_rescaled: ("saelens", "topk", "resid", 2),
    saelens_jumprelu: ("saelens", "jumprelu", "resid", 2),
    saelens_gated: ("saelens", "gated", "resid", 2),
    saelens_before_6: ("saelens", "topk", "mlp_out", 4),
    dl_autoencoder: ("dictionary_learning", "relu", "mlp", 1),
    dl_autoencoder_new: ("dictionary_learning", "relu", "mlp", 1),
    dl_gated: ("dictionary_learning", "gated", "mlp", 1),
    dl_topk: ("dictionary_learning", "topk", "mlp", 1),
    dl_batch_topk: ("dictionary_learning", "batch_topk", "mlp", 1),
    dl_matryoshka: ("dictionary_learning", "matryoshka", "mlp", 1),
    dl_jumprelu: ("dictionary_learning", "jumprelu", "mlp", 1),
    gemma_scope: ("gemma_scope", "jumprelu", "mlp_out", 7),
    gemma_scope_compressed: ("gemma_scope", "jumprelu", "mlp_out", 7),
    llama_scope: ("llama_scope", "jumprelu", "mlp_out", 8),
    qwen_scope: ("qwen_scope", "topk", "resid", 5),
}
