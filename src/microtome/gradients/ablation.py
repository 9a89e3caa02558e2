"""What truly happens to the loss when features are removed, or nudged, at the unmodified model.

The change is added to the layer's output, so that whatever the dictionary does not explain stays as it is.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from microtome.data.text import TokenBatch
from microtome.dictionaries.config import DictionaryConfig
from microtome.dictionaries.dictionary import normalised
from microtome.gradients.active_pairs import FeatureSource, active_pairs
from microtome.gradients.passes import activations
from microtome.hooks import replace
from microtome.targets.language_model import LanguageModel
from microtome.targets.token_losses import scored_positions

T = TypeVar("T")

LOGITS_AT_ONCE = 2**25
TOKENS_AT_ONCE = 2048


class Identity:
    """Raw activations as a dictionary: each dimension a feature that always acts."""

    def __init__(self, width: int) -> None:
        self.config = DictionaryConfig(
            architecture="relu", d_in=width, n_features=width, subtract_b_dec=False
        )
        self.b_dec = torch.zeros(width)

    def decoder_rows(self, a: int, b: int) -> Tensor:
        """Rows of the identity matrix."""
        return torch.eye(self.config.d_in)[a:b]

    def active(self, x: Tensor, *, block: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Every dimension."""
        return x.float(), torch.arange(x.shape[1], device=x.device).expand(x.shape)


@dataclass(frozen=True)
class _Sample:
    """One sample: its tokens, and where in it which features act."""

    ids: Int[Tensor, " T"]
    place: Int[Tensor, " P"]
    feature: Int[Tensor, " P"]
    value: Float[Tensor, " P"]
    loss: float


class LayerIntervention:
    """Changes to the features of one layer, and the loss that follows, over a fixed set of samples."""

    def __init__(
        self, lm: LanguageModel, path: str, dictionary: FeatureSource, batches: Sequence[TokenBatch]
    ) -> None:
        self.lm, self.path, self.dictionary = lm, path, dictionary
        self.samples: list[_Sample] = []
        self.firing = torch.zeros(dictionary.config.n_features, dtype=torch.int64)
        for batch in batches:
            self._take(batch)
        self.scored = sum(len(sample.ids) - 1 for sample in self.samples)
        self.base = sum(sample.loss for sample in self.samples)
        self._directions: dict[int, Tensor] = {}

    @torch.no_grad()
    def _take(self, batch: TokenBatch) -> None:
        real = batch.attention_mask.bool()
        x = activations(self.lm, batch, {0: self.path})[0]
        losses = sample_losses(self.lm, batch.input_ids, batch.attention_mask)
        for row, (ids, mask) in enumerate(zip(batch.input_ids, real, strict=True)):
            values = x[row][mask.to(x.device)]
            pairs = active_pairs(self.dictionary, values)
            self.firing += torch.bincount(pairs.feature.cpu(), minlength=len(self.firing))
            scale = normalised(values.float(), self.dictionary.config)[2]
            value = pairs.value if scale is None else pairs.value * scale[pairs.row, 0]
            by_place = [t.cpu() for t in (pairs.row, pairs.feature, value)]
            self.samples.append(_Sample(ids[mask], *by_place, loss=float(losses[row])))

    def single(self, features: Sequence[int]) -> Float[Tensor, " n"]:
        """Change of the summed loss, in nats, when each feature is removed on its own, everywhere it acts.

        A sample in which it does not act keeps its loss, so only the others are run.
        """
        self._collect(features)
        jobs = []
        for number, feature in enumerate(features):
            for sample in self.samples:
                here = sample.feature == feature
                if bool(here.any()):
                    jobs.append((number, sample, here))
        change = torch.zeros(len(features), dtype=torch.float64)
        for part in _batched(jobs, lambda job: len(job[1].ids), self._rows_at_once):
            deltas = []
            for number, sample, here in part:
                delta = torch.zeros(len(sample.ids), self.dictionary.config.d_in)
                direction = self._directions[int(features[number])]
                delta.index_add_(0, sample.place[here], -sample.value[here, None] * direction)
                deltas.append(delta)
            losses = self._losses([sample for _, sample, _ in part], deltas)
            for (number, sample, _), loss in zip(part, losses.tolist(), strict=True):
                change[number] += loss - sample.loss
        return change

    def together(self, features: Sequence[int], factor: float = -1.0) -> float:
        """Change of the summed loss when ``factor`` times themselves is added to all these at once."""
        self._collect(features)
        chosen = torch.zeros(len(self.firing), dtype=torch.bool)
        chosen[list(features)] = True
        change = 0.0
        for part in _batched(self.samples, lambda sample: len(sample.ids), self._rows_at_once):
            deltas = []
            for sample in part:
                delta = torch.zeros(len(sample.ids), self.dictionary.config.d_in)
                here = chosen[sample.feature]
                if bool(here.any()):
                    directions = torch.stack([self._directions[f] for f in sample.feature[here].tolist()])
                    delta.index_add_(0, sample.place[here], factor * sample.value[here, None] * directions)
                deltas.append(delta)
            losses = self._losses(part, deltas)
            change += float(losses.sum()) - sum(sample.loss for sample in part)
        return change

    def _collect(self, features: Sequence[int]) -> None:
        for feature in features:
            if int(feature) not in self._directions:
                row = self.dictionary.decoder_rows(int(feature), int(feature) + 1)
                self._directions[int(feature)] = row[0].float().clone()

    def _rows_at_once(self, length: int) -> int:
        words = int(self.lm.model.get_output_embeddings().weight.shape[0])
        return max(1, min(TOKENS_AT_ONCE // length, LOGITS_AT_ONCE // (length * words)))

    @torch.no_grad()
    def _losses(self, samples: Sequence[_Sample], deltas: Sequence[Tensor]) -> Tensor:
        length = max(len(sample.ids) for sample in samples)
        ids = torch.zeros(len(samples), length, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        delta = torch.zeros(len(samples), length, deltas[0].shape[1])
        for row, (sample, own) in enumerate(zip(samples, deltas, strict=True)):
            n = len(sample.ids)
            ids[row, :n], mask[row, :n], delta[row, :n] = sample.ids, 1, own
        with replace(self.lm.model, {self.path: lambda output: output + delta.to(output)}):
            return sample_losses(self.lm, ids, mask)


@torch.no_grad()
def sample_losses(
    lm: LanguageModel, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"]
) -> Float[Tensor, " B"]:
    """Summed loss of each sample in nats, float64, on the CPU."""
    ids, mask = input_ids.to(lm.device), attention_mask.to(lm.device)
    logits = lm.model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
    targets = ids[:, 1:].to(logits.device)
    losses = torch.nn.functional.cross_entropy(
        logits.float().transpose(1, 2), targets, reduction="none"
    ).double()
    return (losses * scored_positions(mask).to(losses)).sum(1).cpu()


def _batched(
    items: Sequence[T], length: Callable[[T], int], rows_at_once: Callable[[int], int]
) -> Iterator[list[T]]:
    """Items of like length together, longest first, as many as fit."""
    order = sorted(items, key=length, reverse=True)
    start = 0
    while start < len(order):
        stop = start + rows_at_once(length(order[start]))
        yield order[start:stop]
        start = stop
