"""Graphs of components: which feeds which, over a data set and through one prompt."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.patheffects import withStroke

from microtome.plotting.style import FAINT, GRID, INK, colour, note, panels, shortened, styled

POSITIVE, NEGATIVE = colour(1), colour(0)
HALO = [withStroke(linewidth=2.5, foreground="white")]
Point = tuple[float, float]


@styled
def attribution_edges(edges: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Figure:
    """The strongest edges ``{source, target, signed, absolute}`` between components, a column a site.

    Sites stand in the order of ``names`` (all sources; targets that are none come last). The width of an edge
    is its absolute attribution, its colour the sign of the mean.
    """
    sites = list(dict.fromkeys([_site(n) for n in names] + [_site(e["target"]) for e in edges]))
    used = list(dict.fromkeys(n for e in edges for n in (e["source"], e["target"])))
    sites = [site for site in sites if any(_site(n) == site for n in used)]
    members = {site: _sorted(n for n in used if _site(n) == site) for site in sites}
    tallest = max((len(m) for m in members.values()), default=1)
    width = float(np.clip(1.7 * len(sites) + 0.8, 4.0, 16.0))
    figure, axes = panels(1, 1, width=width, height=float(np.clip(0.2 * tallest + 1.4, 2.6, 9.0)))
    ax = axes[0, 0]
    if not edges:
        note(ax, "no edges")
        ax.set_axis_off()
        return figure
    place = _levels(members, edges)
    _curves(ax, [(place[e["source"]], place[e["target"]], e["signed"], e["absolute"]) for e in edges])
    for name, (x, y) in place.items():
        ax.plot(x, y, "o", color=INK, ms=3.2, zorder=3)
        last = x == len(sites) - 1
        ax.annotate(
            name.rpartition(":")[2],
            (x, y),
            textcoords="offset points",
            xytext=(5 if last else -5, 0),
            ha="left" if last else "right",
            va="center",
            fontsize=6.5,
            path_effects=HALO,
        )
    ax.set_xticks(range(len(sites)), _short(sites), rotation=20, ha="right")
    ax.set(yticks=[], xlim=(-0.45, len(sites) - 0.55))
    ax.set_title(f"{len(edges)} strongest edges")
    _legend(figure)
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)
    return figure


@styled
def prompt_picture(graph: Mapping[str, Any], most: int = 80) -> Figure:
    """The ``most`` strongest edges of a prompt's graph: a column a token, a row a site, upwards."""
    edges = graph["edges"][:most]
    nodes = {node["id"]: node for node in graph["nodes"]}
    sites = list(dict.fromkeys(node["site"] for node in graph["nodes"]))
    used = dict.fromkeys(n for e in edges for n in (e["source"], e["target"]))
    cells: dict[tuple[int, str], list[str]] = {}
    for name in used:
        cells.setdefault((nodes[name]["position"], nodes[name]["site"]), []).append(name)
    place: dict[str, Point] = {}
    for (position, site), inside in cells.items():
        for i, name in enumerate(sorted(inside, key=lambda n: nodes[n].get("component", 0))):
            shift = (i - (len(inside) - 1) / 2) * min(0.22, 0.8 / len(inside))
            place[name] = (position + shift, float(sites.index(site)))
    n = len(graph["tokens"])
    height = float(np.clip(0.5 * len(sites) + 1.4, 2.6, 9.0))
    figure, axes = panels(1, 1, width=float(np.clip(0.85 * n + 2.0, 5.0, 16.0)), height=height)
    ax = axes[0, 0]
    for row in range(len(sites)):
        ax.axhline(row, color=GRID, lw=0.8, zorder=0)
    _curves(
        ax,
        [(place[e["source"]], place[e["target"]], e["attribution"], abs(e["attribution"])) for e in edges],
        upwards=True,
    )
    crowded = max((len(inside) for inside in cells.values()), default=0) > 5
    for name, (x, y) in place.items():
        ax.plot(x, y, "o", color=INK, ms=3.2, zorder=3)
        if "component" in nodes[name] and not crowded:
            where = {"textcoords": "offset points", "xytext": (0, -8), "ha": "center", "fontsize": 6}
            where["path_effects"] = HALO
            ax.annotate(str(nodes[name]["component"]), (x, y), **where)  # pyright: ignore[reportArgumentType]
    ax.set_xticks(range(n), [repr(word)[1:-1] or "∅" for word in graph["tokens"]], rotation=35, ha="right")
    ax.set_yticks(range(len(sites)), _short(sites))
    ax.set(xlim=(-0.6, n - 0.4), ylim=(-0.6, len(sites) - 0.4))
    shown = f"{len(edges)} strongest of {graph['n_edges']} edges"
    ax.set_title(f"{shown}; next token: {repr(graph['likeliest'])[1:-1]}")
    _legend(figure)
    return figure


def _site(name: str) -> str:
    return name.rpartition(":")[0]


def _short(sites: Sequence[str]) -> list[str]:
    """Names without the beginning that all dotted ones share."""
    split = [site.split(".")[:-1] for site in sites if "." in site]
    shared = 0
    while len(split) > 1 and all(shared < len(s) and s[shared] == split[0][shared] for s in split):
        shared += 1
    return [shortened(".".join(s.split(".")[shared:]) if "." in s else s, 24, 0.5) for s in sites]


def _sorted(names: Any) -> list[str]:
    return sorted(names, key=lambda n: (len(n), n))


def _levels(members: Mapping[str, list[str]], edges: Sequence[Mapping[str, Any]]) -> dict[str, Point]:
    """Places: columns in order, in each by the mean height of the nodes before, so that few edges cross."""
    place: dict[str, Point] = {}
    for x, inside in enumerate(members.values()):

        def height(name: str) -> tuple[float, int, str]:
            before = [
                (place[e["source"]][1], e["absolute"])
                for e in edges
                if e["target"] == name and e["source"] in place
            ]
            if not before:
                return (0.0, len(name), name)
            total = sum(weight for _, weight in before)
            return (-sum(y * weight for y, weight in before) / total, len(name), name)

        ordered = sorted(inside, key=height)
        for i, name in enumerate(ordered):
            place[name] = (float(x), -(i + 0.5) / len(ordered))
    return place


def _curves(ax: Axes, edges: Sequence[tuple[Point, Point, float, float]], upwards: bool = False) -> None:
    top = max((strength for *_, strength in edges), default=1.0) or 1.0
    for (x0, y0), (x1, y1), signed, strength in sorted(edges, key=lambda e: e[3]):
        if upwards:
            middle = [(x0, (y0 + y1) / 2), (x1, (y0 + y1) / 2)]
        else:
            middle = [((x0 + x1) / 2, y0), ((x0 + x1) / 2, y1)]
        path = Path([(x0, y0), *middle, (x1, y1)], [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4])
        share = strength / top
        ax.add_patch(
            PathPatch(
                path,
                fill=False,
                ec=POSITIVE if signed >= 0 else NEGATIVE,
                lw=0.4 + 2.6 * share,
                alpha=0.25 + 0.65 * share,
                zorder=2,
            )
        )
    ax.autoscale_view()


def _legend(figure: Figure) -> None:
    lines = [
        Line2D([], [], color=POSITIVE, lw=2, label="raises"),
        Line2D([], [], color=NEGATIVE, lw=2, label="lowers"),
        Line2D([], [], color=FAINT, lw=0.8, label="width: size of the attribution"),
    ]
    figure.legend(handles=lines, loc="outside lower center", ncols=3)
