"""What happens without chosen components, and with nothing but them, against random sets of as many."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from microtome.data.loading import DataSource
from microtome.decomposition.mechanisms.component_names import count, name_of, parse_components
from microtome.decomposition.mechanisms.config import AblateConfig
from microtome.decomposition.mechanisms.effect_measures import HIGHER_IS_BETTER, measure_rows
from microtome.decomposition.mechanisms.random_sets import random_sets
from microtome.decomposition.mechanisms.reading import (
    batches,
    device_of,
    importances,
    labelled_batches,
    one_instance,
    read,
)
from microtome.decomposition.result import Decomposition, load
from microtome.decomposition.site_masks import SiteMask

Chosen = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Ablation:
    """Values of every measure under each change of the network.

    ``rows``: one a measure and change (``removed``, ``only``): value, the target's, the mean and standard
    deviation over random sets, and ``p``: the share of random sets (and the chosen one) that are as extreme.
    """

    components: dict[str, list[int]]
    rows: list[dict[str, Any]]
    random: dict[str, np.ndarray]
    """``removed/<measure>`` and ``only/<measure>``: the value for every random set."""
    n_inputs: int
    settings: dict[str, Any]

    @property
    def names(self) -> list[str]:
        """The components, ``site:number``."""
        return [name_of(site, c) for site, numbers in self.components.items() for c in numbers]

    def row(self, change: str, measure: str) -> dict[str, Any]:
        """One row."""
        return next(r for r in self.rows if r["change"] == change and r["measure"] == measure)

    def frame(self) -> Any:
        """The rows as a pandas DataFrame."""
        import pandas as pd

        return pd.DataFrame(self.rows)

    def _repr_html_(self) -> str:
        return self.frame().to_html(index=False)


def ablate(
    decomposition: Decomposition | str | Path,
    components: Chosen | Sequence[str],
    *,
    data: DataSource | Tensor | None = None,
    config: AblateConfig | None = None,
    progress: bool = False,
    **settings: Any,
) -> Ablation:
    """Measure the loss with ``components`` removed from the target's weights, and with only them left.

    ``components``: ``["layers.0.mlp_in:3", ...]``, the same in one string with commas, or site to numbers.
    Removed: ``W`` less the components (all others, and what no component explains, stay); only: nothing but
    them at every decomposed site. With ``masks="ci"`` the components that are left are weighed by their
    causal importance, and what no component explains is out. ``settings``: fields of ``AblateConfig``. Raises
    ``MicrotomeError``.
    """
    d = decomposition if isinstance(decomposition, Decomposition) else load(decomposition)
    config = AblateConfig.from_mapping({**(config.as_dict() if config else {}), **settings}, "settings")
    d = one_instance(d, config.instance)
    sizes = {site: d.factors[site][0].shape[1] for site in d.sites}
    if isinstance(components, str):
        components = [name.strip() for name in components.split(",")]  # as the command writes them
    if isinstance(components, Mapping):
        components = [name_of(site, c) for site, numbers in components.items() for c in numbers]
    chosen = parse_components(components, sizes)
    count(chosen)
    importance, peak = _activity(d, data, config)
    alive = {site: top > config.threshold for site, top in peak.items()}
    rng = np.random.default_rng(config.seed)
    sets = [chosen, *random_sets(chosen, importance, alive, config.n_random, config.null, rng)]
    sums, squares, n = _measured(d, data, sets, config, "ablate" if progress else "")
    return _told(chosen, sums, squares, n, config)


def _activity(
    d: Decomposition, data: DataSource | Tensor | None, config: AblateConfig
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Mean and largest causal importance of every component over the inputs."""
    n = 0
    mean: dict[str, Tensor] = {}
    peak: dict[str, Tensor] = {}
    for x in batches(d, data, config):
        n += 1
        reading = read(d, x, list(d.sites))
        for site in d.sites:
            rows = reading.rows(site)
            mean[site] = mean.get(site, 0.0) + rows.mean(0).double()
            peak[site] = torch.maximum(peak[site], rows.amax(0)) if site in peak else rows.amax(0)
    return (
        {s: (t / n).cpu().numpy() for s, t in mean.items()},
        {s: t.cpu().numpy() for s, t in peak.items()},
    )


