"""Pictures of trained targets. Arrays in, Figure out."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from microtome.plotting.networks import draw_polygon
from microtome.plotting.style import FAINT, GRID, PALETTE, grid_shape, panels, styled


@styled
def polygon(weights: np.ndarray, found: Sequence[bool] | None = None, limit: float = 1.5) -> Figure:
    """Feature directions ``[K, n_features, 2]`` in the plane, one panel an instance."""
    rows, columns = grid_shape(len(weights))
    figure, axes = panels(rows, columns, width=2.1, height=2.2)
    for k, ax in enumerate(axes.flat):
        if k >= len(weights):
            ax.set_axis_off()
            continue
        draw_polygon(ax, weights[k], limit=limit, labels=len(weights[k]) <= 12)
        verdict = "" if found is None else (": all features" if found[k] else ": incomplete")
        ax.set_title(f"instance {k}{verdict}")
    return figure


@styled
def cosine_similarity_distribution(cosines: np.ndarray) -> Figure:
    """Cosines between different features' directions, ``[K, n, n]``, one histogram an instance."""
    k, n, _ = cosines.shape
    rows, columns = grid_shape(k, max_columns=3)
    figure, axes = panels(rows, columns, width=3.3, height=2.3, sharex=True, sharey=True)
    pairs = np.triu_indices(n, 1)
    for instance, ax in enumerate(axes.flat):
        if instance >= k:
            ax.set_axis_off()
            continue
        values = cosines[instance][pairs]
        ax.hist(values, bins=np.linspace(-1, 1, 41), color=PALETTE[0], alpha=0.85, lw=0)
        ax.axvline(0, color=FAINT, lw=0.7)
        ax.set(title=f"instance {instance}", xlim=(-1, 1))
        ax.grid(axis="y", color=GRID)
    for ax in axes[-1]:
        ax.set_xlabel("cosine between two features")
    for ax in axes[:, 0]:
        ax.set_ylabel("pairs of features")
    return figure


@styled
def feature_representation(norms: np.ndarray, cosines: np.ndarray) -> Figure:
    """How long each feature's direction is, ``[K, n]``, and how near its nearest neighbour, ``[K, n, n]``."""
    k, n = norms.shape
    nearest = np.abs(cosines - np.eye(n)).max(-1)
    figure, axes = panels(1, 2, width=3.6, height=2.4)
    shown = (("length of the direction", norms), ("largest |cosine|", nearest))
    for ax, (label, values) in zip(axes[0], shown, strict=True):
        for instance in range(k):
            ax.plot(
                np.arange(n) + (instance - (k - 1) / 2) * 0.5 / k,  # side by side, not on top
                values[instance],
                "o",
                ms=3.5,
                alpha=0.8,
                color=PALETTE[instance % len(PALETTE)],
                label=f"instance {instance}",
            )
        ax.set(xlabel="feature", ylabel=label, ylim=(-0.04, max(1.1, 1.1 * float(values.max(initial=0)))))
        ax.grid(axis="y", color=GRID)
    if 1 < k <= 8:
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=min(k, 4))
    return figure


@styled
def loss_curves(metrics: Sequence[Mapping[str, Any]]) -> Figure:
    """Training loss against step, one line an instance, from the rows of ``metrics.jsonl``."""
    figure, axes = panels(1, 1, width=4.6, height=2.6)
    ax = axes[0, 0]
    rows = [row for row in metrics if "losses" in row]
    steps = [row["step"] for row in rows]
    losses = np.array([row["losses"] for row in rows], dtype=float).reshape(len(rows), -1)
    for instance in range(losses.shape[1]):
        colour = PALETTE[instance % len(PALETTE)]
        ax.plot(steps, losses[:, instance], color=colour, lw=1.1, label=f"instance {instance}")
    ax.set(xlabel="step", ylabel="training loss", yscale="log" if (losses > 0).any() else "linear")
    ax.grid(axis="y", color=GRID)
    if 1 < losses.shape[1] <= 8:
        ax.legend()
    return figure


@styled
def language_model_losses(metrics: Sequence[Mapping[str, Any]], unigram: float) -> Figure:
    """Training and held-out loss against step, in nats a token, from the rows of ``metrics.jsonl``.

    ``unigram`` is the held-out loss of token frequencies alone, drawn as a line.
    """
    figure, axes = panels(1, 1, width=4.8, height=2.8)
    ax = axes[0, 0]
    ax.axhline(unigram, color=FAINT, lw=1.0, ls=(0, (4, 3)), label="token frequencies alone")
    ax.plot(
        [row["step"] for row in metrics],
        [row["loss"] for row in metrics],
        color=PALETTE[0],
        label="training",
    )
    held_out = [row for row in metrics if "held_out_loss" in row]
    ax.plot(
        [row["step"] for row in held_out],
        [row["held_out_loss"] for row in held_out],
        "o-",
        ms=4,
        color=PALETTE[1],
        label="held out",
    )
    ax.set(xlabel="step", ylabel="loss (nats a token)", xlim=(0, None))
    ax.grid(axis="y", color=GRID)
    ax.legend()
    return figure
