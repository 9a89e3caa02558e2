"""The residual MLP with its embeddings multiplied into its layers: no residual stream, the same output."""

import torch
from jaxtyping import Float
from torch import Tensor

from microtome.targets.resid_mlp import ResidMLP


def folded_output(target: ResidMLP, x: Float[Tensor, "K B n_features"]) -> Float[Tensor, "K B n_features"]:
    """``target(x)``, computed from ``W_E W_in``, ``W_out W_in'``, ``W_out W_U`` and ``W_E W_U``.

    With ``d_embed`` much larger than the number of features and neurons this saves nearly all arithmetic.
    """
    w_e, w_u = target.W_E, target.W_U
    layers = [
        (target.linear(f"layers.{i}.mlp_in"), target.linear(f"layers.{i}.mlp_out"))
        for i in range(target.config.n_layers)
    ]
    out = torch.matmul(x, w_e @ w_u)
    written: list[tuple[Tensor, Tensor, Tensor | None]] = []  # neurons, W_out, b_out of the layers so far
    for mlp_in, mlp_out in layers:
        before = torch.matmul(x, w_e @ mlp_in.weight)
        for neurons, weight, bias in written:
            before = before + torch.bmm(neurons, weight @ mlp_in.weight)
            if bias is not None:
                before = before + bias.unsqueeze(1) @ mlp_in.weight
        if mlp_in.bias is not None:
            before = before + mlp_in.bias.unsqueeze(1)
        written.append((target.act_fn(before), mlp_out.weight, mlp_out.bias))
    for neurons, weight, bias in written:
        out = out + torch.matmul(neurons, weight @ w_u)
        if bias is not None:
            out = out + bias.unsqueeze(1) @ w_u
    return target.act_fn(out) if target.config.apply_output_act_fn else out
