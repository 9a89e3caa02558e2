"""Pictures of the original functions, drawn from their arrays."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from microtome.core.atomic import atomic_path
from microtome.plotting.style import colour, heatmap, light_grid, note, panels, styled

ARMS = ("meta", "baseline")


def file_word(layer: str) -> str:
    """A layer's name as it stands in file names: ``fc_layers_0`` for ``fc_layers.0``."""
    return layer.replace(".", "_")


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")
    return path


@styled
def pca_panels(
    meta: Mapping[str, np.ndarray], baseline: Mapping[str, np.ndarray], meta_name: str, baseline_name: str
) -> Figure:
    """The rows (filters) of one layer of each network on its own first two principal components."""
    figure, axes = panels(1, 2, width=3.6, height=3.2, title="Filters on each network's own two axes")
    for i, (ax, pca, name) in enumerate(
        zip(axes[0], (meta, baseline), (meta_name, baseline_name), strict=True)
    ):
        points, share = pca["transformed"], np.append(pca["explained_variance_ratio"], [0.0, 0.0])
        second = points[:, 1] if points.shape[1] > 1 else np.zeros(len(points))
        ax.scatter(points[:, 0], second, s=14, alpha=0.7, color=colour(i), linewidths=0)
        ax.set(
            title=f"{ARMS[i]}: {name}",
            xlabel=f"component 1 ({share[0]:.0%} of variance)",
            ylabel=f"component 2 ({share[1]:.0%})",
        )
        light_grid(ax, "both")
    return figure


@styled
def weight_panels(meta: np.ndarray, baseline: np.ndarray, name: str) -> Figure:
    """How the values (left) and the magnitudes (right) of one weight are spread in both networks."""
    figure, axes = panels(1, 2, width=3.6, height=2.8, title=name)
    for ax, change, words in zip(axes[0], (np.asarray, np.abs), ("weight", "|weight|"), strict=True):
        both = [change(values) for values in (meta, baseline)]
        low, high = min(v.min() for v in both), max(v.max() for v in both)
        bins = np.linspace(low, high if high > low else low + 1, 51)
        for i, values in enumerate(both):
            ax.hist(values, bins, density=True, histtype="step", color=colour(i), label=ARMS[i], lw=1.4)
        ax.set(xlabel=words, ylabel="density")
        light_grid(ax)
    axes[0, 1].legend()
    return figure


@styled
def activation_pca(points: np.ndarray, share: np.ndarray, layer: str) -> Figure:
    """Inputs on the first two principal components of a layer's activations."""
    figure, axes = panels(1, 1, width=4.2, height=3.4)
    share = np.append(share, [0.0, 0.0])
    second = points[:, 1] if points.shape[1] > 1 else np.zeros(len(points))
    axes[0, 0].scatter(points[:, 0], second, s=12, alpha=0.6, color=colour(0), linewidths=0)
    axes[0, 0].set(
        title=f"Activations of {layer}",
        xlabel=f"component 1 ({share[0]:.0%} of variance)",
        ylabel=f"component 2 ({share[1]:.0%})",
    )
    light_grid(axes[0, 0], "both")
    return figure


@styled
def unit_statistics(mean: np.ndarray, std: np.ndarray, layer: str) -> Figure:
    """How units' means and standard deviations are spread."""
    figure, axes = panels(1, 2, width=3.4, height=2.6, title=f"Units of {layer}")
    for i, (ax, values, words) in enumerate(
        zip(axes[0], (mean, std), ("mean activation", "standard deviation"), strict=True)
    ):
        ax.hist(values, bins=50, color=colour(i))
        ax.set(xlabel=words, ylabel="units")
        light_grid(ax)
    return figure


@styled
def encoder_weights(weights: np.ndarray, layer: str) -> Figure:
    """How an autoencoder's encoder weights are spread."""
    figure, axes = panels(1, 1, width=4.2, height=2.8)
    axes[0, 0].hist(weights.ravel(), bins=100, color=colour(0))
    axes[0, 0].set(title=f"Encoder weights, {layer}", xlabel="weight", ylabel="weights")
    light_grid(axes[0, 0])
    return figure


