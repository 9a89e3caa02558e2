"""The loss of a language model, summed over real tokens, without the logits of all positions at once."""

import inspect
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from microtome.targets.module_paths import FAMILIES

CHUNK_ENTRIES = 2**25  # logits that stand in memory at a time: 128 MB in fp32


def scored_positions(attention_mask: Int[Tensor, "B T"]) -> Tensor:
    """Which tokens have a loss, as ``[B, T-1]`` booleans: real ones that follow a real one.

    The first token after padding on the left would be predicted from padding, and does not count.
    """
    real = attention_mask.bool()
    return real[:, 1:] & real[:, :-1]


def sum_token_losses(
    model: Any, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"], chunk: int | None = None
) -> tuple[Float[Tensor, ""], int]:
    """Sum of the negative log-likelihoods of the tokens in nats, with its graph, and how many they are.

    The targets are the inputs shifted by one, as Hugging Face models take ``labels``; padding is no target.
    The logits are made ``chunk`` positions at a time (default: as many as fit 128 MB) and their gradient is
    turned into that of the hidden states at once, in at least fp32. Models whose head is not known to be one
    matrix (and a softcap) give their logits whole.
    """
    scored = scored_positions(attention_mask)
    targets = input_ids[:, 1:][scored]
    inputs = _inputs(model, input_ids, attention_mask)
    if not has_plain_head(model):
        logits = model(**inputs).logits[:, :-1][scored]
        return _nll(logits.to(_accumulator(logits.dtype)), targets.to(logits.device)), len(targets)
    hidden = model.base_model(**inputs)[0]
    hidden = hidden[:, :-1][scored.to(hidden.device)]
    head = model.get_output_embeddings()
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    chunk = chunk or max(64, CHUNK_ENTRIES // head.out_features)
    return _chunked(hidden, targets.to(hidden.device), head, cap, chunk), len(targets)


def has_plain_head(model: Any) -> bool:
    """Whether the logits are ``cap(hidden @ W^T + b)`` of the last hidden state, as the known families'.

    And whether ``W`` can be read here: not offloaded, quantised, or in shards.
    """
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    known = getattr(model.config, "model_type", "") in FAMILIES
    if not known or not isinstance(head, nn.Linear):
        return False
    weight, body = head.weight, model.base_model
    is_plain = weight.is_floating_point() and not weight.is_meta and not hasattr(weight, "device_mesh")
    # In old versions the body of a multimodal model is a model with a head of its own.
    return is_plain and body is not model and not hasattr(body, "lm_head")


def _inputs(model: Any, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Any]:
    inputs: dict[str, Any] = {"input_ids": input_ids, "use_cache": False}
    if bool(attention_mask.all()):
        return inputs
    inputs["attention_mask"] = attention_mask
    padded_left = not bool(attention_mask[:, 0].all())
    # Tokens are then counted from the first real one. With padding on the right, models count right.
    if padded_left and "position_ids" in inspect.signature(model.forward).parameters:
        inputs["position_ids"] = (attention_mask.cumsum(-1) - 1).clamp(min=0)
    return inputs


def _accumulator(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _nll(logits: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits, targets, reduction="sum")


def _chunked(hidden: Tensor, targets: Tensor, head: nn.Linear, cap: float | None, chunk: int) -> Tensor:
    if not any(parameter.requires_grad for parameter in head.parameters()):
        loss: Any = _FrozenHeadLoss.apply(hidden, targets, head, cap, chunk)
        return loss
    if len(hidden) <= chunk:
        return _part(hidden, targets, head, cap)
    # A head that learns: its own gradient is needed too, so the logits of a chunk are made twice.
    total = hidden.new_zeros((), dtype=_accumulator(hidden.dtype))
    for rows, wanted in zip(hidden.split(chunk), targets.split(chunk), strict=True):
        part: Any = checkpoint(_part, rows, wanted, head, cap, use_reentrant=False)
        total = total + part.to(total.device)
    return total


def _part(rows: Tensor, targets: Tensor, head: nn.Linear, cap: float | None) -> Tensor:
    logits = head(rows)
    logits = _capped(logits.to(_accumulator(logits.dtype)), cap)
    return _nll(logits, targets.to(logits.device))


def _capped(logits: Tensor, cap: float | None) -> Tensor:
    return logits if cap is None else cap * torch.tanh(logits / cap)


class _FrozenHeadLoss(torch.autograd.Function):
    """Loss and gradient by the hidden states in one visit of each chunk: two matrix products, no more."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, targets: Tensor, head: nn.Linear, cap: float | None, chunk: int
    ) -> Tensor:
        wanted = hidden.requires_grad
        gradient = torch.empty_like(hidden) if wanted else None
        total = torch.zeros((), dtype=torch.float64, device=hidden.device)
        for start in range(0, len(hidden), chunk):
            rows = slice(start, start + chunk)
            losses, by_hidden = _loss_and_gradient(hidden[rows], targets[rows], head, cap, wanted)
            total += losses.sum(dtype=torch.float64).to(total.device)
            if gradient is not None and by_hidden is not None:
                gradient[rows] = by_hidden.to(gradient.device)
        ctx.gradient = gradient
        return total.to(_accumulator(hidden.dtype))

    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> Any:
        gradient = ctx.gradient
        if gradient is not None:
            # A factor other than 1 is taken in fp32, so that bf16 rounds once.
            factor = upstream[0]
            gradient = gradient if factor == 1 else (gradient.to(factor.dtype) * factor).to(gradient.dtype)
        return gradient, None, None, None, None


def _loss_and_gradient(
    hidden: Tensor, targets: Tensor, head: nn.Linear, cap: float | None, wanted: bool
) -> tuple[Tensor, Tensor | None]:
    """Losses ``[N]`` of ``hidden [N, d]``, and d(sum of losses)/d(hidden)."""
    weight = head.weight
    logits = nn.functional.linear(hidden.to(weight.device), weight, head.bias)
    logits = _capped(logits.to(_accumulator(logits.dtype)), cap)
    targets = targets.to(logits.device)
    log_p = torch.log_softmax(logits, -1)
    losses = -log_p.gather(1, targets[:, None])[:, 0]
    if not wanted:
        return losses, None
    by_logits = log_p.exp_()
    by_logits[torch.arange(len(targets), device=targets.device), targets] -= 1
    if cap is not None:
        by_logits *= 1 - (logits / cap).square_()
    del logits
    return losses, by_logits.to(weight.dtype) @ weight
