"""What a run found, as arrays by layer, and what can be asked of it without the model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from microtome.core.config_keys import nearest
from microtome.core.errors import MicrotomeError, bad_value
from microtome.gradients.names import Kind

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

Arrays = dict[str, np.ndarray]
# Other names of scores.
_SHORT = {
    "mean": "gradients_mean",
    "mean_abs": "gradients_mean_abs",
    "gradients": "gradients_mean_abs",
    "attribution": "attribution_mean",
    "active_gradients": "active_gradients_mean_abs",
    "values": "values_mean",
}
CI_95 = 1.959964


@dataclass(frozen=True)
class GradientResult:
    """Scores of every layer: ``layers[layer][name]`` is an array ``[D]``.

    Names are ``<quantity>_<mode>`` (``gradients_mean_abs``, ``attribution_mean``, ...), those with ``_error``
    behind them the standard error over samples, and ``active_share``, the share of positions at which a
    feature acts. Gradients are per position, in nats per unit of the value; attributions in nats.
    """

    kind: Kind
    layers: Mapping[int, Arrays]
    metadata: dict[str, Any] = field(default_factory=dict)
    tokens: Mapping[int, list[dict[str, Any]]] = field(default_factory=dict)
    """The strongest tokens of a layer's top values: index, value, attribution, text around."""
    path: Path | None = None

    def score(self, layer: int, by: str | None = None) -> Float[np.ndarray, " D"]:
        """One score of a layer. ``by``: an array's name, ``mean``, ``mean_abs``, ``attribution``,
        ``context_dependence``; left out, the one to trust (see ``best_score``). Raises ``MicrotomeError``.
        """
        if layer not in self.layers:
            raise bad_value("layer", layer, "was not analysed", f"those that were: {list(self.layers)}")
        arrays = self.layers[layer]
        name = by or self.best_score
        if name == "context_dependence":
            return context_dependence(
                self.score(layer, "gradients_mean"), self.score(layer, "gradients_mean_abs")
            )
        name = _SHORT.get(name, name)
        if name not in arrays:
            near = nearest(name, list(arrays))
            mend = f"did you mean {near}?" if near else f"there are {', '.join(arrays)}"
            raise bad_value("by", by, "no such score in this result", mend)
        return arrays[name]

    @property
    def best_score(self) -> str:
        """The score that predicts ablations best: ``attribution`` where there is one."""
        arrays = next(iter(self.layers.values()), {})
        for name in ("attribution_mean", "gradients_mean_abs", "gradients_mean"):
            if name in arrays:
                return name
        return next(iter(arrays), "gradients_mean_abs")

    def top(self, k: int = 10, layer: int | None = None, by: str | None = None) -> "pd.DataFrame":
        """The ``k`` values that are largest by the absolute value of a score, of one layer or of each.

        Columns: layer, index, the score, its 95% confidence interval over samples where it is known, its rank
        and the share of positions at which the value acts. Scores of features are compared within a layer.
        """
        import pandas as pd

        chosen = list(self.layers) if layer is None else [layer]
        return pd.concat([self._top_of(number, k, by) for number in chosen], ignore_index=True)

    def _top_of(self, layer: int, k: int, by: str | None) -> "pd.DataFrame":
        import pandas as pd

        values = self.score(layer, by)
        name = _SHORT.get(by or self.best_score, by or self.best_score)
        order = strongest(values, k)
        columns: dict[str, Any] = {"layer": layer, "index": order, name: values[order]}
        error = self.layers[layer].get(f"{name}_error")
        if error is not None:
            columns["low"] = values[order] - CI_95 * error[order]
            columns["high"] = values[order] + CI_95 * error[order]
        columns["rank"] = np.arange(1, len(order) + 1)
        if "active_share" in self.layers[layer]:
            columns["active_share"] = self.layers[layer]["active_share"][order]
        return pd.DataFrame(columns)

    def frame(self) -> "pd.DataFrame":
        """Every value of every layer as one row: layer, index, and a column for each score."""
        import pandas as pd

        frames = []
        for layer, arrays in self.layers.items():
            n = len(next(iter(arrays.values())))
            frames.append(pd.DataFrame({"layer": layer, "index": np.arange(n), **arrays}))
        return pd.concat(frames, ignore_index=True)

    def plot(self, layer: int | None = None, by: str | None = None, kind: str = "scatter") -> "Figure":
        """A ``scatter`` or ``histogram`` of one layer's score, or of all layers when none is named."""
        from microtome.gradients import plots

        if kind not in ("scatter", "histogram"):
            raise bad_value("kind", kind, "no such picture", "choose scatter or histogram")
        name = _SHORT.get(by or self.best_score, by or self.best_score)
        labels = plots.labels(name, self.kind)
        chosen = list(self.layers) if layer is None else [layer]
        data = {number: self.score(number, by) for number in chosen}
        if layer is not None:
            draw = plots.scatter if kind == "scatter" else plots.histogram
            return draw(data[layer], labels, title=f"Layer {layer}")
        grid = plots.all_scatters if kind == "scatter" else plots.all_histograms
        return grid(data, labels)

    def _repr_html_(self) -> str:
        """A table of the strongest values of each layer, for notebooks."""
        told = f"{len(self.layers)} layers of {self.metadata.get('model_name', 'a model')}"
        return f"<p>Gradient analysis ({self.kind}) of {told}</p>{self.top(5).to_html(index=False)}"


def strongest(values: Float[np.ndarray, " D"], k: int) -> np.ndarray:
    """Indices of the ``k`` largest absolute values, largest first, equal ones by index."""
    k = min(k, len(values))
    size = np.nan_to_num(np.abs(values), nan=-1.0)
    if k < len(values):
        candidates = np.flatnonzero(size >= np.partition(size, -k)[-k]) if k else np.empty(0, dtype=np.int64)
    else:
        candidates = np.arange(len(values))
    return candidates[np.argsort(-size[candidates], kind="stable")][:k]


def context_dependence(
    mean: Float[np.ndarray, " D"], mean_abs: Float[np.ndarray, " D"]
) -> Float[np.ndarray, " D"]:
    """``1 - |mean| / mean_abs``: 0 where the effect has one sign everywhere, 1 where it cancels out."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(mean_abs > 0, 1 - np.abs(mean) / mean_abs, np.nan)


def one_kind(value: str) -> Kind:
    """``layers`` or ``features``. Raises ``MicrotomeError``."""
    if value == "layers" or value == "features":
        return value
    raise MicrotomeError(f"{value}: no kind of gradient analysis; layers and features are")
