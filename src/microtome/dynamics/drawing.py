"""The documented plots under one name: saved to a file, or shown."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from matplotlib.figure import Figure

from microtome.core.atomic import atomic_path
from microtome.core.errors import MicrotomeError, bad_value
from microtome.dynamics import pattern_plots as plots
from microtome.dynamics.before_after_plots import entropy_figure
from microtome.dynamics.spatial_patterns import spatial_pattern
from microtome.dynamics.tools import register
from microtome.measures.plain_arrays import as_numpy

WITHOUT_WINDOWS = ("agg", "cairo", "pdf", "pgf", "ps", "svg", "template")


class VisualizationTools:
    """Each plot takes numpy arrays or torch tensors and returns the matplotlib figure.

    With ``save_path`` it is written there; without, it is shown where a display or a notebook can.
    ``VisualizationTools.register`` adds one of your own.
    """

    registered: ClassVar[dict[str, Callable[..., Any]]] = {}

    @staticmethod
    def plot_attention_pattern(
        attention_weights: Any,
        tokens: Sequence[str] | None = None,
        head_idx: int = 0,
        save_path: str | Path | None = None,
        title: str | None = None,
    ) -> Figure:
        """One head's pattern, of the first sample of ``[B, H, Q, K]``, or of ``[H, Q, K]`` or ``[Q, K]``."""
        heads = _heads(attention_weights)
        if not -len(heads) <= head_idx < len(heads):
            raise bad_value(
                "head_idx", head_idx, f"there are {len(heads)} heads", f"choose 0 to {len(heads) - 1}"
            )
        figure = plots.attention_figure(heads[head_idx], tokens, title or f"Attention of head {head_idx}")
        return _out(figure, save_path)

    @staticmethod
    def plot_attention_heads_comparison(
        attention_before: Any,
        attention_after: Any,
        num_heads: int = 4,
        save_path: str | Path | None = None,
        title: str = "",
    ) -> Figure:
        """The first heads before and after, on one colour scale; fewer where there are fewer."""
        before, after = _heads(attention_before), _heads(attention_after)
        return _out(plots.attention_heads_figure(before, after, num_heads, title=title), save_path)

    @staticmethod
    def plot_filter_visualization(
        filters: Any, num_filters: int = 16, save_path: str | Path | None = None, title: str = "Filters"
    ) -> Figure:
        """The first filters of ``[out, in, height, width]``, all input channels taken together."""
        values = as_numpy(filters)
        if values.ndim == 2 or (values.ndim == 3 and len(values)):  # [out, n] or one input channel left out
            values = values[:, None]
        if values.ndim < 3 or not len(values):
            raise bad_value("filters", list(values.shape), "no filters", "give [out, in, height, width]")
        shown = [spatial_pattern(one) for one in values[: max(1, num_filters)]]
        return _out(plots.filter_figure(shown, title, values.shape[1]), save_path)

    @staticmethod
    def plot_activation_heatmap(
        activations: Any,
        labels: Any = None,
        save_path: str | Path | None = None,
        title: str = "Activations",
    ) -> Figure:
        """Samples by units ``[B, F]``, sorted by class where labels are given; more axes are flattened."""
        values = as_numpy(activations)
        if values.ndim < 2:
            raise bad_value("activations", list(values.shape), "not two axes", "give [samples, features]")
        values = values.reshape(len(values), -1)
        classes = None if labels is None else as_numpy(labels)
        if classes is not None and classes.shape != (len(values),):
            raise bad_value("labels", list(classes.shape), f"{len(values)} samples", "give one a sample")
        return _out(plots.activation_figure(values, classes, title), save_path)

    @staticmethod
    def plot_entropy_evolution(
        entropies: Any,
        steps: Sequence[int],
        jump_steps: Sequence[int] | None = None,
        save_path: str | Path | None = None,
        title: str = "Attention entropy over training",
    ) -> Figure:
        """Entropy over training steps: one series, ``[steps, heads]``, or a mapping of named series."""
        series = _series(entropies)
        for name, values in series.items():
            if len(values) != len(steps):
                raise MicrotomeError(f"{name or 'entropies'}: {len(values)} values for {len(steps)} steps")
        jumps = [] if jump_steps is None else list(jump_steps)
        return _out(entropy_figure(series, list(steps), jumps, title=title), save_path)

    @classmethod
    def register(cls, function: Callable[..., Any], name: str | None = None) -> Callable[..., Any]:
        """Add a plot under its own name (a decorator). Raises ``MicrotomeError`` for a name that is taken."""
        return register(cls, function, name)


def _heads(weights: Any) -> np.ndarray:
    values = as_numpy(weights)
    if values.ndim == 4 and len(values):
        values = values[0]
    if values.ndim == 2:
        values = values[None]
    if values.ndim != 3 or not values.size:
        raise bad_value("attention_weights", list(values.shape), "no pattern", "give [batch, heads, q, k]")
    return values


def _series(entropies: Any) -> dict[str, list[float]]:
    if isinstance(entropies, dict):
        return {str(name): as_numpy(values).tolist() for name, values in entropies.items()}
    values = as_numpy(entropies)
    if values.ndim == 2:
        return {f"head {head}": column.tolist() for head, column in enumerate(values.T)}
    return {"": values.tolist()}


def _out(figure: Figure, save_path: str | Path | None) -> Figure:
    if save_path is None:
        show(figure)
    else:
        path = Path(save_path)
        with atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=150, format=path.suffix.lstrip(".").lower() or "png")
    return figure


def show(figure: Figure) -> None:
    """Show a figure in a notebook or a window; without either nothing happens."""
    import matplotlib

    notebook: Any = sys.modules.get("IPython")  # a notebook has loaded it
    if notebook is not None and hasattr(notebook.get_ipython(), "kernel"):
        notebook.display.display(figure)
        return
    if matplotlib.get_backend().lower() in WITHOUT_WINDOWS:
        return
    import matplotlib.pyplot as plt

    # Our figures know no window; one that pyplot made lends its own.
    window = plt.figure().canvas.manager
    assert window is not None
    window.canvas.figure = figure
    figure.set_canvas(window.canvas)
    plt.show()
