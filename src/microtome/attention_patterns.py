"""Record exact attention patterns from any model, whatever kernel computes its attention."""

import inspect
import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_MULTIHEAD = inspect.signature(F.multi_head_attention_forward)
_SOFTMAX = (F.softmax, torch.softmax, Tensor.softmax)


@contextmanager
def record_attention(model: nn.Module) -> Iterator[dict[str, Float[Tensor, "B H Q K"]]]:
    """Keep every attention pattern that ``model`` computes while the block runs.

    Yields a dict that fills as the model runs: name of the module that attends -> probabilities
    ``[B, H, Q, K]`` before dropout, detached, of the last pass. A module that attends a second time in one
    pass (shared layers) adds ``name#2``, and so on. Three ways of attending are seen:

    - ``F.scaled_dot_product_attention`` (Hugging Face's ``sdpa``, most own code): the kernel's result is used
      as it is, and the pattern is computed beside it from the same queries, keys, mask, causal flag and
      scale, grouped queries included. A row that may look nowhere is all 0, as in the kernel.
    - ``nn.MultiheadAttention`` and the encoder and decoder layers built of it: computed a second time with
      weights asked for and without dropout.
    - a softmax over the last axis of four (Hugging Face's ``eager``, hand-written attention): its result.

    Random numbers and outputs stay as they are: bit for bit in training mode. In evaluation mode PyTorch's
    fused encoder kernel, which has no patterns to give, is passed by, so that outputs may differ by rounding.
    Kernels outside PyTorch (flash-attn) and flex attention are not seen.
    """
    found: dict[str, Tensor] = {}
    running: list[str] = []
    calls: Counter[str] = Counter()

    def enter(name: str) -> None:
        if not running:
            calls.clear()
        running.append(name)

    def leave(*_: Any) -> None:
        running.pop()

    def keep(pattern: Tensor) -> None:
        name = running[-1] if running else ""
        calls[name] += 1
        found[name if calls[name] == 1 else f"{name}#{calls[name]}"] = pattern.detach()

    with ExitStack() as stack:
        _run_eagerly(model, stack)
        for name, module in model.named_modules():
            before = module.register_forward_pre_hook(lambda _m, _a, name=name: enter(name))
            # always_call: a forward that raises must not leave its name behind
            after = module.register_forward_hook(leave, always_call=True)
            stack.callback(before.remove)
            stack.callback(after.remove)
        stack.enter_context(_Watch(keep))
        yield found


class _Watch(TorchFunctionMode):
    """Sees every torch function before it runs; inside ``__torch_function__`` the mode itself is off."""

    def __init__(self, keep: Callable[[Tensor], None]) -> None:
        super().__init__()
        self._keep = keep

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            with torch.no_grad():
                self._keep(_sdpa_pattern(*args, **kwargs))
        elif func is F.multi_head_attention_forward:
            with torch.no_grad():
                self._keep(_multihead_pattern(args, kwargs))
        out = func(*args, **kwargs)
        if func in _SOFTMAX and isinstance(out, Tensor) and out.ndim == 4 and _over_last(args, kwargs):
            self._keep(out)
        return out


def _sdpa_pattern(
    query: Tensor,
    key: Tensor,
    value: Tensor,  # noqa: ARG001
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,  # noqa: ARG001
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Float[Tensor, "B H Q K"]:
    """Softmax of the masked scores, in float32 at least, as the kernel's documentation writes it."""
    kind = torch.promote_types(query.dtype, torch.float32)
    query, key = query.to(kind), key.to(kind)
    if enable_gqa and key.shape[-3] != query.shape[-3]:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
    scores = query @ key.mT * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if is_causal:
        allowed = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(~allowed, -math.inf)
    if attn_mask is not None:
        if attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, -math.inf)
        else:
            scores = scores + attn_mask
    pattern = scores.softmax(-1)
    pattern = torch.where((scores == -math.inf).all(-1, keepdim=True), 0.0, pattern)
    if pattern.ndim < 4:  # without a head axis, or without a batch
        return pattern.reshape(-1, 1, *pattern.shape[-2:])
    return pattern.flatten(0, -4)


def _multihead_pattern(args: Any, kwargs: Any) -> Float[Tensor, "B H Q K"]:
    """The weights of ``F.multi_head_attention_forward``, head by head, without dropout."""
    given = _MULTIHEAD.bind(*args, **kwargs).arguments
    given |= {"need_weights": True, "average_attn_weights": False, "training": False}
    _, weights = F.multi_head_attention_forward(**given)
    assert weights is not None
    return weights if weights.ndim == 4 else weights.unsqueeze(0)


def _over_last(args: Any, kwargs: Any) -> bool:
    dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
    return dim in (-1, 3)


def _run_eagerly(model: nn.Module, stack: ExitStack) -> None:
    """A compiled module shows neither functions nor submodules: inside the block it runs uncompiled."""
    compiled = any(
        getattr(part, "_compiled_call_impl", None) is not None or hasattr(part, "_orig_mod")
        for part in model.modules()
    )
    if compiled:
        stack.enter_context(torch.compiler.set_stance("force_eager"))
