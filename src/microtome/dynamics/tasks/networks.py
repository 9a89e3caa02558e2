"""The networks of the built-in tasks: a transformer in a few lines, an MLP, a convolutional network."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


class Attention(nn.Module):
    """Multi-head self-attention, each projection a layer of its own."""

    def __init__(self, d_model: int, n_heads: int, causal: bool) -> None:
        super().__init__()
        self.n_heads, self.causal = n_heads, causal
        self.query, self.key, self.value, self.out = (
            nn.Linear(d_model, d_model, bias=False) for _ in range(4)
        )

    def forward(self, x: Float[Tensor, "B T d"]) -> Float[Tensor, "B T d"]:
        q, k, v = (layer(x).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
                   for layer in (self.query, self.key, self.value))  # fmt: skip
        mixed = scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and, where ``d_mlp`` is not 0, an MLP, each added to the residual stream."""

    def __init__(self, d_model: int, n_heads: int, d_mlp: int, causal: bool, norm: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(d_model) if norm else nn.Identity()
        self.attention = Attention(d_model, n_heads, causal)
        if d_mlp:
            self.norm2 = nn.LayerNorm(d_model) if norm else nn.Identity()
            self.mlp_in, self.mlp_out = nn.Linear(d_model, d_mlp), nn.Linear(d_mlp, d_model)
        self.d_mlp = d_mlp

    def forward(self, x: Float[Tensor, "B T d"]) -> Float[Tensor, "B T d"]:
        x = x + self.attention(self.norm1(x))
        if self.d_mlp:
            x = x + self.mlp_out(torch.relu(self.mlp_in(self.norm2(x))))
        return x


class TokenTransformer(nn.Module):
    """Tokens to logits at every position (or the last one only)."""

    def __init__(
        self,
        vocabulary: int,
        outputs: int,
        length: int,
        d_model: int,
        n_heads: int,
        d_mlp: int,
        n_layers: int,
        *,
        causal: bool = True,
        norm: bool = True,
        last_only: bool = False,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, d_model)
        self.position = nn.Parameter(torch.randn(length, d_model) * d_model**-0.5)
        self.blocks = nn.ModuleList(Block(d_model, n_heads, d_mlp, causal, norm) for _ in range(n_layers))
        self.norm = nn.LayerNorm(d_model) if norm else nn.Identity()
        self.unembedding = nn.Linear(d_model, outputs, bias=False)
        self.last_only = last_only
        nn.init.normal_(self.embedding.weight, std=d_model**-0.5)

    def forward(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B *T c"]:
        x = self.embedding(tokens) + self.position[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.unembedding(self.norm(x[:, -1] if self.last_only else x))


class PatchTransformer(nn.Module):
    """A small ViT: square patches as tokens, mean over them at the end."""

    def __init__(
        self, side: int, patch: int, classes: int, d_model: int = 64, n_heads: int = 4, n_layers: int = 2
    ) -> None:
        super().__init__()
        self.patch = patch
        self.embedding = nn.Linear(patch * patch, d_model)
        self.position = nn.Parameter(torch.randn((side // patch) ** 2, d_model) * 0.02)
        self.blocks = nn.ModuleList(
            Block(d_model, n_heads, 4 * d_model, causal=False, norm=True) for _ in range(n_layers)
        )
        self.norm = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, classes)

    def forward(self, images: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "B c"]:
        p = self.patch
        patches = images[:, 0].unfold(1, p, p).unfold(2, p, p).flatten(3).flatten(1, 2)
        x = self.embedding(patches) + self.position
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


class FlatMLP(nn.Module):
    """A ReLU classifier of flattened images."""

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))

    def forward(self, images: Float[Tensor, "B *d"]) -> Float[Tensor, "B c"]:
        x = images.flatten(1)
        for layer in self.layers[:-1]:
            x = torch.relu(layer(x))
        return self.layers[-1](x)


class ConvNet(nn.Module):
    """Two convolutions, each followed by ReLU and pooling, then two linear layers."""

    def __init__(self, side: int, classes: int, channels: tuple[int, int] = (32, 64)) -> None:
        super().__init__()
        first, second = channels
        self.conv1 = nn.Conv2d(1, first, 3, padding=1)
        self.conv2 = nn.Conv2d(first, second, 3, padding=1)
        self.fc1 = nn.Linear(second * (side // 4) ** 2, 64)
        self.fc2 = nn.Linear(64, classes)

    def forward(self, images: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "B c"]:
        x = torch.max_pool2d(torch.relu(self.conv1(images)), 2)
        x = torch.max_pool2d(torch.relu(self.conv2(x)), 2)
        return self.fc2(torch.relu(self.fc1(x.flatten(1))))