@styled
def feature_sparsity(share: np.ndarray, layer: str) -> Figure:
    """Share of near-zero encoder weights of every feature."""
    figure, axes = panels(1, 1, width=4.2, height=2.8)
    axes[0, 0].hist(share, bins=np.linspace(0, 1, 41).tolist(), color=colour(1))
    axes[0, 0].set(
        title=f"Features of {layer}", xlabel="share of encoder weights below 0.001", ylabel="features"
    )
    light_grid(axes[0, 0])
    return figure


@styled
def losses(history: Mapping[str, Sequence[float]], title: str) -> Figure:
    """Losses over epochs."""
    figure, axes = panels(1, 1, width=4.4, height=2.8)
    for i, (name, values) in enumerate(history.items()):
        axes[0, 0].plot(np.arange(1, len(values) + 1), values, color=colour(i), label=name)
    axes[0, 0].set(title=title, xlabel="epoch", ylabel="loss", yscale="log")
    light_grid(axes[0, 0])
    axes[0, 0].legend()
    return figure


@styled
def probe_history(results: Mapping[str, Mapping[str, Sequence[float]]], title: str) -> Figure:
    """Training and validation accuracy of a linear and of an MLP probe over epochs."""
    figure, axes = panels(1, len(results), width=3.4, height=2.7, title=title, sharey=True)
    for ax, (kind, history) in zip(axes[0], results.items(), strict=True):
        epochs = np.arange(1, len(history["train_acc"]) + 1)
        ax.plot(epochs, history["train_acc"], color=colour(0), label="training")
        ax.plot(epochs, history["val_acc"], color=colour(1), label="validation")
        ax.set(title=kind, xlabel="epoch", ylim=(0, 1.02))
        light_grid(ax)
    axes[0, 0].set_ylabel("accuracy")
    axes[0, -1].legend(loc="lower right")
    return figure


@styled
def accuracy_tables(tables: Mapping[str, np.ndarray], layers: Sequence[str], tasks: Sequence[str]) -> Figure:
    """Validation accuracy of every layer and task, linear beside MLP probes."""
    figure, axes = panels(1, len(tables), width=3.6, height=0.45 * len(layers) + 1.2)
    for ax, (kind, values) in zip(axes[0], tables.items(), strict=True):
        heatmap(
            ax,
            values,
            title=f"{kind} probe",
            limit=1.0,
            x_ticks=tasks,
            y_ticks=layers,
            scale_label="accuracy",
        )
        for (row, column), value in np.ndenumerate(values):
            ink = "white" if value > 0.6 else "black"
            ax.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color=ink)
    return figure


@styled
def by_depth(
    curves: Mapping[str, np.ndarray], layers: Sequence[str], title: str, y_label: str = "accuracy"
) -> Figure:
    """One value a layer and curve, in order of depth."""
    figure, axes = panels(1, 1, width=max(4.2, 0.7 * len(layers) + 2), height=3.0)
    ax = axes[0, 0]
    for i, (name, values) in enumerate(curves.items()):
        ax.plot(np.arange(len(values)), values, marker="o", ms=4, color=colour(i), label=name)
    ax.set_xticks(np.arange(len(layers)), layers, rotation=30, ha="right")
    ax.set(title=title, ylabel=y_label)
    light_grid(ax)
    ax.legend()
    return figure


@styled
def advantage(difference: np.ndarray, layers: Sequence[str], spread: np.ndarray) -> Figure:
    """Accuracy of the first network minus that of the second, with its 95 % interval from one split."""
    figure, axes = panels(1, 1, width=max(4.2, 0.7 * len(layers) + 2), height=3.0)
    ax, x = axes[0, 0], np.arange(len(layers))
    ax.axhline(0, color="black", lw=0.8)
    ax.errorbar(x, difference, yerr=spread, fmt="o", color=colour(0), capsize=3)
    ax.set_xticks(x, layers, rotation=30, ha="right")
    ax.set(title="Linear probes: meta minus baseline", ylabel="difference of accuracy")
    if (np.abs(difference) <= spread).all():
        note(ax, "no difference above noise", y=0.93)
    light_grid(ax)
    return figure
