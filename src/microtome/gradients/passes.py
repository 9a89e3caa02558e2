"""Passes through the model: the gradient of the loss by the activations of every layer."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from microtome.data.text import TokenBatch
from microtome.hooks import record, record_gradients, replace
from microtome.targets.language_model import LanguageModel, token_losses

LossScale = Literal["sum", "batch_mean"]
# (layer, activations [B, T, d], gradients [B, T, d])
Arrival = Callable[[int, Tensor, Tensor], None]


def backward(lm: LanguageModel, batch: TokenBatch, loss_scale: LossScale = "sum") -> float:
    """Run forward and backward; returns the loss.

    ``sum``: the sum over real tokens of their negative log-likelihood, in nats. ``batch_mean``: what Hugging
    Face models return with the inputs as labels, the mean over all positions, padding among the labels.
    """
    if loss_scale == "sum":
        loss, _ = token_losses(lm, batch.input_ids, batch.attention_mask)
    else:
        ids = batch.input_ids.to(lm.device)
        loss = lm.model(
            input_ids=ids, attention_mask=batch.attention_mask.to(lm.device), labels=ids, use_cache=False
        ).loss
    loss.backward()
    return float(loss.detach())


def all_layers(
    lm: LanguageModel,
    batch: TokenBatch,
    paths: Mapping[int, str],
    arrived: Arrival,
    loss_scale: LossScale = "sum",
    checkpointing: bool = False,
) -> float:
    """One forward and one backward: activations and gradients of every layer, last layer first.

    ``paths`` are the module paths by layer. Nothing is copied; ``arrived`` takes what it needs at once.
    """
    layer_of = {path: layer for layer, path in paths.items()}

    def act(name: str, activation: Tensor, gradient: Tensor) -> None:
        arrived(layer_of[name], activation, gradient)

    blocks = checkpointed(lm) if checkpointing else nullcontext()
    with torch.enable_grad(), record_gradients(lm.model, list(layer_of), act), blocks:
        return backward(lm, batch, loss_scale)


@torch.no_grad()
def activations(lm: LanguageModel, batch: TokenBatch, paths: Mapping[int, str]) -> dict[int, Tensor]:
    """Activations ``[B, T, d]`` of each layer, by one forward pass."""
    with record(lm.model, list(paths.values())) as found:
        run_body(lm, batch.input_ids, batch.attention_mask)
        return {layer: found[path] for layer, path in paths.items()}


def spliced_gradient(
    lm: LanguageModel,
    batch: TokenBatch,
    path: str,
    rows: Int[Tensor, " N"],
    x_hat: Float[Tensor, "N d"],
    loss_scale: LossScale = "sum",
) -> Float[Tensor, "N d"]:
    """The gradient by ``x_hat`` where it stands for the activations at ``rows`` of the flattened batch."""
    x_hat = x_hat.detach().requires_grad_()

    def splice(output: Tensor) -> Tensor:
        flat = output.reshape(-1, output.shape[-1])
        return flat.index_copy(0, rows.to(flat.device), x_hat.to(flat)).view_as(output)

    with torch.enable_grad(), replace(lm.model, {path: splice}):
        backward(lm, batch, loss_scale)
    assert x_hat.grad is not None
    return x_hat.grad


def run_body(lm: LanguageModel, input_ids: Tensor, attention_mask: Tensor) -> Any:
    """The model without its head: all that activations need."""
    body = lm.model.base_model if hasattr(lm.model, "base_model") else lm.model
    return body(
        input_ids=input_ids.to(lm.device), attention_mask=attention_mask.to(lm.device), use_cache=False
    )


@contextmanager
def checkpointed(lm: LanguageModel) -> Iterator[None]:
    """While the block runs, each layer forgets its insides after the forward pass and makes them again.

    The memory of one layer instead of all, for a second forward pass.
    """
    from torch.utils.checkpoint import checkpoint

    blocks: Sequence[nn.Module] = [lm.model.get_submodule(p) for p in block_paths(lm)]

    def again(forward: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: checkpoint(forward, *args, use_reentrant=False, **kwargs)

    for block in blocks:
        block.forward = again(block.forward)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward  # the class's own shows again


def block_paths(lm: LanguageModel) -> list[str]:
    """Module paths of the layers; for an unknown architecture, what holds the named modules."""
    if lm.module_path is None:
        return [lm.path(layer, "resid") for layer in range(lm.n_layers)]
    template = lm.module_path
    head, _, tail = template.partition("{layer}")
    return [f"{head}{layer}" for layer in range(lm.n_layers)] if tail else []
