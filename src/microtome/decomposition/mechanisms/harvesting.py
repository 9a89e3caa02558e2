"""Collecting what components fire on, batch by batch, in memory that stays the same."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from microtome.decomposition.mechanisms.config import ExamplesConfig
from microtome.decomposition.mechanisms.reading import Reading
from microtome.decomposition.mechanisms.reservoirs import Reservoirs, random_keys
from microtome.decomposition.mechanisms.token_sums import ByToken, Predictions, TokenSums

MOST_COMPONENTS = 8192  # whose firing together is counted: a matrix of so many squared
WIDEST_INPUT = 4096  # whose mean is kept for every component
NO_TOKEN = -1


class SiteHarvest:
    """What is collected of one site's C components, S strata each."""

    def __init__(
        self, n_components: int, config: ExamplesConfig, like: Tensor, n_tokens: int, number: int
    ) -> None:
        """``like``: a batch, ``[1, B, ...]``; ``n_tokens``: size of the vocabulary, 0 for what is no text.
        ``number`` tells the sites apart."""
        device = like.device
        self.config, self.number = config, number
        self.fired = torch.zeros(n_components, dtype=torch.float64, device=device)
        self.importance = torch.zeros(n_components, dtype=torch.float64, device=device)
        self.largest = torch.zeros(n_components, device=device)
        self.tokens = TokenSums(n_tokens, n_components, device) if n_tokens else None
        width = config.tokens_before + 1 + config.tokens_after
        fields: dict[str, Tensor] = {
            "place": torch.zeros(2, dtype=torch.int64, device=device),
            "activation": torch.zeros((), device=device),
        }
        if n_tokens:
            fields["tokens"] = torch.full((width,), NO_TOKEN, dtype=torch.int32, device=device)
            fields["importance"] = torch.zeros(width, device=device)
        else:
            fields["input"] = torch.zeros(like.shape[2:], device=device)
            fields["importance"] = torch.zeros(1, device=device)
        strata = len(config.strata)
        self.reservoirs = Reservoirs(n_components * strata, config.examples_per_stratum, fields)
        flat = like[0, 0].numel()
        self.mean_input = None
        if not n_tokens and flat <= WIDEST_INPUT:
            self.mean_input = torch.zeros(n_components, flat, dtype=torch.float64, device=device)

    def add(self, reading: Reading, site: str, first: int, said: tuple[ByToken, ByToken] | None) -> None:
        """Add a batch whose first input is number ``first`` of all; ``said``: tokens read and predicted."""
        rows = reading.rows(site)
        fires = (rows > self.config.threshold).to(rows.dtype)
        self.fired += fires.sum(0)
        self.importance += rows.sum(0)
        self.largest = torch.maximum(self.largest, rows.amax(0))
        if self.tokens is not None:
            assert said is not None
            self.tokens.add(said[0], rows, fires, said[1])
        if self.mean_input is not None:
            self.mean_input += (rows.T @ reading.x[0].flatten(1)).double()
        self._sample(reading, site, first)

    def _sample(self, reading: Reading, site: str, first: int) -> None:
        rows, length = reading.rows(site), reading.importance[site].shape[1]
        edges = torch.tensor(self.config.strata, device=rows.device)
        position, component = (rows > edges[0]).nonzero(as_tuple=True)
        stratum = torch.bucketize(rows[position, component].contiguous(), edges, right=False) - 1
        input_, place = position // length, position % length
        group = component * len(edges) + stratum
        offset = torch.full_like(component, self.number)
        key = random_keys(self.config.seed, offset, first + input_, place, component)

        def fields(which: Int[Tensor, " N"]) -> Mapping[str, Tensor]:
            return self._fields(reading, site, input_[which], place[which], component[which], first)

        self.reservoirs.add(group, key, fields)

    def _fields(
        self, reading: Reading, site: str, row: Tensor, place: Tensor, component: Tensor, first: int
    ) -> Mapping[str, Tensor]:
        found = {
            "place": torch.stack([first + row, place], 1),
            "activation": reading.activation[site][row, place, component],
        }
        values = reading.importance[site]
        if self.tokens is None:
            found["input"] = reading.x[0][row]
            found["importance"] = values[row, place, component][:, None]
            return found
        around = torch.arange(-self.config.tokens_before, self.config.tokens_after + 1, device=row.device)
        where = place[:, None] + around
        inside = (where >= 0) & (where < values.shape[1])
        where = where.clamp(0, values.shape[1] - 1)
        found["tokens"] = reading.tokens[row[:, None], where].masked_fill(~inside, NO_TOKEN)
        found["importance"] = values[row[:, None], where, component[:, None]].masked_fill(~inside, 0.0)
        return found


class Harvest:
    """What is collected of all sites, and of their components together."""

    def __init__(
        self, sizes: Mapping[str, int], config: ExamplesConfig, like: Tensor, n_tokens: int = 0
    ) -> None:
        """``sizes``: components of each site."""
        self.config = config
        self.n_tokens = n_tokens
        self.sites = {
            site: SiteHarvest(size, config, like, n_tokens, number)
            for number, (site, size) in enumerate(sizes.items())
        }
        self.n_inputs = self.n_positions = 0
        device = like.device
        self.token_count = torch.zeros(n_tokens, dtype=torch.float64, device=device)
        self.predicted_count = torch.zeros(n_tokens, dtype=torch.float64, device=device)
        total = sum(sizes.values())
        self.together: Tensor | None = None
        if config.coactivations and total <= MOST_COMPONENTS:
            self.together = torch.zeros(total, total, dtype=torch.float64, device=device)

    def add(self, reading: Reading) -> None:
        """Add a batch; of text, the target's output is logits ``[B, T, V]``."""
        said = None
        if self.n_tokens:
            predictions = Predictions.of(reading.output, self.config.n_predictions)
            ids = reading.tokens.reshape(-1, 1)
            said = ByToken(ids, torch.ones_like(ids, dtype=torch.float32)), predictions.by_token()
            self.token_count += torch.bincount(ids.flatten(), minlength=self.n_tokens)
            flat = predictions.ids.flatten(), predictions.probability.flatten().double()
            self.predicted_count += torch.bincount(*flat, minlength=self.n_tokens)
        for name, site in self.sites.items():
            site.add(reading, name, self.n_inputs, said)
        if self.together is not None:
            names: Sequence[str] = list(self.sites)
            fires = torch.cat([reading.rows(name) > self.config.threshold for name in names], 1).float()
            self.together += fires.T @ fires
        self.n_inputs += reading.x.shape[1]
        self.n_positions += len(reading.rows(next(iter(self.sites))))
