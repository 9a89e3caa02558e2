"""Small causal language models of two architectures with random weights, and what to decompose in them."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from microtome.decomposition.full_spd import FullSPD
from microtome.decomposition.spd_config import SPDConfig
from microtome.targets.language_target import LanguageTarget

LLAMA_SITES = ("*q_proj", "*k_proj", "*v_proj", "*o_proj", "*mlp.gate_proj", "*mlp.up_proj", "*mlp.down_proj")
GPT2_SITES = ("*c_attn", "*attn.c_proj", "*c_fc", "*mlp.c_proj")


@dataclass(frozen=True)
class Case:
    """An architecture with its sizes, and the batch."""

    kind: str
    vocabulary: int
    width: int
    layers: int
    components: int
    batch: int = 8
    context: int = 64
    hidden: int = 8

    def model(self) -> nn.Module:
        """Untrained, in evaluation mode."""
        from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

        torch.manual_seed(0)
        heads = max(2, self.width // 32)
        if self.kind == "llama":
            return LlamaForCausalLM(
                LlamaConfig(
                    vocab_size=self.vocabulary,
                    hidden_size=self.width,
                    intermediate_size=4 * self.width,
                    num_hidden_layers=self.layers,
                    num_attention_heads=heads,
                    num_key_value_heads=heads,
                    max_position_embeddings=self.context,
                    tie_word_embeddings=False,
                )
            ).eval()
        return GPT2LMHeadModel(
            GPT2Config(
                vocab_size=self.vocabulary,
                n_embd=self.width,
                n_layer=self.layers,
                n_head=heads,
                n_positions=self.context,
            )
        ).eval()

    def method(self, losses: tuple[dict[str, Any], ...] | None = None, **settings: Any) -> FullSPD:
        """The step that takes everything, on this model."""
        patterns = LLAMA_SITES if self.kind == "llama" else GPT2_SITES
        target = LanguageTarget(self.model(), None, patterns).requires_grad_(False)
        config = SPDConfig.from_mapping(
            {
                "C": self.components,
                "target_module_patterns": patterns,
                "batch_size": self.batch,
                "ci_fn_type": "vector_mlp",
                "ci_fn_hidden_dims": (self.hidden,),
                "sigmoid_type": "leaky_hard",
                "use_delta_component": True,
                "output_loss_type": "kl",
                "losses": losses or LOSSES,
                **settings,
            }
        )
        return FullSPD(target, config, [0])

    def batch_of(self, generator: torch.Generator) -> Tensor:
        """Ids ``[1, B, T]``."""
        return torch.randint(self.vocabulary, (1, self.batch, self.context), generator=generator)


LOSSES = (
    {"name": "faithfulness", "coeff": 1.0},
    {"name": "importance_minimality", "coeff": 1e-4, "pnorm": 2.0},
    {"name": "stochastic_recon", "coeff": 1.0, "sites": "subset"},
)

CASES = {
    "gpt2_width64": Case("gpt2", 1024, 64, 2, 128),
    "gpt2_width128": Case("gpt2", 4096, 128, 4, 256),
    "llama_width128": Case("llama", 4096, 128, 4, 256),
    "llama_vocabulary50k": Case("llama", 50257, 64, 2, 128),
}