def _weights(
    d: Decomposition, sets: Sequence[Chosen], device: torch.device
) -> tuple[dict[str, Tensor], Tensor]:
    """Masks ``[2S, C]`` (each set removed, then each alone), and the weight ``[2S]`` of ``W - V U``."""
    masks = {}
    for site in d.sites:
        kept = torch.zeros(len(sets), d.factors[site][0].shape[1], device=device)
        for i, one in enumerate(sets):
            kept[i, list(one.get(site, ()))] = 1.0
        masks[site] = torch.cat([1 - kept, kept])
    delta = torch.cat([torch.ones(len(sets)), torch.zeros(len(sets))])
    return masks, delta.to(device)


Sums = dict[str, np.ndarray]


@torch.no_grad()
def _measured(
    d: Decomposition,
    data: DataSource | Tensor | None,
    sets: Sequence[Chosen],
    config: AblateConfig,
    progress: str = "",
) -> tuple[Sums, Sums, int]:
    """Sums and sums of squares over inputs of every measure ``[1 + 2S]``, the target itself first.

    The squares are those of differences from the target.
    """
    device = device_of(d)
    kind = getattr(d.config, "output_loss_type", "mse")
    masks, delta = _weights(d, sets, device)
    sums: Sums = {}
    squares: Sums = {}
    n = 0
    for x, labels in labelled_batches(d, data, config, progress):
        wanted, ci, _ = importances(d, x)
        base = measure_rows(wanted, wanted[0], kind, labels)
        parts = [base]
        for some in torch.arange(len(delta), device=device).split(config.at_once):
            part = {site: mask[some] for site, mask in masks.items()}
            output = _run_sets(d, x, part, delta[some], ci, config.masks == "ci")
            parts.append(measure_rows(output, wanted[0], kind, labels))
        for name in base:
            rows = torch.cat([part[name] for part in parts]).double()
            sums[name] = sums.get(name, 0.0) + rows.sum(1).cpu().numpy()
            squares[name] = squares.get(name, 0.0) + (rows - rows[:1]).square().sum(1).cpu().numpy()
        n += x.shape[1]
    return sums, squares, n


def _run_sets(
    d: Decomposition,
    x: Tensor,
    masks: Mapping[str, Tensor],
    delta: Tensor,
    ci: Mapping[str, Sequence[Tensor]],
    weighed: bool,
) -> Tensor:
    """Outputs ``[S, B, ...]`` of S masked networks on the same inputs, in one pass.

    ``masks [S, C]`` by site; ``weighed`` multiplies them by the causal importances ``ci`` of every call.
    """
    s, b = len(delta), x.shape[1]
    left_over = None if weighed else delta.repeat_interleave(b)[None]
    of_calls: dict[str, list[SiteMask]] = {}
    for site, mask in masks.items():
        rows = mask.repeat_interleave(b, 0)
        wide = [rows.reshape(1, s * b, *[1] * (one.ndim - 3), -1) for one in ci[site]]
        if weighed:
            wide = [
                m * one.repeat(1, s, *[1] * (one.ndim - 2)) for m, one in zip(wide, ci[site], strict=True)
            ]
        of_calls[site] = [SiteMask(one, left_over) for one in wide]
    out = d.masked_network.run(x.repeat(1, s, *[1] * (x.ndim - 2)), d.joined, of_calls)
    return out.reshape(s, b, *out.shape[2:])


def _told(chosen: dict[str, list[int]], sums: Sums, squares: Sums, n: int, config: AblateConfig) -> Ablation:
    rows, random = [], {}
    for change in ("removed", "only"):
        for measure, total in sums.items():
            mean = total / n
            each = mean[1:].reshape(2, -1)[0 if change == "removed" else 1]
            spread = (squares[measure] / n - ((total - total[0]) / n) ** 2).clip(0)[1:].reshape(2, -1)
            error = np.sqrt(spread[0 if change == "removed" else 1][0] / max(n - 1, 1))
            others = random[f"{change}/{measure}"] = each[1:]
            better = HIGHER_IS_BETTER[measure]
            # Removing what matters makes it worse than random sets do; keeping only that, better.
            larger = (change == "removed") != better
            extreme = (others >= each[0]).sum() if larger else (others <= each[0]).sum()
            rows.append(
                {
                    "change": change,
                    "measure": measure,
                    "target": float(mean[0]),
                    "value": float(each[0]),
                    "standard_error": float(error),
                    "random_mean": float(others.mean()) if len(others) else None,
                    "random_sd": float(others.std(ddof=1)) if len(others) > 1 else None,
                    "n_random": len(others),
                    "p": float((1 + extreme) / (1 + len(others))) if len(others) else None,
                }
            )
    return Ablation(chosen, rows, random, n, config.as_dict())
