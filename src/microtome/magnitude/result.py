"""A finished magnitude sweep: arrays, and what can be asked of them without the network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from microtome.core.errors import CannotLoad, bad_value
from microtome.core.references import open_run
from microtome.core.runs import RunFolder

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

PerSite = dict[str, Float[np.ndarray, "K F S _"]]
KIND = "magnitude"
SITE_KINDS = ("pre", "post", "gate_inputs", "gate_outputs", "lower", "upper", "activations")
GATE_PANELS = ("causal importances", "gate outputs", "gate inputs")


@dataclass(frozen=True)
class MagnitudeSweep:
    """Responses to ``magnitude * e_feature``; arrays are ``[K, F, S, width]`` for F features, S magnitudes.

    ``outputs`` are the target's. ``pre[site]`` are the outputs, bias included, of sites whose outputs are
    neurons; ``post[site]`` what the network makes of them by its nonlinearity. ``gate_inputs`` (inner
    activations), ``gate_outputs`` (before the sigmoid), ``lower`` and ``upper`` (its leaky forms) are empty
    for a method without gates, which has ``activations``: the length of what each component writes.
    """

    magnitudes: Float[np.ndarray, " S"]
    features: Int[np.ndarray, " F"]
    outputs: Float[np.ndarray, "K F S d_out"]
    pre: PerSite = field(default_factory=dict)
    post: PerSite = field(default_factory=dict)
    gate_inputs: PerSite = field(default_factory=dict)
    gate_outputs: PerSite = field(default_factory=dict)
    lower: PerSite = field(default_factory=dict)
    upper: PerSite = field(default_factory=dict)
    activations: PerSite = field(default_factory=dict)
    method: str = "spd"
    sites: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        magnitudes: Float[np.ndarray, " S"],
        features: Int[np.ndarray, " F"],
        arrays: Mapping[str, np.ndarray],
        *,
        method: str,
        order: Sequence[str],
    ) -> "MagnitudeSweep":
        """From arrays by name, per-site ones as ``<kind>/<site>``; ``order``: the sites as they run."""
        per_site: dict[str, PerSite] = {kind: {} for kind in SITE_KINDS}
        for name, values in arrays.items():
            kind, _, site = name.partition("/")
            if site and kind in per_site:
                per_site[kind][site] = values
        present = {site for of in per_site.values() for site in of}
        k = next((values.shape[0] for values in arrays.values()), 1)
        empty = np.empty((k, len(features), len(magnitudes), 0))
        return cls(
            magnitudes=magnitudes,
            features=features,
            outputs=arrays.get("outputs", empty),
            method=method,
            sites=tuple(site for site in order if site in present),
            **per_site,
        )

    @property
    def n_instances(self) -> int:
        """K: the decomposition's seeds."""
        return self.outputs.shape[0]

    @property
    def left_out(self) -> tuple[str, ...]:
        """The panel families that this decomposition cannot show."""
        return () if self.lower else GATE_PANELS

    def arrays(self) -> dict[str, np.ndarray]:
        """Every array by name, per-site ones as ``<kind>/<site>``, for an npz file."""
        named = {"magnitudes": self.magnitudes, "features": self.features, "outputs": self.outputs}
        for kind in SITE_KINDS:
            named |= {f"{kind}/{site}": values for site, values in getattr(self, kind).items()}
        return named

    @property
    def nbytes(self) -> int:
        """Size of all arrays in bytes."""
        return sum(values.nbytes for values in self.arrays().values())

    def position(self, feature: int) -> int:
        """Where a feature stands among those swept. Raises ``MicrotomeError``."""
        found = np.flatnonzero(self.features == feature)
        if not len(found):
            swept = ", ".join(map(str, self.features[:12])) + (", ..." if len(self.features) > 12 else "")
            raise bad_value("feature", feature, "was not swept", f"those that were: {swept}")
        return int(found[0])

    def plot(
        self,
        feature: int | None = None,
        site: str | None = None,
        *,
        instance: int = 0,
        ci_threshold: float = 0.1,
        **how: Any,
    ) -> "Figure":
        """The unified grid of one feature (default the first) at one site (default the first).

        ``how``: ``pre_activation``, ``summary_only``, ``max_neurons``, ``max_components``,
        ``figsize_per_subplot``, as the command's flags. Raises ``MicrotomeError`` for what was not swept.
        """
        from microtome.magnitude.config import MagnitudeConfig
        from microtome.magnitude.pictures import figure_of

        feature = int(self.features[0]) if feature is None else feature
        self.position(feature)
        name = self.sites[0] if site is None else site
        if name not in self.sites:
            raise bad_value("site", name, "no such site", f"there are: {', '.join(self.sites)}")
        values = {"instance": instance, "ci_threshold": ci_threshold, **how}
        return figure_of(self, MagnitudeConfig.from_mapping(values, "plot"), feature, name)

    def frame(
        self,
        feature: int | None = None,
        site: str | None = None,
        kinds: Sequence[str] | None = None,
        instance: int = 0,
    ) -> "pd.DataFrame":
        """Tidy values, one row a curve and magnitude: feature, site, kind, index, magnitude, value.

        ``feature``, ``site`` and ``kinds`` (``outputs``, ``post``, ``lower``, ...) choose; left out, all.
        """
        import pandas as pd

        positions = range(len(self.features)) if feature is None else [self.position(feature)]
        parts = []
        for name, values in self.arrays().items():
            kind, _, at = name.partition("/")
            if (
                values.ndim != 4
                or (kinds and kind not in kinds)
                or (site is not None and at not in ("", site))
            ):
                continue
            for f in positions:
                parts.append(_long(self.magnitudes, values[instance, f], int(self.features[f]), at, kind))
        columns = ["feature", "site", "kind", "index", "magnitude", "value"]
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)

    def responses(self, instance: int = 0, ci_threshold: float = 0.1) -> "pd.DataFrame":
        """The kind of every neuron's, output's and causal importance's response, with its numbers."""
        from microtome.magnitude.summary import response_frame

        return response_frame(self, instance, ci_threshold)

    def _repr_html_(self) -> str:
        from microtome.magnitude.summary import counts_of, response_frame

        counts = counts_of(response_frame(self, 0, 0.1))
        rows = "".join(
            f"<tr><td>{site}</td><td>{family}</td><td>{words}</td></tr>" for site, family, words in counts
        )
        low, high = self.magnitudes[0], self.magnitudes[-1]
        title = f"Magnitude sweep: {len(self.features)} features, {len(self.magnitudes)} magnitudes"
        head = "<tr><th>site</th><th>curves</th><th>responses</th></tr>"
        return f"<p>{title} from {low:g} to {high:g}</p><table>{head}{rows}</table>"


