"""Which tokens components fire on and before: sums over a stream of positions, a column a component."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from microtome.core.errors import MicrotomeError

MOST_BYTES = 8 * 2**30


class TokenSums:
    """Sums over P positions for C components of one site, by the token read and by those predicted."""

    def __init__(self, n_tokens: int, n_components: int, device: torch.device | str = "cpu") -> None:
        if 12 * n_tokens * n_components > MOST_BYTES:
            raise MicrotomeError(
                f"sites: {n_components} components by {n_tokens} tokens do not fit memory;"
                " look at fewer sites at a time with --sites"
            )
        shape = (n_tokens, n_components)
        self.importance = torch.zeros(shape, device=device)
        """Sum of causal importances where the token is read."""
        self.fired = torch.zeros(shape, device=device)
        """Number of times that the component fires there."""
        self.predicted = torch.zeros(shape, device=device)
        """Sum of the probability that the target gives the token as next one, where the component fires."""

    def add(
        self,
        tokens: "ByToken",
        importance: Float[Tensor, "P C"],
        fires: Float[Tensor, "P C"],
        said: "ByToken",
    ) -> None:
        """Add P positions: the tokens read there, and the tokens predicted with their probabilities."""
        tokens.add(self.importance, importance)
        tokens.add(self.fired, fires)
        said.add(self.predicted, fires)


class ByToken:
    """Sums of rows by token: P positions, each with one token or several, weighed."""

    def __init__(self, ids: Int[Tensor, "P m"], weight: Float[Tensor, "P m"]) -> None:
        self.tokens, row = torch.unique(ids.flatten(), return_inverse=True)
        place = torch.arange(len(ids), device=ids.device).repeat_interleave(ids.shape[1])
        size = (len(self.tokens), len(ids))
        # A sparse product: index_add_ goes through positions one by one.
        pairs = torch.stack([row, place])
        sparse = torch.sparse_coo_tensor(pairs, weight.flatten(), size, check_invariants=False)
        self.matrix = sparse.coalesce()

    def add(self, sums: Float[Tensor, "V C"], rows: Float[Tensor, "P C"]) -> None:
        """Add to ``sums`` of every token the rows of its positions."""
        sums[self.tokens] += torch.sparse.mm(self.matrix, rows.to(self.matrix.dtype))


@dataclass(frozen=True)
class Predictions:
    """The likeliest next tokens at P positions and their probabilities."""

    ids: Int[Tensor, "P m"]
    probability: Float[Tensor, "P m"]

    @classmethod
    def of(cls, logits: Float[Tensor, "*P V"], m: int) -> "Predictions":
        """The ``m`` likeliest of each position."""
        flat = logits.reshape(-1, logits.shape[-1]).float()
        top, ids = flat.topk(min(m, flat.shape[-1]), dim=-1)
        return cls(ids, (top - flat.logsumexp(-1, keepdim=True)).exp())

    def by_token(self) -> ByToken:
        """Sums by predicted token, weighed by probability."""
        return ByToken(self.ids, self.probability)


@dataclass(frozen=True)
class TokenList:
    """The first tokens of a ranking, for each of C components; -1 and 0 where there are fewer."""

    ids: Int[Tensor, "C n"]
    value: Float[Tensor, "C n"]
    count: Float[Tensor, "C n"]


def by_mean(sums: Float[Tensor, "V C"], seen: Float[Tensor, " V"], n: int, min_count: int) -> TokenList:
    """Tokens with the largest mean: the sum over their occurrences by ``seen``, how often they were seen.

    ``count`` is ``seen``; tokens seen less than ``min_count`` times are left out.
    """
    mean = sums / seen.clamp(min=1)[:, None]
    mean[seen < min_count] = 0.0
    return _top(mean, seen[:, None].expand_as(mean), n)


def by_lift(together: Float[Tensor, "V C"], seen: Float[Tensor, " V"], n: int, min_count: int) -> TokenList:
    """Tokens with the largest lift ``P(token, fires) / (P(token) P(fires))``; log2 of it is the PMI in bits.

    ``together``: how often (or with what summed probability) they meet; ``seen``: the token alone.
    ``count`` is ``together``; pairs that meet less than ``min_count`` times are left out, as is lift below 1.
    """
    fires, positions = together.sum(0), seen.sum()
    lift = together * positions / (seen.clamp(min=1e-9)[:, None] * fires.clamp(min=1e-9)[None, :])
    lift[(together < min_count) | (lift <= 1.0)] = 0.0
    return _top(lift, together, n)


def _top(values: Tensor, count: Tensor, n: int) -> TokenList:
    top, ids = values.topk(min(n, len(values)), dim=0)
    ids, top = ids.T.contiguous(), top.T.contiguous()
    counts = count.gather(0, ids.T).T.contiguous()
    empty = top <= 0
    return TokenList(ids.masked_fill(empty, -1), top.masked_fill(empty, 0.0), counts.masked_fill(empty, 0.0))
