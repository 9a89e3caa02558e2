"""Two analyses against each other: a base against a tuned model, one text against another."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from scipy.stats import norm

from microtome.core.config import Config
from microtome.core.errors import MicrotomeError
from microtome.core.runs import RunFolder, timestamp
from microtome.gradients.loading import load
from microtome.gradients.normalise import normalise_gradients
from microtome.gradients.result import GradientResult, strongest
from microtome.gradients.validation import rank_correlation

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

KIND = "gradients-compare"
TOP = 20
SCORES = ("attribution_mean", "gradients_mean_abs", "gradients_mean", "values_mean")
Values = Float[np.ndarray, " D"]


class CompareConfig(Config):
    """What was compared."""

    a: str
    b: str
    by: str


@dataclass(frozen=True)
class LayerComparison:
    """One layer's scores of both, each scaled so that absolute values add up to their number.

    ``z``: the change over its standard error, where both know theirs. ``spearman`` is over the values that
    are not 0 in both, ``pearson`` over all. ``ceiling``: the Pearson correlation that two runs of the same
    model on other samples would reach, from their standard errors.
    """

    a: Values
    b: Values
    z: Values | None
    spearman: float
    pearson: float
    overlap: float
    ceiling: float

    @property
    def change(self) -> Values:
        """From a to b."""
        return self.b - self.a

    @property
    def significant(self) -> int | None:
        """How many changes exceed what chance would give any of them one time in twenty (Bonferroni)."""
        if self.z is None:
            return None
        return int((np.abs(self.z) > norm.isf(0.025 / len(self.z))).sum())

    def most_changed(self, k: int) -> np.ndarray:
        """Indices of the largest changes; significant ones first where that is known."""
        order = strongest(self.change, len(self.change))
        if self.z is not None:
            order = order[np.argsort(np.abs(self.z[order]) <= 2, kind="stable")]
        return order[:k]


@dataclass(frozen=True)
class Comparison:
    """Both results, layer by layer."""

    names: tuple[str, str]
    by: str
    layers: Mapping[int, LayerComparison]
    path: Path | None = None

    def frame(self, k: int = TOP) -> "pd.DataFrame":
        """The ``k`` values of each layer that changed most: layer, index, a, b, change, z."""
        import pandas as pd

        rows: list[dict[str, Any]] = []
        for layer, one in self.layers.items():
            for index in one.most_changed(k).tolist():
                row = {"layer": layer, "index": index, "a": one.a[index], "b": one.b[index]}
                row["change"] = one.change[index]
                row["z"] = None if one.z is None else one.z[index]
                rows.append(row)
        return pd.DataFrame(rows)

    def plot(self) -> "Figure":
        """Rank correlation by layer, and the scores of the layer that changed most."""
        from microtome.gradients.comparison_plots import comparison_figure

        return comparison_figure(self)

    def rows(self) -> list[dict[str, Any]]:
        """One row a layer."""
        return [
            {
                "layer": layer,
                "rank correlation (Spearman)": one.spearman,
                "correlation (Pearson)": one.pearson,
                "Pearson of the same model on other samples": one.ceiling,
                f"top {TOP} in common": one.overlap,
                "changes beyond chance": one.significant,
                "values": len(one.a),
            }
            for layer, one in self.layers.items()
        ]

    def told(self, k: int = TOP) -> Iterator[str]:
        """Lines for the terminal."""
        yield f"{self.names[0]}  against  {self.names[1]}, by {self.by.replace('_', ' ')}"
        heads = (
            f"{'Spearman':>9} {'Pearson':>8} {'ceiling':>8} {f'top {TOP}':>7} {'changed beyond chance':>22}"
        )
        yield f"  {'layer':>5} {heads}"
        for layer, one in self.layers.items():
            known = "unknown" if one.significant is None else f"{one.significant} of {len(one.a)}"
            if one.significant == 0:
                known = "not distinguishable"
            numbers = f"{one.spearman:>9.3f} {one.pearson:>8.3f} {one.ceiling:>8.3f} {one.overlap:>7.0%}"
            yield f"  {layer:>5} {numbers} {known:>22}"
        yield "  (ceiling: the Pearson correlation of the same model with itself on other samples)"
        yield "Largest changes (of scores scaled to a mean absolute value of 1):"
        frame = self.frame(k).sort_values("change", key=abs, ascending=False).head(k)
        for row in frame.to_dict("records"):
            z = "" if row["z"] is None else f"  z {row['z']:+.1f}"
            yield f"  layer {row['layer']:>3}  {row['index']:>6}  {row['a']:+9.3f} -> {row['b']:+9.3f}{z}"
        if self.path is not None:
            yield f"Results: {self.path}"

    def _repr_html_(self) -> str:
        import pandas as pd

        return pd.DataFrame(self.rows()).to_html(index=False)


def compare(
    a: GradientResult | str | Path, b: GradientResult | str | Path, by: str | None = None
) -> Comparison:
    """Compare two results over the layers they share. ``by``: a score that both have.

    Raises ``MicrotomeError`` when they share no layer, or a layer has other widths.
    """
    names = tuple(_name(x) for x in (a, b))
    first, second = (x if isinstance(x, GradientResult) else load(x) for x in (a, b))
    shared = [layer for layer in first.layers if layer in second.layers]
    if not shared:
        raise MicrotomeError(
            f"no layer in common: {list(first.layers)} and {list(second.layers)}; analyse the same layers"
        )
    score = by or _common_score(first, second, shared[0])
    return Comparison(
        (names[0], names[1]), score, {layer: _layer(first, second, layer, score) for layer in shared}
    )


def compare_runs(a: str, b: str, by: str | None = None, out_dir: Path | None = None) -> Comparison:
    """Compare two saved results and write the comparison: a table, numbers and a picture."""
    found = compare(a, b, by)
    path = out_dir or Path("runs") / f"{KIND}-{timestamp()}"
    folder = RunFolder.create(path, CompareConfig(a=str(a), b=str(b), by=found.by), kind=KIND)
    (folder.path / "changes.csv").write_text(found.frame(100).to_csv(index=False), encoding="utf-8")
    folder.save_figure("comparison", found.plot(), where="")
    spearman = float(np.nanmean([one.spearman for one in found.layers.values()]))
    folder.finish({"layers": len(found.layers), "spearman": spearman, "by_layer": found.rows()})
    return Comparison(found.names, found.by, found.layers, folder.path)


def _layer(first: GradientResult, second: GradientResult, layer: int, by: str) -> LayerComparison:
    a, b = (r.score(layer, by).astype(np.float64) for r in (first, second))
    if len(a) != len(b):
        raise MicrotomeError(
            f"layer {layer}: {len(a)} values against {len(b)}; compare runs with dictionaries of one width"
        )
    errors = [_error(r, layer, by) for r in (first, second)]
    scaled, known, reliable = [], [], []
    for values, error in zip((a, b), errors, strict=True):
        scale = len(values) / max(np.abs(values).sum(), 1e-300)
        scaled.append(normalise_gradients(values) if np.abs(values).sum() else values)
        known.append(None if error is None else error * scale)
        spread = values.var()
        reliable.append(
            np.nan if error is None or not spread else max(1 - np.nanmean(error**2) / spread, 0.0)
        )
    z = None
    if known[0] is not None and known[1] is not None:
        total = np.sqrt(known[0] ** 2 + known[1] ** 2)
        with np.errstate(divide="ignore", invalid="ignore"):
            z = np.nan_to_num(np.where(total > 0, (scaled[1] - scaled[0]) / total, 0.0))
    tops = [set(strongest(values, TOP).tolist()) for values in (a, b)]
    return LayerComparison(
        a=scaled[0],
        b=scaled[1],
        z=z,
        spearman=rank_correlation(*(values[(a != 0) | (b != 0)] for values in (a, b))),
        pearson=float(np.corrcoef(a, b)[0, 1]) if a.std() and b.std() else float("nan"),
        overlap=len(tops[0] & tops[1]) / max(len(tops[0]), 1),
        ceiling=float(np.sqrt(reliable[0] * reliable[1])),
    )


def _error(result: GradientResult, layer: int, by: str) -> Values | None:
    found = result.layers[layer].get(f"{by}_error")
    return None if found is None or np.isnan(found).all() else found.astype(np.float64)


def _common_score(first: GradientResult, second: GradientResult, layer: int) -> str:
    have = [set(r.layers[layer]) for r in (first, second)]
    for name in (*SCORES, *sorted(have[0])):
        if name in have[0] and name in have[1]:
            return name
    raise MicrotomeError("the two results have no score in common; run both with the same --aggregate_by")


def _name(x: GradientResult | str | Path) -> str:
    if isinstance(x, GradientResult):
        return str(x.metadata.get("model_name", "a result"))
    return Path(x).name
