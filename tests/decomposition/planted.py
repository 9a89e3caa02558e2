"""Small targets with known mechanisms: each component's part was put there, so that pictures can be checked.

Matrices are in first (``x @ W``) and without instance axis. ``Planted.parts[site]`` is (V [C, d_in],
U [C, d_out]) with W = sum of V_c U_c; each of the first components stands for one feature or neuron and opens
for it alone, the others are zero and stay shut.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

STEEP = 100.0


@dataclass
class Planted:
    """A target's weights, and the mechanisms that they are the sum of."""

    weights: dict[str, Tensor]
    """Site to W [d_in, d_out], in the order in which they run."""
    parts: dict[str, tuple[Tensor, Tensor]]
    """Site to (V [C, d_in], U [C, d_out])."""
    thresholds: dict[str, float]
    """Inner activation above which a component of that site is on."""
    both_signs: dict[str, bool]
    """Whether a component also opens for negative inner activations."""
    extra: dict[str, Tensor] = field(default_factory=dict)
    """Biases and embeddings, in first: b_final, W_E, W_U, <site>.bias."""

    def components(self, site: str) -> Tensor:
        """Every component's matrix [C, d_in, d_out]."""
        v, u = self.parts[site]
        return torch.einsum("ci,co->cio", v, u)


def tms(
    n_features: int = 5, n_hidden: int = 2, n_hidden_layers: int = 0, C: int = 7, turn: float = 0.0
) -> Planted:
    """Features on a regular polygon (or orthogonal, where there is room); identity hidden layers.

    linear1 and linear2: component c is feature c. A hidden layer: component c is direction c of the identity.
    With a polygon, a feature's neighbours reach cos(2 pi / n) of its activation in linear2: thresholds keep
    their components shut for one feature at a time, from 0.7 to 2.
    """
    if n_hidden == 2 and n_features > 2:
        angle = torch.arange(n_features) * (2 * torch.pi / n_features) + turn
        w = torch.stack([angle.cos(), angle.sin()], 1)
        threshold = 0.65
    else:
        w = torch.linalg.qr(torch.randn(n_hidden, n_features, generator=torch.Generator().manual_seed(7)))[
            0
        ].T
        w = torch.nn.functional.pad(w, (0, 0, 0, n_features - len(w)))
        threshold = 0.05
    one = _padded(torch.eye(n_features), C), _padded(w, C)
    planted = Planted({"linear1": w}, {"linear1": one}, {"linear1": 0.05}, {"linear1": False})
    for i in range(n_hidden_layers):
        name, eye = f"hidden_layers.{i}", torch.eye(n_hidden)
        planted.weights[name], planted.parts[name] = eye, (_padded(eye, C), _padded(eye, C))
        planted.thresholds[name], planted.both_signs[name] = 0.05, True
    planted.weights["linear2"], planted.parts["linear2"] = w.T.contiguous(), (one[1], one[0])
    planted.thresholds["linear2"], planted.both_signs["linear2"] = threshold, False
    planted.extra["b_final"] = -torch.linspace(0.05, 0.15, n_features)
    return planted


def resid_mlp(
    n_features: int = 6,
    d_embed: int = 9,
    d_mlp: int = 6,
    n_layers: int = 1,
    C: int = 8,
    biases: bool = False,
    act_fn_name: str = "relu",
) -> Planted:
    """Feature i runs through neuron i (mod d_mlp) of every layer, along orthonormal embedding directions.

    mlp_in: component c is feature c. mlp_out: component c is neuron c.
    """
    generator = torch.Generator().manual_seed(11)
    w_e = torch.linalg.qr(torch.randn(d_embed, n_features, generator=generator))[0].T.contiguous()
    reads = torch.nn.functional.one_hot(torch.arange(n_features) % d_mlp, d_mlp).float()
    planted = Planted({}, {}, {}, {}, {"W_E": w_e, "W_U": w_e.T.contiguous()})
    for i in range(n_layers):
        read, write = 1.0 + 0.1 * i, 0.8 - 0.2 * i
        name = f"layers.{i}.mlp_in"
        planted.weights[name] = w_e.T @ (read * reads)
        planted.parts[name] = _padded(w_e, C), _padded(read * reads, C)
        planted.thresholds[name], planted.both_signs[name] = 0.05, True
        out = write * reads.T @ w_e
        name = f"layers.{i}.mlp_out"
        planted.weights[name] = out
        planted.parts[name] = _padded(torch.eye(d_mlp), C), _padded(out, C)
        planted.thresholds[name], planted.both_signs[name] = 0.05, act_fn_name == "gelu"
        if biases:
            planted.extra[f"layers.{i}.mlp_in.bias"] = torch.linspace(-0.1, 0.1, d_mlp)
            planted.extra[f"layers.{i}.mlp_out.bias"] = torch.linspace(-0.02, 0.02, d_embed)
    return planted


def unplanted(planted: Planted, seed: int = 3) -> Planted:
    """The same shapes with random factors that sum to nothing in particular."""
    generator = torch.Generator().manual_seed(seed)
    parts = {
        site: (torch.randn(v.shape, generator=generator) / 3, torch.randn(u.shape, generator=generator) / 3)
        for site, (v, u) in planted.parts.items()
    }
    return Planted(planted.weights, parts, planted.thresholds, planted.both_signs, planted.extra)


def scalar_gate(planted: Planted, site: str, hidden: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(w_in [C, H], b_in [C, H], w_out [C, H], b_out [C]): steep above the threshold, zero below it."""
    C = len(planted.parts[site][0])
    signs = torch.tensor([1.0, -1.0 if planted.both_signs[site] else 0.0])
    w_in, b_in, w_out = (torch.zeros(C, hidden) for _ in range(3))
    w_in[:, :2] = STEEP * signs
    b_in[:, :2] = -STEEP * planted.thresholds[site] * signs.abs()
    w_out[:, :2] = signs.abs()
    return w_in, b_in, w_out, torch.zeros(C)


def random_gate(C: int, hidden: int, d_in: int = 1, seed: int = 5) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(W_0 [C, d_in, H], b_0 [C, H], W_2 [C, H, 1], b_2 [C, 1]) of one network for each component."""
    g = torch.Generator().manual_seed(seed)
    shapes = (C, d_in, hidden), (C, hidden), (C, hidden, 1), (C, 1)
    w_0, b_0, w_2, b_2 = (torch.randn(shape, generator=g) for shape in shapes)
    return w_0, b_0 / 3, w_2 / hidden**0.5, b_2 / 3


def _padded(rows: Tensor, C: int) -> Tensor:
    """Zero rows below, up to C of them."""
    return torch.nn.functional.pad(rows, (0, 0, 0, C - len(rows)))
