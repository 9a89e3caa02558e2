"""What ``compare_runs`` hands back: likeness of two decompositions' components, site by site."""

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from microtome.core.runs import RunFolder
from microtome.decomposition.plots.similarity import similarity_matrices
from microtome.measures.similarity import Matching

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class LayerComparison:
    """One site: absolute cosines ``[alive of the current run, all of the reference]``.

    ``chance`` holds the mean largest cosine after each random rotation of the reference.
    """

    alive: np.ndarray
    cosines: Float[np.ndarray, "alive D"]
    largest: Float[np.ndarray, " alive"]
    std: float
    chance: Float[np.ndarray, " rotations"]
    matching: Matching


@dataclass(frozen=True)
class Comparison:
    """Two decompositions side by side. ``similarities`` has the keys of ``similarity_results.json``."""

    current: str
    reference: str
    layers: dict[str, LayerComparison]
    similarities: dict[str, float]
    skipped: dict[str, str]
    run: RunFolder | None = None

    def plot(self) -> Figure:
        """Matched cosines a site, and how they lie against chance."""
        return similarity_matrices(
            {
                site: layer.cosines[np.ix_(layer.matching.rows, layer.matching.columns)]
                for site, layer in self.layers.items()
            },
            {site: np.sort(layer.largest)[::-1] for site, layer in self.layers.items()},
            {site: (float(c.chance.mean()), float(c.chance.std())) for site, c in self.layers.items()},
            names={
                site: (
                    [str(c) for c in layer.alive[layer.matching.rows]],
                    [str(c) for c in layer.matching.columns],
                )
                for site, layer in self.layers.items()
            },
            current=self.current,
            reference=self.reference,
        )

    def frame(self) -> "pd.DataFrame":
        """A row a matched pair: site, component of each run, absolute cosine, largest cosine with any."""
        import pandas as pd

        rows = [
            {
                "site": site,
                "current": int(layer.alive[row]),
                "reference": int(column),
                "abs_cosine": float(value),
                "largest_abs_cosine": float(layer.largest[row]),
            }
            for site, layer in self.layers.items()
            for row, column, value in zip(
                layer.matching.rows, layer.matching.columns, layer.matching.values, strict=True
            )
        ]
        names = ["site", "current", "reference", "abs_cosine", "largest_abs_cosine"]
        return pd.DataFrame(rows, columns=pd.Index(names))

    def summary(self) -> dict[str, dict[str, Any]]:
        """By site: alive components, mean largest cosine, what chance gives (mean, sd), one-to-one mean."""
        return {
            site: {
                "alive": len(layer.alive),
                "mean_max_abs_cosine_sim": float(layer.largest.mean()),
                "chance_mean": float(layer.chance.mean()),
                "chance_sd": float(layer.chance.std()),
                "matched_mean_abs_cosine": float(layer.matching.values.mean()),
            }
            for site, layer in self.layers.items()
        }

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{escape(site)}</td><td>{row['alive']}</td><td>{row['mean_max_abs_cosine_sim']:.3f}</td>"
            f"<td>{row['chance_mean']:.3f} ± {row['chance_sd']:.3f}</td>"
            f"<td>{row['matched_mean_abs_cosine']:.3f}</td></tr>"
            for site, row in self.summary().items()
        )
        head = (
            "<tr><th>site</th><th>alive</th><th>mean largest |cosine|</th><th>by chance</th>"
            "<th>matched one to one</th></tr>"
        )
        title = escape(f"{self.current} against {self.reference}")
        return f"<p>{title}</p><table>{head}{rows}</table>"
