"""Makers of small language models and dictionaries, shared by the tests of gradients and their contract."""

from pathlib import Path

import torch

from microtome.data.text import TokenBatch, read_texts
from microtome.dictionaries import DictionaryConfig, new_dictionary
from microtome.dictionaries.dictionary import Dictionary
from microtome.dictionaries.formats import save_sparsify
from microtome.targets.language_model import LanguageModel, wrap
from microtome.training.language_tokenizer import save_tokenizer, train_tokenizer

D_MODEL, N_LAYERS, N_FEATURES, CONTEXT = 16, 3, 48, 64
TEXTS = read_texts("builtin", limit=24)


class PadOnly:
    """A tokenizer for tests that make their own ids."""

    pad_token_id = 0
    all_special_ids = (0,)


def config_of(family: str):
    """A tiny configuration of one family from its real class."""
    import transformers as t

    shared = {
        "vocab_size": 60,
        "hidden_size": D_MODEL,
        "intermediate_size": 24,
        "num_hidden_layers": N_LAYERS,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": CONTEXT,
        "pad_token_id": 0,
    }
    gemma = {**shared, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 32}
    return {
        "qwen": lambda: t.Qwen2Config(**shared),
        "llama": lambda: t.LlamaConfig(**shared),
        "mistral": lambda: t.MistralConfig(**shared, sliding_window=16),
        "zephyr": lambda: t.MistralConfig(**shared, sliding_window=None),
        "mixtral": lambda: t.MixtralConfig(**shared, num_local_experts=4, num_experts_per_tok=2),
        "yi": lambda: t.LlamaConfig(**shared, rope_theta=5e6, rms_norm_eps=1e-5),
        "gpt2": lambda: t.GPT2Config(vocab_size=60, n_positions=CONTEXT, n_embd=D_MODEL, n_layer=3, n_head=2),
        "gemma2": lambda: t.Gemma2Config(**gemma, final_logit_softcapping=30.0),
        "gemma3": lambda: t.Gemma3TextConfig(**gemma),
    }[family]()


def random_model(family: str = "qwen", dtype: torch.dtype = torch.float64) -> LanguageModel:
    """A random model of a family, large enough weights that layers matter."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config_of(family), attn_implementation="eager")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2 and "embed" not in name:
                parameter.mul_(8)
    return wrap(model.to(dtype), PadOnly(), family)


def random_batch(n: int = 3, length: int = 9, seed: int = 0) -> TokenBatch:
    """Ids with padding on the right of all samples but the first."""
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 60, (n, length), generator=draw)
    mask = torch.ones_like(ids)
    for row in range(1, n):
        mask[row, length - 2 * row :] = 0
    return TokenBatch(ids * mask, mask, list(range(n)))


def random_dictionary(layer: int, n_features: int = N_FEATURES, **changes: object) -> Dictionary:
    """A tied random dictionary; TopK with 4 features unless said otherwise."""
    about = {"architecture": "topk", "d_in": D_MODEL, "n_features": n_features, "k": 4, "site": "mlp"}
    dictionary = new_dictionary(DictionaryConfig.from_mapping({**about, "layer": layer, **changes}))
    with torch.no_grad():
        dictionary.W_enc.normal_()
        dictionary.W_enc.div_(dictionary.W_enc.norm(dim=1, keepdim=True))
        dictionary.W_dec.copy_(dictionary.W_enc)
        dictionary.b_dec.normal_(std=0.01)
    return dictionary.requires_grad_(False)


def save_dictionaries(folder: Path, n_features: int = N_FEATURES, **changes: object) -> Path:
    """One dictionary a layer in sparsify's layout; returns the folder."""
    for layer in range(N_LAYERS):
        save_sparsify(random_dictionary(layer, n_features, **changes), folder / f"layers.{layer}.mlp")
    return folder


def save_model(folder: Path, **changes: object) -> Path:
    """A Qwen2 with a tokenizer trained on the built-in text, as a folder that transformers loads."""
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(TEXTS, 300)
    save_tokenizer(tokenizer, folder, CONTEXT)
    config = config_of("qwen")
    config.vocab_size = tokenizer.get_vocab_size()
    model = transformers.Qwen2ForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2 and "embed" not in name:
                parameter.mul_(8)
    model.save_pretrained(folder)
    return folder
