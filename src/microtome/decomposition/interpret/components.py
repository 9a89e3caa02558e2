"""Every component by itself: its weights, and the inputs that it fires for."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from matplotlib.figure import Figure

from microtome.core.atomic import atomic_path
from microtome.core.device import resolve_device, say
from microtome.core.errors import MicrotomeError, bad_value
from microtome.core.runs import RunFolder, timestamp
from microtome.data.loading import DataSource, data_from_spec
from microtome.decomposition import plots
from microtome.decomposition.interpret.components_config import ComponentsConfig
from microtome.decomposition.interpret.config import InterpretConfig
from microtome.decomposition.interpret.selection import importances, scores
from microtome.decomposition.interpret.subject import Subject
from microtome.decomposition.plots import matrices
from microtome.decomposition.result import Decomposition, load
from microtome.measures.causal_importance import permutation_to_identity

if TYPE_CHECKING:
    import pandas as pd

KIND = "components"
BROAD, UNIVERSAL = 0.5, 0.8
MAGNITUDES = (-1.0, -0.75, -0.25, 0.0, 0.25, 0.75, 1.0)


@dataclass(frozen=True)
class SiteComponents:
    """One site. ``strength [inputs, C]``: causal importance, or APD's attribution relative to the largest.

    ``active_inputs[c]``: inputs on which component c is above the threshold.
    """

    target: Float[np.ndarray, "d_in d_out"]
    components: Float[np.ndarray, "C d_in d_out"]
    norms: Float[np.ndarray, " C"]
    strength: Float[np.ndarray, "inputs C"]
    active_inputs: Int[np.ndarray, " C"]
    active_components: Int[np.ndarray, " inputs"]

    @property
    def share(self) -> Float[np.ndarray, " C"]:
        """Share of the inputs on which each component is active."""
        return self.active_inputs / max(len(self.strength), 1)

    @property
    def broad(self) -> list[int]:
        """Components active on more than half of the inputs."""
        return np.flatnonzero(self.share > BROAD).tolist()

    @property
    def universal(self) -> list[int]:
        """Components active on more than 80 % of the inputs."""
        return np.flatnonzero(self.share > UNIVERSAL).tolist()

    @property
    def dead(self) -> list[int]:
        """Components active on no input."""
        return np.flatnonzero(self.active_inputs == 0).tolist()

    @property
    def inputs_by_count(self) -> dict[int, int]:
        """How many inputs have exactly k components active, by k."""
        counts, inputs = np.unique(self.active_components, return_counts=True)
        return dict(zip(counts.tolist(), inputs.tolist(), strict=True))


@dataclass(frozen=True)
class ComponentReport:
    """The components of a decomposition, site by site; ``plot(site)`` shows their matrices."""

    name: str
    method: str
    threshold: float
    sites: dict[str, SiteComponents]
    run: RunFolder | None = None

    def plot(self, site: str | None = None, most: int = 24) -> Figure:
        """Target, sum, difference and the largest components of a site (default: the first) as heatmaps."""
        name = site or next(iter(self.sites))
        if name not in self.sites:
            raise bad_value("site", name, "not decomposed", f"there are {', '.join(self.sites)}")
        one = self.sites[name]
        order = np.argsort(-one.norms, kind="stable")[:most]
        return plots.component_weights(
            one.target,
            one.components.sum(axis=0),
            one.components[order],
            names=[str(c) for c in order],
            site=name,
        )

    def frame(self) -> "pd.DataFrame":
        """A row a component: site, index, norm, inputs it is active on, mean and largest strength."""
        import pandas as pd

        rows = [
            {
                "site": site,
                "component": c,
                "norm": float(one.norms[c]),
                "active_inputs": int(one.active_inputs[c]),
                "share": float(one.share[c]),
                "mean_strength": float(one.strength[:, c].mean()),
                "max_strength": float(one.strength[:, c].max()),
            }
            for site, one in self.sites.items()
            for c in range(len(one.norms))
        ]
        return pd.DataFrame(rows)

    def summary(self) -> dict[str, Any]:
        """By site: numbers of components, broad, universal and dead ones, inputs by number of components."""
        return {
            site: {
                "components": len(one.norms),
                "alive": int((one.active_inputs > 0).sum()),
                "dead": len(one.dead),
                "broad": one.broad,
                "universal": one.universal,
                "inputs_by_active_components": one.inputs_by_count,
            }
            for site, one in self.sites.items()
        }

    def lines(self) -> list[str]:
        """The statistics in words, a few lines a site."""
        measure = "causal importance" if self.method == "spd" else "relative attribution"
        told = []
        for site, one in self.sites.items():
            n, inputs = len(one.norms), len(one.strength)
            told.append(
                f"{site}: {n} components, {n - len(one.dead)} of them active ({measure} > {self.threshold:g})"
            )
            for kind, found, share in (("Broad", one.broad, BROAD), ("Universal", one.universal, UNIVERSAL)):
                listed = ", ".join(f"{c} ({one.share[c]:.0%})" for c in found[:20]) or "none"
                told.append(f"  {kind} (active on more than {share:.0%} of the {inputs} inputs): {listed}")
            order = np.argsort(-one.active_inputs, kind="stable")[:5]
            most = ", ".join(f"{c} ({one.active_inputs[c]})" for c in order if one.active_inputs[c])
            told.append(f"  Most active (number of inputs): {most or 'none'}")
            told += [
                f"  Inputs with exactly {k} components active: {count}"
                for k, count in one.inputs_by_count.items()
            ]
        return told

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{escape(site)}</td><td>{row['components']}</td><td>{row['alive']}</td>"
            f"<td>{len(row['broad'])}</td><td>{len(row['universal'])}</td></tr>"
            for site, row in self.summary().items()
        )
        head = "<tr><th>site</th><th>components</th><th>active</th><th>broad</th><th>universal</th></tr>"
        return f"<p>{escape(f'Components of {self.name}')}</p><table>{head}{rows}</table>"


def component_report(
    d: Decomposition, config: ComponentsConfig, data: DataSource | None = None
) -> tuple[ComponentReport, dict[str, dict[float, np.ndarray]]]:
    """What each component is and fires for; and, for toy models, strengths by site and magnitude.

    Inputs: every feature alone at ``magnitude``; for other networks ``n_samples`` of their own.
    """
    if config.instance >= d.n_instances:
        mend = f"choose 0 to {d.n_instances - 1}"
        raise bad_value("instance", config.instance, f"the decomposition has {d.n_instances}", mend)
    device = next(iter(d.parameters.values())).device
    s = Subject(d, InterpretConfig(seed=config.seed), data, device=device)
    if s.toy is None and data is None:
        raise MicrotomeError(f"{d.name}: its inputs are not known; pass data=... in Python")
    x = s.one_hot(config.magnitude) if s.toy is not None else s.inputs("components", config.n_samples)
    found = strengths(s, x)
    sites = {}
    for site in d.sites:
        left, right = (factor[config.instance].cpu().numpy() for factor in d.factors[site])
        parts = left @ right
        strength = found[site][config.instance]
        active = strength > config.threshold
        sites[site] = SiteComponents(
            d.sites[site].weight[config.instance].cpu().numpy(),
            parts,
            np.sqrt(np.square(parts.astype(np.float64)).sum(axis=(1, 2))),
            strength,
            active.sum(axis=0),
            active.sum(axis=1),
        )
    several: dict[str, dict[float, np.ndarray]] = {}
    usual = MAGNITUDES if s.value_range[0] < 0 else [m for m in MAGNITUDES if m >= 0]
    for magnitude in (config.magnitudes or usual) if s.toy is not None else ():
        for site, values in strengths(s, s.one_hot(magnitude)).items():
            several.setdefault(site, {})[magnitude] = values[config.instance]
    return ComponentReport(d.name, d.method, config.threshold, sites), several


def strengths(s: Subject, x: torch.Tensor) -> dict[str, np.ndarray]:
    """How strongly each component fires, ``[K, inputs, C]`` by site: causal importance (what leaks below 0
    is 0), or APD's attribution relative to the largest of each network, the same at every site."""
    if s.d.method == "spd":
        return {site: ci.clamp(min=0).cpu().numpy() for site, ci in importances(s, x).items()}
    found = scores(s, x)
    top = found.flatten(1).amax(dim=1).clamp(min=1e-30)
    return dict.fromkeys(s.d.sites, (found / top[:, None, None]).cpu().numpy())


