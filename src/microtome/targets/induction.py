"""The induction-head toy: a small causal transformer, K of them side by side."""

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from microtome.targets.batched import BatchedLinear, BatchedTarget
from microtome.targets.induction_config import SPECIAL_TOKENS, InductionModelConfig
from microtome.targets.initialisation import linear_uniform
from microtome.targets.network import Site, SiteFunction, times

_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")


class Attention(nn.Module):
    """The four projections of one layer; the network itself attends."""

    def __init__(self, k: int, d_model: int) -> None:
        super().__init__()
        for name in _PROJECTIONS:
            self.add_module(name, BatchedLinear(k, d_model, d_model))


class FeedForward(nn.Module):
    """``gelu(x fc1) fc2``."""

    def __init__(self, k: int, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.fc1 = BatchedLinear(k, d_model, d_ff, bias=True)
        self.fc2 = BatchedLinear(k, d_ff, d_model, bias=True)


class LayerNorm(nn.Module):
    """Layer normalisation with an instance axis."""

    def __init__(self, k: int, d_model: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(k, d_model))
        self.bias = nn.Parameter(torch.zeros(k, d_model))

    def forward(self, x: Float[Tensor, "K B T d"]) -> Float[Tensor, "K B T d"]:
        normed = nn.functional.layer_norm(x, x.shape[-1:])
        return normed * self.weight[:, None, None] + self.bias[:, None, None]


class Block(nn.Module):
    """Attention, perhaps an MLP, perhaps normalisation after each."""

    def __init__(self, config: InductionModelConfig) -> None:
        super().__init__()
        k, d = config.n_instances, config.d_model
        self.attn = Attention(k, d)
        self.ff = FeedForward(k, d, d * config.ff_fanout) if config.use_ff else None
        self.ln1 = LayerNorm(k, d) if config.use_layer_norm else None
        self.ln2 = LayerNorm(k, d) if config.use_layer_norm else None


class InductionTransformer(BatchedTarget):
    """``x + attention(x)`` in every layer, then the unembedding; only queries and keys know positions.

    Parameters ``token_embed.weight [K, vocab, d]``, ``blocks.{i}.attn.{q,k,v,out}_proj.weight [K, d, d]``,
    ``unembed.weight [K, d, vocab]``. All weights zero until ``reset`` or a load.
    """

    sinusoids: Tensor

    def __init__(self, config: InductionModelConfig) -> None:
        super().__init__()
        self.config = config
        self.n_instances = config.n_instances
        k, d, vocab = config.n_instances, config.d_model, config.vocab_size + SPECIAL_TOKENS
        self.token_embed = BatchedLinear(k, vocab, d)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.ln_f = LayerNorm(k, d) if config.use_layer_norm else None
        self.unembed = BatchedLinear(k, d, vocab)
        self.register_buffer("sinusoids", sinusoids(config.seq_len, d), persistent=False)

    @torch.no_grad()
    def reset(self, seed: int = 0) -> "InductionTransformer":
        """Draw start values in place (embeddings: unit variance; else ``nn.Linear``'s); returns self."""
        for name, layer in self.named_modules():
            if not isinstance(layer, BatchedLinear):
                continue
            k, d_in, d_out = layer.weight.shape
            draw = linear_uniform(k, (d_in, d_out), d_in, seed, name)
            if name == "token_embed":  # uniform with unit variance
                draw = draw * math.sqrt(3.0 * d_in)
            layer.weight.copy_(draw)
        return self

    def sites(self) -> dict[str, Site]:
        """``token_embed``, every layer's projections (and MLP), ``unembed``, in the order they run."""
        names = [f"blocks.{i}.attn.{part}" for i in range(len(self.blocks)) for part in _PROJECTIONS]
        if self.config.use_ff:
            names = [
                name
                for i in range(len(self.blocks))
                for name in (
                    *(f"blocks.{i}.attn.{part}" for part in _PROJECTIONS),
                    f"blocks.{i}.ff.fc1",
                    f"blocks.{i}.ff.fc2",
                )
            ]
        embedding = Site("token_embed", self.token_embed.weight, kind="embedding")
        others = {name: self.linear(name).site(name) for name in (*names, "unembed")}
        return {"token_embed": embedding, **others}

    def forward(
        self, x: Int[Tensor, "K B T"], site: SiteFunction | None = None
    ) -> Float[Tensor, "K B T vocab"]:
        """Logits of the next token at every position."""
        return self._run(x, site, None)

    def attention(self, x: Int[Tensor, "K B T"]) -> list[Float[Tensor, "K B heads T T"]]:
        """Each layer's attention: how much every position looks at every earlier one; rows sum to 1."""
        patterns: list[Tensor] = []
        self._run(x, None, patterns)
        return patterns

    def _run(self, x: Tensor, site: SiteFunction | None, patterns: list[Tensor] | None) -> Tensor:
        def at(name: str, value: Tensor) -> Tensor:
            if site is not None:
                return site(name, value)
            if name == "token_embed":
                return times(value, self.token_embed.weight)
            return self.linear(name).site(name).apply(value)

        h = at("token_embed", x)
        for i, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            before, after = self._positions(h.shape[2])
            q = at(f"blocks.{i}.attn.q_proj", h + before) + after
            k = at(f"blocks.{i}.attn.k_proj", h + before) + after
            v = at(f"blocks.{i}.attn.v_proj", h)
            q, k, v = (self._heads(part) for part in (q, k, v))
            if patterns is not None:
                patterns.append(_causal_attention(q, k))
            mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            h = h + at(f"blocks.{i}.attn.out_proj", mixed.transpose(-2, -3).flatten(-2))
            h = h if block.ln1 is None else block.ln1(h)
            if block.ff is not None:
                hidden = nn.functional.gelu(at(f"blocks.{i}.ff.fc1", h))
                h = h + at(f"blocks.{i}.ff.fc2", hidden)
                h = h if block.ln2 is None else block.ln2(h)
        return at("unembed", h if self.ln_f is None else self.ln_f(h))

    def _positions(self, length: int) -> tuple[Tensor | float, Tensor | float]:
        """What is added before and after the projections to queries and keys."""
        if not self.config.use_pos_encoding:
            return 0.0, 0.0
        there = self.sinusoids[:length]
        return (there, 0.0) if self.config.pos_encoding == "projected" else (0.0, there)

    def _heads(self, x: Float[Tensor, "K B T d"]) -> Float[Tensor, "K B heads T each"]:
        return x.unflatten(-1, (self.config.n_heads, -1)).transpose(-2, -3)

    def empty(self, n_instances: int) -> "InductionTransformer":
        return InductionTransformer(self.config.model_copy(update={"n_instances": n_instances}))

    def spec(self) -> dict[str, Any]:
        return {"kind": "induction", **self.config.as_dict(), "n_instances": self.n_instances}


def sinusoids(length: int, d_model: int) -> Float[Tensor, "T d"]:
    """Positions as sines and cosines of falling frequency (Vaswani et al. 2017)."""
    rates = torch.exp(torch.arange(0, d_model, 2) * (-math.log(10000.0) / d_model))
    angles = torch.arange(length).unsqueeze(1) * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


def _causal_attention(
    q: Float[Tensor, "K B heads T d"], k: Float[Tensor, "K B heads T d"]
) -> Float[Tensor, "K B heads T T"]:
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
    return scores.masked_fill(future, -torch.inf).softmax(-1)
