"""What every component fires on: examples at every strength, tokens, and the components it fires with."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from microtome.data.loading import DataSource
from microtome.decomposition.mechanisms.component_names import name_of
from microtome.decomposition.mechanisms.config import ExamplesConfig
from microtome.decomposition.mechanisms.harvesting import NO_TOKEN, Harvest
from microtome.decomposition.mechanisms.reading import (
    batches,
    chosen,
    is_text,
    one_instance,
    read,
)
from microtome.decomposition.mechanisms.reservoirs import EMPTY
from microtome.decomposition.mechanisms.token_sums import TokenList, by_lift, by_mean
from microtome.decomposition.result import Decomposition, load

PARTNERS = 8  # components listed that fire with one


@dataclass(frozen=True)
class Examples:
    """A finished harvest and the words that its tokens stand for."""

    harvest: Harvest
    tokenizer: Any = None
    _words: dict[int, str] = field(default_factory=dict)

    @property
    def is_text(self) -> bool:
        """Whether the inputs are tokens."""
        return self.harvest.n_tokens > 0

    def word(self, token: int) -> str:
        """A token as text; its number where there is no tokenizer."""
        if token not in self._words:
            self._words[token] = str(token) if self.tokenizer is None else str(self.tokenizer.decode([token]))
        return self._words[token]

    def alive(self) -> list[tuple[str, int]]:
        """Site and number of every component that fires at all, the largest mean importance first."""
        found = [
            (float(site.importance[c]), name, int(c))
            for name, site in self.harvest.sites.items()
            for c in (site.fired > 0).nonzero().squeeze(1).tolist()
        ]
        return [(name, c) for _, name, c in sorted(found, key=lambda one: (-one[0], one[1], one[2]))]

    def components(self) -> Iterator[dict[str, Any]]:
        """All that is known of every component that fires, JSON-able, site by site."""
        lists = {name: self._lists(name) for name in self.harvest.sites}
        partners = self._partners()
        for name, c in sorted(self.alive(), key=lambda one: (list(self.harvest.sites).index(one[0]), one[1])):
            site = self.harvest.sites[name]
            n = self.harvest.n_positions
            found: dict[str, Any] = {
                "name": name_of(name, c),
                "site": name,
                "component": c,
                "density": float(site.fired[c]) / n,
                "mean_importance": float(site.importance[c]) / n,
                "largest_importance": float(site.largest[c]),
            }
            for title, ranking in lists[name].items():
                found[title] = [
                    {"token": self.word(i), "id": i, "value": v, "count": k}
                    for i, v, k in zip(*(t[c].tolist() for t in ranking), strict=True)
                    if i >= 0
                ]
            if site.mean_input is not None:
                total = max(float(site.importance[c]), 1e-12)
                found["mean_input"] = (site.mean_input[c] / total).tolist()
            if partners:
                found["fires_with"] = partners[name_of(name, c)]
            found["examples"] = self.examples(name, c)
            yield found

    def examples(self, site: str, component: int) -> list[dict[str, Any]]:
        """A component's examples, the strongest stratum first, each with its tokens or input."""
        config, held = self.harvest.config, self.harvest.sites[site].reservoirs
        rows = []
        for stratum in reversed(range(len(config.strata))):
            group = component * len(config.strata) + stratum
            for i in (held.keys[group] < EMPTY).nonzero().squeeze(1).tolist():
                one = {name: values[group, i] for name, values in held.fields.items()}
                rows.append({"stratum": config.strata[stratum], **self._example(one)})
        return rows

    def _example(self, one: dict[str, Tensor]) -> dict[str, Any]:
        row, place = one["place"].tolist()
        found = {"input": row, "position": place, "activation": float(one["activation"])}
        if not self.is_text:
            return {
                **found,
                "importance": float(one["importance"]),
                "values": one["input"].flatten().tolist(),
            }
        inside = one["tokens"] != NO_TOKEN
        focus = int(inside[: self.harvest.config.tokens_before].sum())
        ids = one["tokens"][inside].tolist()
        return {
            **found,
            "focus": focus,
            "tokens": [self.word(i) for i in ids],
            "ids": ids,
            "importance": [round(v, 4) for v in one["importance"][inside].tolist()],
        }

    def _lists(self, name: str) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
        h, config = self.harvest, self.harvest.config
        sums = h.sites[name].tokens
        if sums is None:
            return {}
        seen, said = h.token_count.float(), h.predicted_count.float()
        n, least = config.n_tokens, config.min_count
        found: dict[str, TokenList] = {
            "tokens_by_importance": by_mean(sums.importance, seen, n, least),
            "tokens_by_lift": by_lift(sums.fired, seen, n, least),
            "predicted_by_probability": by_mean(
                sums.predicted / h.sites[name].fired.float().clamp(min=1), torch.ones_like(said), n, 0
            ),
            "predicted_by_lift": by_lift(sums.predicted, said, n, least),
        }
        return {title: (one.ids, one.value, one.count) for title, one in found.items()}

    def _partners(self) -> dict[str, list[dict[str, Any]]]:
        """For each component those it shares most firings with (Jaccard index), and conditional shares."""
        both = self.harvest.together
        if both is None:
            return {}
        names = [name_of(s, c) for s, site in self.harvest.sites.items() for c in range(len(site.fired))]
        alone = both.diagonal()
        jaccard = both / (alone[:, None] + alone[None, :] - both).clamp(min=1)
        top, who = jaccard.fill_diagonal_(0.0).topk(min(PARTNERS, len(names)), dim=1)
        found = {}
        for i, name in enumerate(names):
            found[name] = [
                {
                    "name": names[j],
                    "jaccard": value,
                    "of_this": float(both[i, j] / alone[i].clamp(min=1)),
                    "of_other": float(both[i, j] / alone[j].clamp(min=1)),
                }
                for value, j in zip(top[i].tolist(), who[i].tolist(), strict=True)
                if value > 0
            ]
        return found


def harvest(
    decomposition: Decomposition | str | Path,
    *,
    data: DataSource | Tensor | None = None,
    config: ExamplesConfig | None = None,
    progress: bool = False,
    **settings: Any,
) -> Examples:
    """Collect examples, tokens and co-activations of the components of a decomposition.

    ``settings``: fields of ``ExamplesConfig``, on top of ``config``. Raises ``MicrotomeError``.
    """
    d = decomposition if isinstance(decomposition, Decomposition) else load(decomposition)
    config = ExamplesConfig.from_mapping({**(config.as_dict() if config else {}), **settings}, "settings")
    d = one_instance(d, config.instance)
    sites = chosen(d, config.sites)
    sizes = {site: d.factors[site][0].shape[1] for site in sites}
    found: Harvest | None = None
    with torch.no_grad():
        for x in batches(d, data, config, "examples" if progress else ""):
            reading = read(d, x, sites)
            if found is None:
                found = Harvest(sizes, config, x, reading.output.shape[-1] if is_text(x) else 0)
            found.add(reading)
    assert found is not None
    return Examples(found, getattr(d.target, "tokenizer", None))
