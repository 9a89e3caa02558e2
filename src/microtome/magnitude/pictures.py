"""From a sweep's arrays to pictures on disk: what each shows, how large it is, and many at a time."""

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int

from microtome.core.progress import progress
from microtome.core.runs import RunFolder
from microtome.magnitude.config import MagnitudeConfig
from microtome.magnitude.families import GridData
from microtome.magnitude.plots import figure_size, unified_grid
from microtome.magnitude.result import MagnitudeSweep
from microtome.magnitude.words import importance_kinds, output_words, response_kinds

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Note = Callable[[str], None]
DEFAULT_PANEL = (2.0, 1.5)
# A picture of more pixels on a side than this can be opened by few programs.
MAX_PIXELS = 10_000
MANY_PICTURES = 12  # below this, starting processes takes longer than drawing


@dataclass(frozen=True)
class Picture:
    """Everything that one picture is drawn from; small enough to hand to another process."""

    name: str
    data: GridData
    settings: dict[str, Any]
    dpi: int


def draw_all(
    sweep: MagnitudeSweep,
    config: MagnitudeConfig,
    folder: RunFolder,
    note: Note,
    *,
    processes: int = 1,
    show_progress: bool = False,
) -> list[Path]:
    """Draw the unified grid of every swept feature and site into ``folder`` itself.

    ``processes`` draw at a time when there are many. ``note`` is told what could not be drawn as asked.
    """
    pictures = list(_pictures(sweep, config, note))
    paths = [folder.path / f"{picture.name}.png" for picture in pictures]
    with progress("draw", len(pictures), enabled=show_progress and len(pictures) > 2) as bar:
        if processes > 1 and len(pictures) >= MANY_PICTURES:
            # Started afresh rather than forked: a fork of a process that has run torch may hang.
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(min(processes, len(pictures)), mp_context=context) as pool:
                waiting = [pool.submit(draw, str(folder.path), picture) for picture in pictures]
                for done, finished in enumerate(as_completed(waiting), start=1):
                    finished.result()
                    bar.update(done)
        else:
            for done, picture in enumerate(pictures, start=1):
                draw(str(folder.path), picture)
                bar.update(done)
    return paths


def draw(folder: str, picture: Picture) -> None:
    """Draw one picture into a run folder."""
    figure = unified_grid(picture.data, **picture.settings)
    RunFolder(folder).save_figure(picture.name, figure, dpi=picture.dpi, where="")


def _pictures(sweep: MagnitudeSweep, config: MagnitudeConfig, note: Note) -> Iterator[Picture]:
    empty: list[str] = []
    _, scale = panel_and_scale(config.figsize_per_subplot)
    cut = 0
    for feature in sweep.features.tolist():
        for site in sweep.sites:
            data = grid_data(sweep, config, feature, site)
            if data.importance_note and not sweep.left_out:
                empty.append(f"feature {feature}, {site}: {' '.join(data.importance_note.split())}")
            name = f"unified_grid_feature_{feature}_{site.replace('.', '_')}"
            picture = Picture(name, data, _settings(sweep, config, feature, site), 0)
            dpi = round(config.dpi * scale)
            most = int(MAX_PIXELS / _longest_side(picture))
            cut += most < dpi
            yield Picture(name, data, picture.settings, min(dpi, most))
    for line in empty[:5]:
        note(f"{line[0].upper()}{line[1:]}; the rest is drawn.")
    if len(empty) > 5:
        note(f"... and {len(empty) - 5} more without a causal importance above {config.ci_threshold:g}.")
    if cut:
        note(f"{cut} pictures are drawn with {MAX_PIXELS} pixels on a side, fewer than asked for.")


def _longest_side(picture: Picture) -> float:
    how = picture.settings
    return max(figure_size(picture.data, how["figsize_per_subplot"], how["summary_only"]))


def figure_of(sweep: MagnitudeSweep, config: MagnitudeConfig, feature: int, site: str) -> "Figure":
    """The unified grid of one feature at one site."""
    return unified_grid(grid_data(sweep, config, feature, site), **_settings(sweep, config, feature, site))


