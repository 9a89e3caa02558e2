"""Causal importances of every component, for every input feature at growing magnitude."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from microtome.core.errors import CannotLoad, bad_value
from microtome.core.references import open_run
from microtome.core.runs import RunFolder
from microtome.magnitude.responses import crossing
from microtome.magnitude.words import sides

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from microtome.decomposition.result import Decomposition
    from microtome.magnitude.sweep import Told

KIND = "importance"
PerSite = dict[str, Float[np.ndarray, "K F S C"]]


@dataclass(frozen=True)
class ImportanceSweep:
    """Causal importances ``lower[site] [K, F, S, C]`` for S magnitudes of F features."""

    magnitudes: Float[np.ndarray, " S"]
    features: Int[np.ndarray, " F"]
    lower: PerSite = field(default_factory=dict)

    @property
    def sites(self) -> tuple[str, ...]:
        """The decomposed sites, as they run."""
        return tuple(self.lower)

    @property
    def n_instances(self) -> int:
        """K: the decomposition's seeds."""
        return next(iter(self.lower.values())).shape[0]

    def onsets(self, site: str, threshold: float, side: int = 1) -> Float[np.ndarray, "K F C"]:
        """The smallest magnitude at which each component's importance exceeds ``threshold``, NaN where none.

        ``side=-1``: on the negative side, the onsets negative too.
        """
        for sign, steps in sides(self.magnitudes):
            if sign == side:
                magnitudes, values = np.abs(self.magnitudes[steps]), self._site(site)
                level = np.full(values.shape[-1], threshold)
                each = [
                    [
                        crossing(magnitudes, of[steps].T.astype(np.float64), level, strictly=True)
                        for of in seed
                    ]
                    for seed in values
                ]
                return sign * np.asarray(each) + 0.0
        raise bad_value("side", side, "was not swept", "sweep it with two_sided=True")

    def arrays(self, threshold: float | None = None) -> dict[str, np.ndarray]:
        """``magnitudes``, ``features``, ``lower/<site>``; with a threshold ``onset/<site>`` too."""
        named = {"magnitudes": self.magnitudes, "features": self.features}
        named |= {f"lower/{site}": values for site, values in self.lower.items()}
        if threshold is not None:
            named |= {f"onset/{site}": self.onsets(site, threshold) for site in self.sites}
        return named

    def plot(
        self,
        site: str | None = None,
        *,
        instance: int = 0,
        ci_threshold: float = 0.1,
        onsets: bool = False,
        figsize_per_subplot: tuple[float, float] = (1.6, 1.2),
    ) -> "Figure":
        """A panel a feature with a line a component; or (``onsets``) the map of where each turns on."""
        from microtome.magnitude import importance_plots as plots

        name = self.sites[0] if site is None else site
        values = self._site(name)[instance]
        if onsets:
            return plots.onset_map(
                self.onsets(name, ci_threshold)[instance], self.features, site=name, ci_threshold=ci_threshold
            )
        return plots.importance_grid(
            self.magnitudes,
            values,
            self.features,
            site=name,
            ci_threshold=ci_threshold,
            panel=figsize_per_subplot,
        )

    def frame(self, instance: int = 0, ci_threshold: float = 0.1) -> "pd.DataFrame":
        """One row for every component that is active for a feature: side, kind, onset, share and the rest."""
        import pandas as pd

        from microtome.magnitude.summary import response_frame

        table: Any = response_frame(self._as_magnitude_sweep(), instance, ci_threshold)
        if not len(table):
            return pd.DataFrame()
        return table[table["kind"] != "never active"].drop(columns="family").reset_index(drop=True)

    def _as_magnitude_sweep(self) -> Any:
        from microtome.magnitude.result import MagnitudeSweep

        named = {f"lower/{site}": values for site, values in self.lower.items()}
        return MagnitudeSweep.of(self.magnitudes, self.features, named, method="spd", order=self.sites)

    def _site(self, site: str) -> Float[np.ndarray, "K F S C"]:
        if site not in self.lower:
            raise bad_value("site", site, "no such site", f"there are: {', '.join(self.sites)}")
        return self.lower[site]

    def _repr_html_(self) -> str:
        def row(site: str) -> str:
            alive = int(np.isfinite(self.onsets(site, 0.1)[0]).any(0).sum())
            return f"<tr><td>{site}</td><td>{self.lower[site].shape[-1]}</td><td>{alive}</td></tr>"

        rows = "".join(map(row, self.sites))
        low, high = self.magnitudes[0], self.magnitudes[-1]
        title = f"Causal importances of {len(self.features)} features, magnitudes {low:g} to {high:g}"
        head = "<tr><th>site</th><th>components</th><th>active for some feature</th></tr>"
        return f"<p>{title}</p><table>{head}{rows}</table>"


def compute(
    decomposition: "Decomposition",
    features: Sequence[int] | None = None,
    n_steps: int = 50,
    max_magnitude: float = 1.0,
    two_sided: bool = False,
    *,
    told: "Told | None" = None,
) -> ImportanceSweep:
    """Causal importances for every feature (or those given) at every magnitude, in one batch of rows.

    Raises ``MicrotomeError`` for a decomposition without gates and as ``magnitude.sweep.compute`` does.
    """
    from microtome.magnitude.forward import n_inputs
    from microtome.magnitude.sweep import compute as sweep_all

    if not decomposition.ci_fns:
        raise CannotLoad(
            f"model_path: a decomposition without gates ({decomposition.method}) has no causal importances;"
            " give one that SPD made, or sweep this one with `microtome magnitude`"
        )
    chosen = list(range(n_inputs(decomposition))) if features is None else list(features)
    made = sweep_all(decomposition, chosen, n_steps, max_magnitude, two_sided, kinds=("lower",), told=told)
    return ImportanceSweep(made.magnitudes, made.features, made.lower)


def load(path: str | Path, runs_root: str | Path = Path("runs")) -> ImportanceSweep:
    """A sweep from its run folder, its name, or ``latest``. Raises ``CannotLoad``."""
    return importance_in(open_run(str(path), runs_root=runs_root, want=KIND))


def importance_in(run: RunFolder) -> ImportanceSweep:
    """The sweep that a run folder holds. Raises ``CannotLoad``."""
    if run.kind != KIND:
        raise CannotLoad(
            f"{run.path}: a {run.kind} run, not an importance sweep; `microtome importance` makes one"
        )
    arrays = run.load_arrays("importance")
    lower = {
        name.removeprefix("lower/"): values for name, values in arrays.items() if name.startswith("lower/")
    }
    return ImportanceSweep(arrays["magnitudes"], arrays["features"], lower)
