"""Errors to the labels, by number of active features and by feature."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from microtome.plotting.style import FAINT, PALETTE, colour, integer_ticks, light_grid, panels, styled

MODEL_COLOURS = {
    "target": colour(0),
    "decomposition": colour(1),
    "monosemantic": FAINT,
    "all_components": colour(2),
}
MODEL_NAMES = {
    "target": "target",
    "decomposition": "decomposition",
    "monosemantic": "one neuron a feature",
    "all_components": "all components",
    "causal_importance": "masked by causal importance",
    "stochastic": "masked at random above it",
    "batch_topk": "top-k of the batch",
    "topk_1": "top 1 of each input",
    "chosen": "chosen components",
}


@styled
def label_errors(
    errors: Mapping[str, Float[np.ndarray, "K kinds"]], kinds: Sequence[str], *, decomposition: str
) -> Figure:
    """Bars: mean squared error to the labels by kind of input, a bar a model, dots the seeds.

    ``decomposition`` says how the decomposition was run. Source: APD paper code's ``tms_mse``.
    """
    figure, axes = panels(1, 1, width=6.6, height=2.7)
    ax = axes[0, 0]
    width = 0.8 / len(errors)
    for index, (model, values) in enumerate(errors.items()):
        where = np.arange(len(kinds)) + (index - (len(errors) - 1) / 2) * width
        label = decomposition if model == "decomposition" else MODEL_NAMES.get(model, model)
        ax.bar(where, values.mean(axis=0), width, color=MODEL_COLOURS.get(model, colour(index)), label=label)
        if len(values) > 1:
            ax.plot(where, values.T, ".", color=PALETTE[6], ms=2.5, alpha=0.6)
    ax.set(ylabel="MSE to the labels", ylim=(0, None))
    ax.set_xticks(range(len(kinds)), [kind.replace(" ", "\n", 1) for kind in kinds])
    light_grid(ax)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper left", ncols=len(errors))
    return figure


@styled
def feature_representation_analysis(
    outputs: Mapping[str, Float[np.ndarray, " n_features"]], value: float
) -> Figure:
    """Output i when only feature i is on at ``value``: the target's as bars, the decomposition's as marks.

    Bars within 0.1 of the value are dark, within 0.3 lighter, others pale. Source: SPD code's ``train_tms``.
    """
    target = outputs["target"]
    n = len(target)
    figure, axes = panels(1, 1, width=float(np.clip(0.16 * n + 2.5, 4.6, 9.0)), height=2.6)
    ax = axes[0, 0]
    off = np.abs(target - value)
    for low, high, shade, label in (
        (-1.0, 0.1, "#0072B2", "target, within 0.1"),
        (0.1, 0.3, "#7FB8D8", "within 0.3"),
        (0.3, np.inf, "#D5E3EC", "further off"),
    ):
        chosen = (off >= low) & (off < high)
        if chosen.any():
            ax.bar(np.flatnonzero(chosen), target[chosen], color=shade, width=0.75, label=label)
    for name, marker, shade in (("decomposition", "x", 1), ("all_components", "+", 2)):
        if name in outputs:
            label = "chosen components" if name == "decomposition" else MODEL_NAMES[name]
            ax.plot(outputs[name], marker, color=colour(shade), ms=5, mew=1.3, label=label)
    ax.axhline(value, color=PALETTE[6], lw=0.9, ls=":", label=f"input ({value:g})")
    ax.set(xlabel="feature that is on", ylabel="its output", xticks=integer_ticks(n))
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper left", ncols=3)
    return figure


@styled
def feature_losses(
    losses: Mapping[str, Float[np.ndarray, " n_features"]], *, order_by: str = "target", note: str = ""
) -> Figure:
    """Mean squared error to the labels per feature (log axis), features sorted by one model's loss.

    Source: APD paper code's ``per_feature_performance`` and ``loss_by_feature``.
    """
    figure, axes = panels(1, 1, width=6.6, height=2.7)
    ax = axes[0, 0]
    order = np.argsort(losses[order_by])
    markers = ("o", "D", "^", "s")
    for index, (name, values) in enumerate(losses.items()):
        mean = np.nanmean(values) if np.isfinite(values).any() else np.nan
        label = f"{MODEL_NAMES.get(name, name)} (mean {mean:.2e})"
        line = "-" if name == order_by else ""
        marks = {"marker": markers[index % 4], "ms": 3.2, "mew": 0.7, "lw": 0.8, "mfc": "none", "ls": line}
        ax.plot(values[order], color=colour(index), label=label, **marks)
    positive = np.concatenate([v[np.isfinite(v)] for v in losses.values()])
    ax.set(xlabel=f"feature, sorted by the {MODEL_NAMES.get(order_by, order_by)}'s error{note}")
    ax.set(ylabel="MSE to the labels", yscale="log" if (positive > 0).any() else "linear")
    ax.set_xticks(integer_ticks(len(order)))
    light_grid(ax)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper left", ncols=min(2, len(losses)))
    return figure


@styled
def avg_components_scatter(
    error: Float[np.ndarray, " n_features"],
    components: Mapping[str, Float[np.ndarray, " n_features"]],
    *,
    masking: str,
) -> Figure:
    """Per feature the error of the decomposition to the target against how many components are on.

    One panel for each set of components. Source: APD paper code's ``avg_components_scatter``.
    """
    figure, axes = panels(1, len(components), width=3.4 if len(components) > 1 else 5.2, height=2.7)
    for index, (ax, (name, counts)) in enumerate(zip(axes.ravel(), components.items(), strict=True)):
        known = np.isfinite(error) & np.isfinite(counts)
        ax.plot(error[known], counts[known], "o", ms=4, alpha=0.6, mew=0, color=colour(0))
        ax.set(xlabel=f"MSE to the target\n({masking})", title="" if name == "all" else name)
        if (error[known] > 0).any():
            ax.set_xscale("log")
        if index == 0:
            ax.set_ylabel("components on when\nonly this feature is on")
        ax.set_ylim(0, max(1.2, 1.15 * float(np.max(counts[known], initial=1.0))))
        light_grid(ax, "both")
    return figure