def _settings(sweep: MagnitudeSweep, config: MagnitudeConfig, feature: int, site: str) -> dict[str, Any]:
    panel, _ = panel_and_scale(config.figsize_per_subplot)
    k = sweep.n_instances
    return {
        "feature": feature,
        "site": site,
        "figsize_per_subplot": panel,
        "pre_activation": config.pre_activation,
        "summary_only": config.summary_only,
        "ci_threshold": config.ci_threshold,
        "seed_name": f"seed {config.instance} of {k}" if k > 1 else "",
    }


def panel_and_scale(asked: tuple[float, float]) -> tuple[tuple[float, float], float]:
    """``enlarged`` for the panels of the unified grid."""
    return enlarged(asked, DEFAULT_PANEL)


def enlarged(asked: tuple[float, float], default: tuple[float, float]) -> tuple[tuple[float, float], float]:
    """Panel size in inches at which type is readable, and how much the picture is enlarged to the size asked.

    Panels of more than twice the default size are drawn smaller and enlarged as a whole, type included.
    """
    width, height = asked
    scale = min(width / default[0], height / default[1])
    return ((width / scale, height / scale), scale) if scale > 2 else (asked, 1.0)


def grid_data(sweep: MagnitudeSweep, config: MagnitudeConfig, feature: int, site: str) -> GridData:
    """What one grid shows: the neurons that respond most, and the components above the threshold."""
    k, f = config.instance, sweep.position(feature)
    responses = (sweep.pre if config.pre_activation else sweep.post).get(site)
    neurons: np.ndarray | None = None
    names = np.empty(0, dtype=np.int64)
    words, neuron_kinds = {"outputs": output_words(sweep, k, f)}, []
    if responses is not None:
        names = _strongest(np.ptp(responses[k, f], axis=0), config.max_neurons)
        neurons = responses[k, f][:, names]
        words["neurons"], kinds = response_kinds(sweep.magnitudes, responses[k, f])
        neuron_kinds = [kinds[i] for i in names]
    chosen, reason = _components(sweep, config, f, site)
    component_kinds: list[str] = []
    if site in sweep.lower:
        values = sweep.lower[site][k, f]
        words["causal importances"], kinds = importance_kinds(sweep.magnitudes, values, config.ci_threshold)
        component_kinds = [kinds[i] for i in chosen]
        active = int((values > config.ci_threshold).any(axis=0).sum())
        if active > len(chosen):
            words["causal importances"] += f"; strongest {len(chosen)} of {active} drawn"

    def columns(kind: str) -> np.ndarray | None:
        values = getattr(sweep, kind).get(site)
        return None if values is None else values[k, f][:, chosen]

    return GridData(
        magnitudes=sweep.magnitudes,
        outputs=sweep.outputs[k, f],
        neurons=neurons,
        neuron_names=names,
        components=chosen,
        importance=columns("lower"),
        gate_outputs=columns("gate_outputs"),
        gate_inputs=columns("gate_inputs"),
        activations=columns("activations"),
        importance_note=reason,
        nonlinear=responses is not None and not np.array_equal(sweep.pre[site], sweep.post[site]),
        words=words,
        neuron_kinds=neuron_kinds,
        component_kinds=component_kinds,
    )


def _strongest(strength: np.ndarray, most: int | None) -> Int[np.ndarray, " n"]:
    """The indices of the largest, in order of index."""
    return np.sort(np.argsort(-strength, kind="stable")[:most])


def _components(
    sweep: MagnitudeSweep, config: MagnitudeConfig, position: int, site: str
) -> tuple[Int[np.ndarray, " c"], str]:
    """Indices of the components to draw, and why there are none."""
    none = np.empty(0, dtype=np.int64)
    if site in sweep.activations:
        strength = sweep.activations[site][config.instance, position].max(axis=0)
        return _strongest(strength, config.max_components), "causal importances\nand gates are left out"
    if site not in sweep.lower:
        return none, "this layer is\nnot decomposed"
    largest = sweep.lower[site][config.instance, position].max(axis=0)
    active = int((largest > config.ci_threshold).sum())
    if not active:
        return none, f"no causal importance\nexceeds {config.ci_threshold:g}\n(largest {largest.max():.2g})"
    return _strongest(largest, min(active, config.max_components)), ""
