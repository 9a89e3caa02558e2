"""Sequences of random tokens that repeat: what induction heads are trained and tested on."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from microtome.core.errors import bad_value


@dataclass(frozen=True)
class InductionSequences:
    """Token ids ``[K, B, seq_len]``; the first is ``vocab_size``, the beginning of a sequence.

    ``repeat``: distinct random tokens, repeated with a period that each row draws from ``period``, so that
    only what came after a token's last occurrence, and no position, tells what comes next. ``pair``: random
    tokens, a marker (``vocab_size + 1``) with some token after it within the first ``prefix_window`` ones,
    and the marker again at the end: what comes next is that token.
    """

    vocab_size: int = 64
    seq_len: int = 32
    pattern: Literal["repeat", "pair"] = "repeat"
    period: tuple[int, int] = (6, 24)
    prefix_window: int | None = None
    device: str | torch.device = "cpu"

    def __post_init__(self) -> None:
        low, high = self.period
        if self.pattern == "repeat" and not 1 < low <= high <= self.vocab_size:
            raise bad_value(
                "period", [low, high], f"not within 2 to vocab_size={self.vocab_size}", "use (low, high)"
            )
        if self.pattern == "repeat" and self.seq_len <= high + 1:
            raise bad_value("seq_len", self.seq_len, "nothing repeats", f"use more than {high + 1}")
        if self.pattern == "pair" and not 3 <= self.window <= self.seq_len - 1:
            raise bad_value(
                "prefix_window", self.window, "no room for a pair", f"use 3 to {self.seq_len - 1}"
            )

    @property
    def window(self) -> int:
        """The tokens among which the first of a pair stands."""
        return self.seq_len - 3 if self.prefix_window is None else self.prefix_window

    def batch(
        self, batch_size: int, generator: torch.Generator | None = None, n_instances: int = 1
    ) -> Int[Tensor, "K B T"]:
        """Fresh sequences for each instance."""
        rows = n_instances * batch_size
        make = self._repeated if self.pattern == "repeat" else self._pairs
        return make(rows, generator).reshape(n_instances, batch_size, self.seq_len)

    def predictable(self, x: Int[Tensor, "*B T"]) -> Bool[Tensor, "*B T"]:
        """Where what comes next has been seen: the token at that position stood earlier in its row.

        The last position of repeating sequences has no next token; of pairs it is the only one.
        """
        if self.pattern == "pair":
            last = torch.zeros_like(x, dtype=torch.bool)
            last[..., -1] = True
            return last
        earlier = torch.ones(x.shape[-1], x.shape[-1], dtype=torch.bool, device=x.device).tril(-1)
        seen = ((x.unsqueeze(-1) == x.unsqueeze(-2)) & earlier).any(-1)
        seen[..., -1] = False
        return seen

    def next_tokens(self, x: Int[Tensor, "*B T"]) -> Int[Tensor, "*B T"]:
        """What comes after each position; of pairs, what belongs after the marker at the end."""
        if self.pattern == "repeat":
            return torch.cat([x[..., 1:], x[..., :1]], -1)
        marker = (x[..., :-1] == self.vocab_size + 1).long().argmax(-1, keepdim=True)
        return torch.cat([x[..., 1:], x.gather(-1, marker + 1)], -1)

    def spec(self) -> dict[str, Any]:
        """JSON-able description from which ``data.loading.data_from_spec`` makes the same source."""
        return {
            "kind": "induction",
            "vocab_size": self.vocab_size,
            "seq_len": self.seq_len,
            "pattern": self.pattern,
            "period": list(self.period),
            "prefix_window": self.prefix_window,
        }

    def _repeated(self, rows: int, generator: torch.Generator | None) -> Tensor:
        low, high = self.period
        order = torch.rand(rows, self.vocab_size, generator=generator, device=self.device).argsort(-1)
        period = torch.randint(low, high + 1, (rows, 1), generator=generator, device=self.device)
        place = torch.arange(self.seq_len - 1, device=self.device) % period
        first = torch.full((rows, 1), self.vocab_size, device=self.device)
        return torch.cat([first, order.gather(-1, place)], -1)

    def _pairs(self, rows: int, generator: torch.Generator | None) -> Tensor:
        shape = (rows, self.seq_len)
        x = torch.randint(self.vocab_size, shape, generator=generator, device=self.device)
        where = torch.randint(1, self.window - 1, (rows, 1), generator=generator, device=self.device)
        x.scatter_(-1, where, self.vocab_size + 1)
        x[:, 0], x[:, -1] = self.vocab_size, self.vocab_size + 1
        return x
