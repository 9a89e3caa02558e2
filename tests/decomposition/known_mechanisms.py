"""Networks whose components are known, because they were put there."""

import torch
from torch import Tensor, nn

from microtome.decomposition.config import config_from_mapping
from microtome.decomposition.result import Decomposition
from microtome.targets.module_target import ModuleTarget
from microtome.targets.network import Target

STEEP = 50.0


class TokenNetwork(nn.Module):
    """Ids ``[B, T]`` to logits ``[B, T, n]``: token t drives unit t of the hidden layer, which says t + 1."""

    def __init__(self, n: int = 6) -> None:
        super().__init__()
        self.embed = nn.Embedding(n, n)
        self.up = nn.Linear(n, n, bias=False)
        self.down = nn.Linear(n, n, bias=False)
        self.embed.weight.data = torch.eye(n)
        self.up.weight.data = torch.eye(n)
        self.down.weight.data = 4.0 * torch.eye(n).roll(1, 0)

    def forward(self, ids: Tensor) -> Tensor:
        return self.down(torch.relu(self.up(self.embed(ids))))


def decomposition(
    module: nn.Module, parts: dict[str, tuple[Tensor, Tensor]], level: float = 0.5, **more
) -> Decomposition:
    """The module with ``parts[site] = (V [d_in, C], U [C, d_out])``; the gate of a component is 1 where its
    inner activation exceeds ``level`` by 0.02, 0 below it."""
    return _with_gates(ModuleTarget(module, list(parts)), parts, level, **more)


def _with_gates(
    target: Target, parts: dict[str, tuple[Tensor, Tensor]], level: float, **more
) -> Decomposition:
    config = config_from_mapping(
        {
            "method": "spd",
            "C": 4,
            "steps": 1,
            "batch_size": 1,
            "lr": 1e-3,
            "n_ci_mlp_neurons": 0,
            "target_module_patterns": list(parts),
            "importance_minimality_coeff": 1.0,
            "pnorm": 1.0,
            "output_loss_type": "mse",
            "task_config": {"task_name": "target_data"},
            **more,
        }
    )
    parameters = {}
    for site, (v, u) in parts.items():
        c = v.shape[1]
        parameters |= {
            f"components.{site}.V": v[None].clone(),
            f"components.{site}.U": u[None].clone(),
            f"gates.{site}.w_in": torch.full((1, c, 1), STEEP),
            f"gates.{site}.b_in": torch.zeros(1, c, 0),
            f"gates.{site}.w_out": torch.zeros(1, c, 0),
            f"gates.{site}.b_out": torch.full((1, c), -STEEP * level),
        }
    return Decomposition(config, target, parameters)


def token_decomposition(n: int = 6, dead: int = 1) -> Decomposition:
    """``TokenNetwork``: component t of either site is token t's; the last ``dead`` never fire."""
    module = TokenNetwork(n)
    none = torch.zeros(n, dead)
    parts = {
        "up": (torch.cat([torch.eye(n), none], 1), torch.cat([torch.eye(n), none.T])),
        "down": (torch.cat([torch.eye(n), none], 1), torch.cat([module.down.weight.detach().T, none.T])),
    }
    return decomposition(module, parts, output_loss_type="kl")


class Tokens:
    """A source of given windows ``[N, T]``, in their order."""

    def __init__(self, ids: Tensor) -> None:
        self.ids, self.at = ids, 0

    def batch(self, batch_size, generator=None, n_instances=1):
        where = torch.arange(self.at, self.at + batch_size) % len(self.ids)
        self.at += batch_size
        return self.ids[where].expand(n_instances, -1, -1)

    def spec(self):
        return {"kind": "arrays", "shape": list(self.ids.shape)}


def language_decomposition(family: str = "gpt2", components: int = 4) -> Decomposition:
    """A tiny random language model of 20 tokens and random components of its MLPs, all of which fire."""
    from microtome.targets.language_target import LanguageTarget

    torch.manual_seed(0)
    if family == "gpt2":
        from transformers import GPT2Config, GPT2LMHeadModel

        model = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=20, n_positions=16, n_embd=8, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
            )
        )
        patterns = ["transformer.h.*.mlp.c_*"]
    else:
        from transformers import LlamaConfig, LlamaForCausalLM

        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=20,
                hidden_size=8,
                intermediate_size=12,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=1,
                max_position_embeddings=16,
            )
        )
        patterns = ["model.layers.*.mlp.*_proj"]
    target = LanguageTarget(model, None, patterns)
    parts = {
        name: (
            torch.randn(site.weight.shape[1], components) / 3,
            torch.randn(components, site.weight.shape[2]) / 3,
        )
        for name, site in target.sites().items()
    }
    return _with_gates(target, parts, -100.0, output_loss_type="kl")
