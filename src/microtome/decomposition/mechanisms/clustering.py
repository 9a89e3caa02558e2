"""Clusters of components that fire together, in a decomposition: inputs read, components merged, told."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from microtome.core.errors import MicrotomeError
from microtome.core.seeds import generator
from microtome.data.loading import DataSource
from microtome.decomposition.mechanisms.clusterings import distances
from microtome.decomposition.mechanisms.component_names import name_of
from microtome.decomposition.mechanisms.config import ClusterConfig
from microtome.decomposition.mechanisms.merging import MergeHistory, merge_components, shuffled
from microtome.decomposition.mechanisms.reading import (
    batches,
    chosen,
    device_of,
    one_instance,
    read,
)
from microtome.decomposition.result import Decomposition, load


@dataclass(frozen=True)
class Clustering:
    """Components merged while that shortens their description; ``labels`` are after the best merge.

    Clusters are numbered from the largest to the smallest, the densest first among equals.
    """

    names: list[str]
    """The components, ``site:number``."""
    histories: list[MergeHistory]
    """One a run; the first is the one that is told, the shortest of all."""
    labels: Int[np.ndarray, " C"]
    firing: Bool[np.ndarray, "N C"]
    """Which components fire on which sampled input."""
    shuffled: list[MergeHistory]
    """The same of firings at inputs drawn anew for every component: together by chance."""
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def history(self) -> MergeHistory:
        """The one that is told."""
        return self.histories[0]

    @property
    def n_clusters(self) -> int:
        """Of any size."""
        return int(self.labels.max()) + 1

    def members(self, cluster: int) -> list[str]:
        """Names of a cluster's components."""
        return [name for name, label in zip(self.names, self.labels, strict=True) if label == cluster]

    def saved(self) -> float:
        """Bits an input that the best merges save, as a share of the description without any."""
        return _saved(self.history)

    def saved_by_chance(self) -> list[float]:
        """The same of the shuffled firings."""
        return [_saved(one) for one in self.shuffled]

    def told(self) -> list[dict[str, Any]]:
        """Every cluster of two or more: number, size, the share of inputs it fires on, names."""
        rows = []
        for cluster in range(self.n_clusters):
            inside = self.labels == cluster
            if inside.sum() < 2:
                break
            firing = self.firing[:, inside]
            together = firing.any(1)
            rows.append(
                {
                    "cluster": cluster,
                    "size": int(inside.sum()),
                    "density": float(together.mean()),
                    "of_them_firing": float(firing[together].mean()) if together.any() else 0.0,
                    "components": self.members(cluster),
                }
            )
        return rows

    def distances(self) -> dict[str, np.ndarray]:
        """Between the runs' clusterings; see ``clusterings.distances``."""
        return distances(np.stack([one.labels() for one in self.histories]))

    def frame(self) -> Any:
        """``told`` as a pandas DataFrame."""
        import pandas as pd

        return pd.DataFrame(self.told())

    def _repr_html_(self) -> str:
        return self.frame().to_html(index=False)


def cluster(
    decomposition: Decomposition | str | Path,
    *,
    data: DataSource | Tensor | None = None,
    config: ClusterConfig | None = None,
    progress: bool = False,
    **settings: Any,
) -> Clustering:
    """Merge the components of a decomposition that fire together, and choose the shortest description.

    ``settings``: fields of ``ClusterConfig``, on top of ``config``. Raises ``MicrotomeError``.
    """
    d = decomposition if isinstance(decomposition, Decomposition) else load(decomposition)
    config = ClusterConfig.from_mapping({**(config.as_dict() if config else {}), **settings}, "settings")
    d = one_instance(d, config.instance)
    sites = chosen(d, config.sites)
    fires = sample_firing(d, sites, data, config, "cluster" if progress else "")
    names = [name_of(site, c) for site in sites for c in range(d.factors[site][0].shape[1])]
    return cluster_firing(fires, names, config)


def cluster_firing(fires: Bool[Tensor, "N C"], names: Sequence[str], config: ClusterConfig) -> Clustering:
    """Cluster components by which inputs they fire on. Raises ``MicrotomeError`` when none fires."""
    density = fires.float().mean(0)
    kept = (density > 0) & (density >= config.min_density)
    if not kept.any():
        raise MicrotomeError(
            f"threshold={config.threshold}: no component fires on any of {len(fires)} inputs; lower it"
        )
    fires = fires[:, kept]
    temperature = config.temperature if config.method == "stochastic" else None
    seeds = range(config.n_runs if temperature is not None else 1)

    def merged(rows: Tensor, seed: int) -> MergeHistory:
        draws = generator(config.seed + seed, fires.device, "merging")
        return merge_components(rows, None, config.alpha, temperature, draws)

    histories = sorted((merged(fires, s) for s in seeds), key=lambda one: float(one.total.min()))
    draws = generator(config.seed, fires.device, "shuffling")
    others = [merged(shuffled(fires, draws), s) for s in range(config.n_shuffled)]
    firing = fires.cpu().numpy()
    return Clustering(
        [name for name, keep in zip(names, kept.tolist(), strict=True) if keep],
        histories,
        _by_size(histories[0].labels(), firing),
        firing,
        others,
        config.as_dict(),
    )


def sample_firing(
    d: Decomposition,
    sites: Sequence[str],
    data: DataSource | Tensor | None,
    config: ClusterConfig,
    progress: str = "",
) -> Bool[Tensor, "N C"]:
    """Which components fire on a uniform sample of the positions seen, the sites' components side by side.

    Of every position a random key is drawn, and those with the ``n_rows`` smallest stay.
    """
    device = device_of(d)
    draws = generator(config.seed, device, "rows")
    kept_keys, kept_rows = torch.empty(0, device=device), None
    for x in batches(d, data, config, progress):
        reading = read(d, x, sites)
        rows = torch.cat([reading.rows(site) > config.threshold for site in sites], 1)
        keys = torch.cat([kept_keys, torch.rand(len(rows), generator=draws, device=device)])
        rows = rows if kept_rows is None else torch.cat([kept_rows, rows])
        kept_keys, order = keys.topk(min(config.n_rows, len(keys)), largest=False)
        kept_rows = rows[order]
    assert kept_rows is not None
    return kept_rows


def _by_size(labels: np.ndarray, firing: np.ndarray) -> np.ndarray:
    sizes = np.bincount(labels)
    density = np.array([firing[:, labels == c].any(1).mean() for c in range(len(sizes))])
    number = np.empty(len(sizes), dtype=np.int64)
    number[np.lexsort((-density, -sizes))] = np.arange(len(sizes))
    return number[labels]


def _saved(history: MergeHistory) -> float:
    total = history.total
    return float(1 - total[history.best] / total[0]) if total[0] > 0 else 0.0
