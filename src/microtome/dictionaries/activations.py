"""Activations of a language model's layers, streamed: one forward pass gives all layers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from microtome.core.distributed import Processes, share
from microtome.core.errors import MicrotomeError, bad_value
from microtome.core.seeds import generator
from microtome.data.text import TokenBatch, token_batches
from microtome.hooks import record
from microtome.targets.language_model import LanguageModel


def site_name(layer: int, site: str) -> str:
    """The name of a dictionary's folder: ``layers.3.mlp``."""
    return f"layers.{layer}.{site}"


@dataclass(frozen=True)
class TokenChoice:
    """Which tokens count."""

    skip_first: bool = False
    max_norm_multiple: float | None = None


class _Enough(Exception):
    """Raised behind the last layer that is wanted: what comes after it need not be computed."""


@torch.no_grad()
def site_activations(
    lm: LanguageModel, batch: TokenBatch, paths: Sequence[str]
) -> dict[str, Float[Tensor, "B T d"]]:
    """What the modules at ``paths`` give out on one batch, padding included."""
    last = _last_to_run(lm, paths)

    def stop(*_: Any) -> None:
        raise _Enough

    ids, mask = batch.input_ids.to(lm.device), batch.attention_mask.to(lm.device)
    with record(lm.model, list(paths)) as found:
        handle = lm.model.get_submodule(last).register_forward_hook(stop)
        try:
            lm.model(input_ids=ids, attention_mask=mask, use_cache=False)
        except _Enough:
            pass
        finally:
            handle.remove()
        return dict(found)


def _last_to_run(lm: LanguageModel, paths: Sequence[str]) -> str:
    """The path of the highest layer; modules of one layer may come in any order, so only one site a call."""
    order = {name: number for number, (name, _) in enumerate(lm.model.named_modules())}
    return max(paths, key=lambda path: order.get(path, -1))


def counted(batch: TokenBatch, choice: TokenChoice) -> Bool[Tensor, "B T"]:
    """The tokens that are no padding and, perhaps, not the first of their text."""
    mask = batch.attention_mask.bool().clone()
    if choice.skip_first:
        mask[:, 0] = False
    return mask


def without_huge(x: Float[Tensor, "N d"], multiple: float | None) -> Bool[Tensor, " N"]:
    """The rows not longer than ``multiple`` times the median; what is not finite stays, to be told of."""
    if multiple is None or not len(x):
        return torch.ones(len(x), dtype=torch.bool, device=x.device)
    lengths = x.float().norm(dim=1)
    return ~(lengths > multiple * lengths.nanmedian()) | ~lengths.isfinite()


class LanguageModelSource:
    """Activations of several layers on one text after another, as often as is needed.

    The order of the texts is another one in every round. Each process of several reads its own share.
    """

    def __init__(
        self,
        lm: LanguageModel,
        texts: Sequence[str],
        layers: Sequence[int],
        site: str,
        *,
        max_length: int,
        texts_at_once: int,
        choice: TokenChoice | None = None,
        seed: int = 0,
        processes: Processes | None = None,
    ) -> None:
        if max_length > lm.context_length:
            raise bad_value(
                "max_length",
                max_length,
                f"{lm.name} reads {lm.context_length} tokens",
                f"choose at most {lm.context_length}",
            )
        self.lm, self.choice, self.seed = lm, choice or TokenChoice(), seed
        self.paths = {site_name(layer, site): lm.path(layer, site) for layer in layers}
        own = share(list(texts), processes or Processes())
        if not own:
            raise MicrotomeError(f"{len(texts)} texts are too few for so many processes; start fewer")
        self.batches = list(token_batches(own, lm.tokenizer, max_length=max_length, batch_size=texts_at_once))
        self.dropped = self.seen = 0

    def chunks(self, position: int) -> Iterator[dict[str, Tensor]]:
        """Chunk number ``position`` and the following: ``{layers.i.site: [tokens, d]}``."""
        while True:
            epoch, place = divmod(position, len(self.batches))
            order = torch.randperm(
                len(self.batches), generator=generator(self.seed, stream=f"texts of round {epoch}")
            )
            for number in order[place:].tolist():
                yield self.activations(self.batches[number])
                position += 1

    def activations(self, batch: TokenBatch) -> dict[str, Float[Tensor, "N d"]]:
        """The counted tokens' activations at every site."""
        found = site_activations(self.lm, batch, list(self.paths.values()))
        mask = counted(batch, self.choice)
        rows = {name: found[path][mask.to(found[path].device)].cpu() for name, path in self.paths.items()}
        kept = torch.ones(int(mask.sum()), dtype=torch.bool)
        for x in rows.values():
            kept &= without_huge(x, self.choice.max_norm_multiple)
        self.seen += len(kept)
        self.dropped += len(kept) - int(kept.sum())
        return {name: x[kept] for name, x in rows.items()}
