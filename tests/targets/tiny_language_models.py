"""Language models of every family, tiny, from their real configuration classes, with random weights."""

from collections.abc import Callable
from typing import Any

import torch

COMMON = {
    "vocab_size": 120,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GPT = {"vocab_size": 120, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}
GEMMA = {**COMMON, "head_dim": 8}
NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}


def _of(config: str, model: str, **fields: Any) -> Callable[[], Any]:
    def build() -> Any:
        import transformers

        torch.manual_seed(0)
        return getattr(transformers, model)(getattr(transformers, config)(**fields)).eval()

    return build


def _gemma3() -> Any:
    """Gemma 3 as its larger sizes come: a text model inside a model of text and images."""
    import transformers

    torch.manual_seed(0)
    config = transformers.Gemma3Config(
        text_config=GEMMA | {"sliding_window": 16},
        vision_config={
            "hidden_size": 8,
            "intermediate_size": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        },
        mm_tokens_per_image=4,
    )
    return transformers.Gemma3ForConditionalGeneration(config).eval()


# Yi is a llama with its own sizes, Zephyr a mistral.
FAMILIES: dict[str, Callable[[], Any]] = {
    "llama": _of("LlamaConfig", "LlamaForCausalLM", **COMMON),
    "yi": _of("LlamaConfig", "LlamaForCausalLM", **COMMON, rope_theta=5e6, tie_word_embeddings=False),
    "mistral": _of("MistralConfig", "MistralForCausalLM", **COMMON),
    "zephyr": _of("MistralConfig", "MistralForCausalLM", **COMMON, sliding_window=4),
    "mixtral": _of("MixtralConfig", "MixtralForCausalLM", **COMMON, num_local_experts=3),
    "qwen2": _of("Qwen2Config", "Qwen2ForCausalLM", **COMMON, tie_word_embeddings=True),
    "qwen3": _of("Qwen3Config", "Qwen3ForCausalLM", **GEMMA),
    "qwen2_moe": _of(
        "Qwen2MoeConfig",
        "Qwen2MoeForCausalLM",
        **COMMON,
        num_experts=3,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
    ),
    "qwen3_moe": _of(
        "Qwen3MoeConfig",
        "Qwen3MoeForCausalLM",
        **GEMMA,
        num_experts=3,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
    ),
    "phi3": _of("Phi3Config", "Phi3ForCausalLM", **COMMON),
    "olmo2": _of("Olmo2Config", "Olmo2ForCausalLM", **COMMON),
    "gemma": _of("GemmaConfig", "GemmaForCausalLM", **GEMMA),
    "gemma2": _of("Gemma2Config", "Gemma2ForCausalLM", **GEMMA, final_logit_softcapping=1.5),
    "gemma3_text": _of("Gemma3TextConfig", "Gemma3ForCausalLM", **GEMMA, sliding_window=16),
    "gemma3": _gemma3,
    "gpt2": _of("GPT2Config", "GPT2LMHeadModel", **GPT, **NO_DROPOUT),
    "gptj": _of("GPTJConfig", "GPTJForCausalLM", **GPT, **NO_DROPOUT, rotary_dim=4),
    "gpt_neo": _of(
        "GPTNeoConfig",
        "GPTNeoForCausalLM",
        vocab_size=120,
        hidden_size=32,
        num_layers=2,
        attention_types=[[["global", "local"], 1]],
        num_heads=4,
        max_position_embeddings=64,
        window_size=8,
    ),
    "gpt_neox": _of(
        "GPTNeoXConfig",
        "GPTNeoXForCausalLM",
        **{name: value for name, value in COMMON.items() if name != "num_key_value_heads"},
    ),
}
POST_NORM = ("gemma2", "gemma3_text", "gemma3", "olmo2")


def in_double(family: str) -> Any:
    """The family's model with float64 weights."""
    model = FAMILIES[family]().double()
    if "moe" in family or family == "mixtral":
        choose = getattr(model, "set_experts_implementation", None)  # since transformers 5
        if choose is not None:
            choose("eager")  # the others have no float64
    return model