def _long(
    magnitudes: np.ndarray, values: Float[np.ndarray, "S width"], feature: int, site: str, kind: str
) -> "pd.DataFrame":
    import pandas as pd

    steps, width = values.shape
    return pd.DataFrame(
        {
            "feature": feature,
            "site": site,
            "kind": kind,
            "index": np.repeat(np.arange(width), steps),
            "magnitude": np.tile(magnitudes, width),
            "value": values.T.reshape(-1),
        }
    )


def load(path: str | Path, runs_root: str | Path = Path("runs")) -> MagnitudeSweep:
    """A sweep from its run folder, its name, or ``latest``. Raises ``CannotLoad``."""
    return sweep_in(open_run(str(path), runs_root=runs_root, want=KIND))


def sweep_in(run: RunFolder) -> MagnitudeSweep:
    """The sweep that a run folder holds. Raises ``CannotLoad``."""
    if run.kind != KIND:
        raise CannotLoad(
            f"{run.path}: a {run.kind} run, not a magnitude sweep; `microtome magnitude` makes one"
        )
    arrays = run.load_arrays("magnitude")
    summary = run.summary
    return MagnitudeSweep.of(
        arrays.pop("magnitudes"),
        arrays.pop("features"),
        arrays,
        method=str(summary.get("method", "spd")),
        order=summary.get("sites", list(dict.fromkeys(n.partition("/")[2] for n in arrays if "/" in n))),
    )


def gigabytes(size: float | int) -> str:
    """A size in bytes as people say it."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
