"""Gradient attributions: how much each component moves the output, to first order."""

import torch
from jaxtyping import Float
from torch import Tensor


def gradient_attributions(
    output: Float[Tensor, "K B n_out"],
    site_outputs: dict[str, Float[Tensor, "K B _"]],
    component_outputs: dict[str, Float[Tensor, "K B C _"]],
) -> Float[Tensor, "K B C"]:
    """``A_c = sum_o (sum_l <d out_o / d post_l, pre_l P_{c,l}>)^2``.

    ``site_outputs`` (post_l) are the tensors ``output`` was computed from; ``component_outputs`` are
    ``pre_l P_{c,l}``, and only they carry a gradient on. One backward pass for each output, as in the
    original APD code; the closed forms (``apd_tms``, ``apd_resid_mlp``) do the same in one go.
    """
    names = list(site_outputs)
    posts = [site_outputs[name] for name in names]
    total: Tensor | None = None
    for o in range(output.shape[-1]):
        with torch.enable_grad():  # also for callers that want values only
            gradients = torch.autograd.grad(output[..., o].sum(), posts, retain_graph=True)
        score = sum(
            torch.einsum("kbd,kbcd->kbc", gradient, component_outputs[name])
            for gradient, name in zip(gradients, names, strict=True)
        )
        assert isinstance(score, Tensor)
        total = score**2 if total is None else total + score**2
    assert total is not None
    return total
