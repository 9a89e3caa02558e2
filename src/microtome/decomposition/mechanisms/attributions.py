"""What every component passes on to every later one: gradient times activation, over a data set.

The value of component s at a place, times the gradient of component t's inner activation (summed over places)
with respect to it. Direct attributions leave out what passes through a third component, so that the sum over
all sources is a first-order account of what a component reads. Source: attribution patching (Nanda 2023) and
the attributions between components of SPD's authors.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from microtome.core.config_keys import nearest
from microtome.core.errors import MicrotomeError, bad_value
from microtome.data.loading import DataSource
from microtome.decomposition.mechanisms.component_names import name_of
from microtome.decomposition.mechanisms.config import AttributionsConfig
from microtome.decomposition.mechanisms.gradients import component_gradients
from microtome.decomposition.mechanisms.reading import (
    batches,
    chosen,
    importances,
    is_text,
    one_instance,
    read,
)
from microtome.decomposition.mechanisms.running import Nodes, run_nodes
from microtome.decomposition.result import Decomposition, load

INPUT, OUTPUT = "input", "output"
MOST_OUTPUTS = 256  # outputs, or inputs, that are nodes one by one


@dataclass(frozen=True)
class Attributions:
    """Means over all places (inputs, or token positions) of gradient times activation."""

    sources: list[str]
    """``site:component``; inputs of a network that reads no text are ``input:number``."""
    targets: list[str]
    """``site:component`` and ``output:number``; of text ``output:likeliest``, the logit of that token."""
    signed: Float[np.ndarray, "S T"]
    absolute: Float[np.ndarray, "S T"]
    """Mean of the absolute value at each place of the source."""
    n_places: int
    settings: dict[str, Any]

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.sources)}

    @cached_property
    def _columns(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.targets)}

    def between(self, source: str, target: str) -> float:
        """The signed attribution of one edge. Raises ``MicrotomeError`` for a node that was not measured."""
        s, t = _place("source", source, self._rows), _place("target", target, self._columns)
        return float(self.signed[s, t])

    def edges(self, n: int | None = None) -> list[dict[str, Any]]:
        """Edges by falling absolute attribution, the strongest ``n``; those of zero are left out."""
        order = np.argsort(-self.absolute, axis=None, kind="stable")[:n]
        found = []
        for place in order.tolist():
            s, t = divmod(place, len(self.targets))
            if self.absolute[s, t] == 0:
                break
            edge = {"source": self.sources[s], "target": self.targets[t]}
            found.append({**edge, "signed": float(self.signed[s, t]), "absolute": float(self.absolute[s, t])})
        return found

    def frame(self, n: int | None = None) -> Any:
        """``edges`` as a pandas DataFrame."""
        import pandas as pd

        return pd.DataFrame(self.edges(n), columns=["source", "target", "signed", "absolute"])

    def _repr_html_(self) -> str:
        return self.frame(20).to_html(index=False)


def _place(field: str, name: str, places: Mapping[str, int]) -> int:
    if name in places:
        return places[name]
    near = nearest(name, list(places))
    problem = (
        f"not among the {len(places)} {field}s that were measured (components that never fire are left out)"
    )
    raise bad_value(field, name, problem, f"did you mean {near}?" if near else f"see .{field}s")


def attributions(
    decomposition: Decomposition | str | Path,
    *,
    data: DataSource | Tensor | None = None,
    config: AttributionsConfig | None = None,
    progress: bool = False,
    **settings: Any,
) -> Attributions:
    """Attributions between all components that fire, and to the network's outputs.

    ``settings``: fields of ``AttributionsConfig``, on top of ``config``. Raises ``MicrotomeError``.
    """
    d = decomposition if isinstance(decomposition, Decomposition) else load(decomposition)
    config = AttributionsConfig.from_mapping({**(config.as_dict() if config else {}), **settings}, "settings")
    d = one_instance(d, config.instance)
    sites = chosen(d, config.sites)
    alive = firing(d, sites, batches(d, data, config), config.threshold)
    if not any(alive.values()):
        raise MicrotomeError(f"threshold={config.threshold}: no component fires on any input; lower it")
    sums = Sums(d, alive, config)
    for x in batches(d, data, config, "attributions" if progress else ""):
        sums.add(x)
    return sums.finished()


def firing(
    d: Decomposition, sites: Sequence[str], inputs: Iterable[Tensor], threshold: float
) -> dict[str, list[int]]:
    """Numbers of the components of each site that fire anywhere."""
    peak: dict[str, Tensor] = {}
    for x in inputs:
        reading = read(d, x, sites)
        for site in sites:
            here = reading.rows(site).amax(0)
            peak[site] = torch.maximum(peak[site], here) if site in peak else here
    return {site: (top > threshold).nonzero().squeeze(1).tolist() for site, top in peak.items()}


def runs_delta(d: Decomposition, config: AttributionsConfig) -> float:
    """Weight of what the components leave out."""
    trained = bool(getattr(d.config, "use_delta_component", False))
    return float(trained if config.delta is None else config.delta)


def nodes_of(d: Decomposition, x: Tensor, config: AttributionsConfig) -> Nodes:
    """The network on its components, as the settings ask."""
    masks = importances(d, x)[1] if config.masks == "ci" else None
    return run_nodes(d, x, masks, runs_delta(d, config), config.paths == "all")


class Sums:
    """Signed and absolute attributions summed over batches."""

    def __init__(
        self, d: Decomposition, alive: Mapping[str, Sequence[int]], config: AttributionsConfig
    ) -> None:
        self.d, self.alive, self.config = d, alive, config
        self.signed: dict[tuple[str, str], Tensor] = {}
        self.absolute: dict[tuple[str, str], Tensor] = {}
        self.widths: dict[str, int] = {}
        self.n_places = 0

    def add(self, x: Tensor) -> None:
        """One batch ``[1, B, ...]``."""
        nodes = nodes_of(self.d, x, self.config)
        inputs = {site: nodes.passed[site] for site in nodes.order if self.alive.get(site)}
        if x.is_floating_point() and x[0, 0].numel() <= MOST_OUTPUTS:
            inputs[INPUT] = [nodes.x]
        for site in nodes.order:
            if self.alive.get(site):
                self._to(site, nodes.read[site], list(self.alive[site]), inputs)
        if self.config.output:
            self._to_output(nodes, inputs)
        self.n_places += x.shape[1] * (x.shape[2] if is_text(x) else 1)

    def _to_output(self, nodes: Nodes, inputs: Mapping[str, list[Tensor]]) -> None:
        assert nodes.output is not None
        out = nodes.output
        likeliest = is_text(nodes.x)
        out = out.gather(-1, out.argmax(-1, keepdim=True)) if likeliest else out.flatten(2)
        if out.shape[-1] <= MOST_OUTPUTS:
            self.widths[OUTPUT] = out.shape[-1]
            self._to(OUTPUT, [out], list(range(out.shape[-1])), inputs)

    def _to(
        self, target: str, outputs: Sequence[Tensor], wanted: list[int], inputs: Mapping[str, list[Tensor]]
    ) -> None:
        flat = [(site, one) for site, calls in inputs.items() for one in calls]
        done = 0
        leaves = [one for _, one in flat]
        for some, found in component_gradients(outputs, wanted, leaves, self.config.at_once):
            for (site, value), gradient in zip(flat, found, strict=True):
                if gradient is None:
                    continue
                part = (gradient * value.detach()).reshape(len(some), -1, _width(site, value))
                if site != INPUT:
                    part = part[..., list(self.alive[site])]
                else:
                    self.widths[INPUT] = part.shape[-1]
                where = slice(done, done + len(some))
                for sums, values in ((self.signed, part), (self.absolute, part.abs())):
                    if (site, target) not in sums:
                        sums[site, target] = torch.zeros(part.shape[-1], len(wanted), dtype=torch.float64)
                    sums[site, target][:, where] += values.sum(1).T.double().cpu()
            done += len(some)

    def finished(self) -> Attributions:
        """Means over places, rows and columns in the order in which sites run."""
        sites = [site for site in self.d.sites if self.alive.get(site)]
        rows = _named([INPUT] if INPUT in self.widths else [], sites, [], self.alive, self.widths)
        columns = _named([], sites, [OUTPUT] if OUTPUT in self.widths else [], self.alive, self.widths)
        return Attributions(
            [name for names in rows.values() for name in names],
            [name for names in columns.values() for name in names],
            self._matrix(self.signed, rows, columns),
            self._matrix(self.absolute, rows, columns),
            self.n_places,
            self.config.as_dict(),
        )

    def _matrix(
        self,
        sums: Mapping[tuple[str, str], Tensor],
        rows: Mapping[str, Sequence[str]],
        columns: Mapping[str, Sequence[str]],
    ) -> np.ndarray:
        blocks = [
            [
                sums.get((s, t), torch.zeros(len(rows[s]), len(columns[t]), dtype=torch.float64))
                for t in columns
            ]
            for s in rows
        ]
        return (torch.cat([torch.cat(row, 1) for row in blocks]) / self.n_places).numpy()


def _width(site: str, value: Tensor) -> int:
    return value[0, 0].numel() if site == INPUT else value.shape[-1]


def _named(
    before: Sequence[str],
    sites: Sequence[str],
    after: Sequence[str],
    alive: Mapping[str, Sequence[int]],
    widths: Mapping[str, int],
) -> dict[str, list[str]]:
    """Names of the nodes of each site; one output of text is the likeliest token's logit."""
    found = {site: [name_of(site, i) for i in range(widths[site])] for site in before}
    found |= {site: [name_of(site, c) for c in alive[site]] for site in sites}
    for site in after:
        found[site] = (
            [f"{OUTPUT}:likeliest"] if widths[site] == 1 else [name_of(site, i) for i in range(widths[site])]
        )
    return found