def components(
    decomposition: Decomposition | str | Path | None = None,
    config: ComponentsConfig | None = None,
    *,
    data: DataSource | None = None,
    runs_root: str | Path = Path("runs"),
    note: Callable[[str], None] = say,
    **settings: Any,
) -> ComponentReport:
    """Picture every component of a decomposition and list what it fires for, into a run folder.

    ``settings`` are fields of ``ComponentsConfig``, on top of ``config``. Raises ``MicrotomeError``.
    """
    merged = ComponentsConfig.from_mapping({**(config.as_dict() if config else {}), **settings}, "settings")
    device = resolve_device(merged.device)
    if isinstance(decomposition, Decomposition):
        d = decomposition
    else:
        d = load(decomposition or merged.model_path, device=device, runs_root=Path(runs_root))
    source = data or (data_from_spec(d.data, device) if d.data is not None else None)
    report, several = component_report(d, merged, source)
    path = merged.output_dir or Path(runs_root) / f"{KIND}-{d.name}-{timestamp()}"
    reuse = merged.output_dir is not None
    run = RunFolder.create(path, merged, seed=merged.seed, device=str(device), kind=KIND, reuse=reuse)
    _write(run, report, several, merged, note)
    return replace(report, run=run)


def _write(
    run: RunFolder,
    report: ComponentReport,
    several: dict[str, dict[float, np.ndarray]],
    config: ComponentsConfig,
    note: Callable[[str], None],
) -> None:
    sums = {site: one.components.sum(axis=0) for site, one in report.sites.items()}
    figure = matrices.component_matrices(sums, figsize=config.figsize)
    run.save_figure("component_matrices", figure, dpi=config.dpi, where="")
    arrays: dict[str, np.ndarray] = {}
    measure = "causal importance" if report.method == "spd" else "relative attribution"
    for site, one in report.sites.items():
        safe = site.replace(".", "_").replace("/", "_")
        figure = matrices.component_matrices({site: sums[site]}, figsize=config.figsize)
        run.save_figure(f"{safe}_component_matrix", figure, dpi=config.dpi, where="component_plots")
        order = np.argsort(-one.norms, kind="stable")[: config.max_components]
        if len(order) < len(one.norms):
            note(f"{site}: pictured the largest {len(order)} of {len(one.norms)} components.")
        figure = matrices.each_component(
            one.components[order], [str(c) for c in order], one.share[order], site=site
        )
        run.save_figure(f"{safe}_components", figure, dpi=config.dpi, where="component_plots")
        order = permutation_to_identity(one.strength)
        figure = matrices.activation_pattern({config.magnitude: one.strength[:, order]}, order, site, measure)
        run.save_figure(f"{safe}_activation_pattern", figure, dpi=config.dpi, where="activation_plots")
        if several:
            shown = {magnitude: values[:, order] for magnitude, values in several[site].items()}
            figure = matrices.activation_pattern(shown, order, site, measure)
            name = f"{safe}_multi_magnitude_activation_pattern"
            run.save_figure(name, figure, dpi=config.dpi, where="activation_plots")
        with atomic_path(run.path / f"{safe}_activation_matrix.pt") as temporary:
            torch.save(torch.from_numpy(one.strength.copy()), temporary)
        arrays |= {f"strength/{site}": one.strength, f"active/{site}": one.strength > config.threshold}
        arrays |= {f"norm/{site}": one.norms}
        for magnitude, values in several.get(site, {}).items():
            arrays[f"at/{magnitude:g}/{site}"] = values
    run.save_arrays("activation_matrices", arrays)
    run.save_json("components.json", report.summary())
    run.finish(report.summary())
