"""One training step of TopK, BatchTopK and Matryoshka dictionaries, on active features only.

The encoder's projection is one dense product (in bfloat16, if asked for: it only chooses the features, their
values are then computed in float32); everything behind it touches the active features alone. The gradients
are written out; the tests hold them to autograd on the dense formulas.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from microtome.core.distributed import Processes, all_reduce_sum
from microtome.dictionaries.dictionary import Dictionary
from microtome.dictionaries.selection import BatchSelection, largest_of_rows
from microtome.dictionaries.sparse import Entries, decoded, dots, gathered, summed

MOST_REVIVED = 1024  # dead features that the auxiliary loss tries at a time


@dataclass
class Gradients:
    """Gradients of one dictionary, and what the step measured (sums over this process' rows)."""

    W_enc: Tensor
    W_dec: Tensor
    b_enc: Tensor
    b_dec: Tensor
    squared_error: Tensor
    n_active: int
    fired: Bool[Tensor, " F"]
    threshold: float = 0.0
    others: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class SparseStep:
    """What a step needs besides the weights and the batch.

    ``rows``: rows of the global batch, over which losses are means. ``prefixes``: sizes of nested
    dictionaries, each of which has to reconstruct (mean of their losses); the last is all features.
    """

    rows: int
    k: int
    batch_selection: BatchSelection | None = None
    prefixes: tuple[int, ...] = ()
    bfloat16: bool = False
    aux_weight: float = 1 / 32
    aux_rows: int = 128
    """Rows of this process that the auxiliary loss looks at."""
    turn: int = 0
    """Which dead features are tried, where they are too many for one step."""
    processes: Processes = Processes()  # noqa: RUF009  (frozen)


def project(dictionary: Dictionary, centred: Float[Tensor, "B d"], bfloat16: bool) -> Float[Tensor, "B F"]:
    """The pre-activations; in bfloat16 good enough to choose by, at a fraction of the cost."""
    b_enc = dictionary.get_parameter("b_enc")
    if not bfloat16:
        return torch.addmm(b_enc, centred, dictionary.W_enc.T)
    return torch.addmm(b_enc.bfloat16(), centred.bfloat16(), dictionary.W_enc.bfloat16().T).float()


@torch.no_grad()
def sparse_step(
    dictionary: Dictionary,
    x: Float[Tensor, "B d"],
    step: SparseStep,
    dead: Bool[Tensor, " F"] | None = None,
) -> Gradients:
    """Gradients of ``sum |x - x_hat|^2 / (rows d)``, plus the auxiliary loss of the dead features."""
    centred = x - dictionary.b_dec
    pre = project(dictionary, centred, step.bfloat16)
    entries, threshold = _select(pre, step)
    if step.bfloat16:
        values = dots(entries, centred, dictionary.W_enc)
        values += dictionary.get_parameter("b_enc")[entries.features]
        entries = entries.with_values(values.relu_())
    result = _reconstruction(dictionary, x, centred, entries, step)
    result.threshold = threshold
    if dead is not None and step.aux_weight > 0:
        auxiliary(dictionary, centred, pre, dead, step, result)
    return result


def _select(pre: Tensor, step: SparseStep) -> tuple[Entries, float]:
    if step.batch_selection is None:
        return largest_of_rows(pre, step.k), 0.0
    return step.batch_selection.largest(pre)


def _reconstruction(
    dictionary: Dictionary, x: Tensor, centred: Tensor, entries: Entries, step: SparseStep
) -> Gradients:
    n_features, d = dictionary.W_dec.shape
    bounds = (0, *(step.prefixes or (n_features,)))
    parts = [entries] if len(bounds) == 2 else _parts(entries, bounds)
    errors = _errors(dictionary, x, parts, bounds)
    scale = 2.0 / (step.rows * d * len(parts))
    # A feature of part i helps to reconstruct prefix i and all larger ones.
    g = torch.zeros_like(x)
    W_enc, W_dec = [], []
    b_enc = torch.zeros(n_features, device=x.device)
    parallel = torch.zeros(n_features, device=x.device)
    for part, error, low, high in reversed(list(zip(parts, errors, bounds[:-1], bounds[1:], strict=True))):
        g = g.add(error, alpha=scale)
        dv = dots(part, g, dictionary.W_dec[low:high])
        # v dv is the decoder's gradient along its own row, which a row of length 1 does not follow.
        parallel[low:high] = summed(part, part.values * dv, high - low)
        dv = dv * (part.values > 0)
        active = part.with_values(dv)
        W_dec.append(gathered(part, g, high - low))
        active.order, active.feature_starts = part.order, part.feature_starts
        W_enc.append(gathered(active, centred, high - low))
        b_enc[low:high] = summed(part, dv, high - low)
    dW_dec = W_dec[0] if len(parts) == 1 else torch.cat(W_dec[::-1])
    dW_enc = W_enc[0] if len(parts) == 1 else torch.cat(W_enc[::-1])
    dW_dec.addcmul_(dictionary.W_dec, parallel[:, None], value=-1.0)
    positive = entries.values > 0
    return Gradients(
        dW_enc,
        dW_dec,
        b_enc,
        torch.stack(errors).sum((0, 1)) * scale - b_enc @ dictionary.W_enc,
        errors[-1].square().sum(dtype=torch.float64),
        int(positive.sum()),
        summed(entries, positive.float(), n_features) > 0,
        others={"error": errors[-1]},
    )


def _parts(entries: Entries, bounds: Sequence[int]) -> list[Entries]:
    return [entries.between(low, high) for low, high in pairwise(bounds)]


def _errors(
    dictionary: Dictionary, x: Tensor, parts: Sequence[Entries], bounds: Sequence[int]
) -> list[Tensor]:
    """``x_hat - x`` of every prefix."""
    errors, x_hat = [], dictionary.b_dec - x
    for part, low, high in zip(parts, bounds[:-1], bounds[1:], strict=True):
        x_hat = x_hat + decoded(part, dictionary.W_dec[low:high])
        errors.append(x_hat)
    return errors


def auxiliary(
    dictionary: Dictionary,
    centred: Tensor,
    pre: Tensor,
    dead: Tensor,
    step: SparseStep,
    result: Gradients,
) -> None:
    """Add the gradients of AuxK: dead features reconstruct what the living ones left over.

    ``aux_weight * |error + x_aux|^2 / |error|^2`` over the first ``aux_rows`` rows, ``x_aux`` made of the
    ``d / 2`` largest dead features (all, where fewer are dead; at most 1,024 are tried at a time). Gao et al.
    2024, appendix A.2, on part of the batch: Adam follows the direction of a gradient, not its length.
    """
    which = dead.nonzero()[:, 0]
    if not len(which):
        return
    if len(which) > MOST_REVIVED:
        which = which.roll(-step.turn * MOST_REVIVED)[:MOST_REVIVED]
    rows = slice(0, step.aux_rows)
    k = min(dictionary.config.d_in // 2, len(which))
    pre, centred, error = pre[rows][:, which], centred[rows], result.others["error"][rows]
    if k < len(which):
        lowest = pre.topk(k, sorted=False).values.amin(1, keepdim=True)
        pre = pre * (pre >= lowest)
    acts = pre.relu()
    W_dec, W_enc = dictionary.W_dec[which], dictionary.W_enc[which]
    left = acts @ W_dec + error
    share = min(len(which) / (dictionary.config.d_in / 2), 1.0)
    total = all_reduce_sum(error.square().sum(), step.processes).clamp_min(1e-12)
    g = left * (2.0 * step.aux_weight * share / total)
    dv = (g @ W_dec.T) * (acts > 0)
    gradient = acts.T @ g
    gradient -= W_dec * (gradient * W_dec).sum(1, keepdim=True)
    result.W_dec.index_add_(0, which, gradient)
    result.W_enc.index_add_(0, which, dv.T @ centred)
    result.b_enc.index_add_(0, which, dv.sum(0))
    result.b_dec -= dv.sum(0) @ W_enc
