"""Layers along an axis of a picture: names that tell them apart, as far as they fit."""

from collections.abc import Sequence

from matplotlib.axes import Axes

from microtome.plotting.style import integer_ticks, light_grid


def short_names(layers: Sequence[str], most: int = 16) -> list[str]:
    """Names without the dotted parts that all share at either end; those still too long by number and end."""
    parts = [name.split(".") for name in layers]
    if len(layers) > 1:
        while min(map(len, parts)) > 1 and len({one[0] for one in parts}) == 1:
            parts = [one[1:] for one in parts]
        while min(map(len, parts)) > 1 and len({one[-1] for one in parts}) == 1:
            parts = [one[:-1] for one in parts]
    names = [".".join(one) for one in parts]
    return [name if len(name) <= most else f"{i + 1}: …{name[4 - most :]}" for i, name in enumerate(names)]


def layer_axis(ax: Axes, layers: Sequence[str]) -> None:
    """Layers along the x axis: names while they fit, turned where they are long."""
    wide = ax.get_gridspec().ncols == 1 if ax.get_gridspec() is not None else True  # pyright: ignore[reportOptionalMemberAccess]
    ticks = integer_ticks(len(layers), 16 if wide else 9)
    short = short_names(layers)
    names = [short[i] for i in ticks]
    turned = max(map(len, names)) * len(names) > (60 if wide else 30)
    ax.set_xticks(ticks, names, rotation=40 if turned else 0, ha="right" if turned else "center")
    if turned:
        for label in ax.get_xticklabels():
            label.set_rotation_mode("anchor")
    if list(short) != list(layers):  # what was left out of the names says what they are
        ax.set_xlabel("layer")
    ax.set_xlim(-0.3, len(layers) - 0.7)
    light_grid(ax)
