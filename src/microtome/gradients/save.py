"""Writing a run's folder: the documented files under their names, and what `load` reads back."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from microtome.core.atomic import atomic_path, write_text
from microtome.core.runs import RunFolder
from microtome.gradients import names, plots
from microtome.gradients.config import GradientConfig
from microtome.gradients.consolidated import save_consolidated
from microtome.gradients.documented import attributions, npz_arrays
from microtome.gradients.loading import CONSOLIDATED
from microtome.gradients.metadata import RunFacts, flat_metadata, nested_metadata
from microtome.gradients.names import Entry
from microtome.gradients.result import GradientResult
from microtome.gradients.timing import Timing

Documented = Mapping[Entry, np.ndarray]


def save_folder(
    folder: RunFolder,
    result: GradientResult,
    documented: Documented,
    config: GradientConfig,
    facts: RunFacts,
    timing: Timing,
) -> None:
    """Write everything but ``summary.json``."""
    for layer in result.layers:
        of_layer = {entry: values for entry, values in documented.items() if entry.layer == layer}
        if not config.no_plots:
            draw_layer(folder, of_layer, config, result.kind, timing)
        with timing.measure_layer(layer, "save_data"):
            for entry, values in of_layer.items():
                save_array(folder.path / names.array_file(entry, config.aggregate_by), values)
            folder.save_arrays(f"layer_{layer}", result.layers[layer])
    for key, values in attributions(result).items():
        save_array(folder.path / f"{key}.npy", values)
    folder.save_json("results/top_tokens.json", result.tokens)
    if not config.no_plots and len(result.layers) > 1:
        with timing.measure("all_layers_plots"):
            draw_all_layers(folder, documented, config, result.kind)
    stats = timing.stats()
    folder.save_json("metadata.json", nested_metadata(config, facts, documented, stats))
    if config.save_consolidated is None:
        save_npz(folder.path / CONSOLIDATED, result, documented, config, facts)
    folder.save_json("timing_stats.json", timing.stats())
    write_text(folder.path / "timing_summary.txt", timing.summary())


def save_npz(
    path: Path, result: GradientResult, documented: Documented, config: GradientConfig, facts: RunFacts
) -> Path:
    """Write the consolidated file."""
    sizes = {entry.layer: len(values) for entry, values in documented.items()}
    return save_consolidated(path, npz_arrays(result, documented), flat_metadata(config, facts, sizes))


def save_array(path: Path, values: np.ndarray) -> Path:
    """Write one ``.npy`` file, atomically."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, values, allow_pickle=False)
    return path


def draw_layer(
    folder: RunFolder, of_layer: Documented, config: GradientConfig, kind: names.Kind, timing: Timing
) -> None:
    """A layer's histogram and scatter in each mode, and both modes together where there are two."""
    both = len(names.modes_of(config.aggregation_mode)) > 1
    for entry, values in of_layer.items():
        with timing.measure_layer(entry.layer, f"{entry.mode}_plots" if both else "plots"):
            words, title = _labels(entry, config, kind), f"Layer {entry.layer}"
            _save(
                folder,
                names.histogram_file(entry, config.aggregate_by),
                plots.histogram(values, words, title),
            )
            _save(folder, names.scatter_file(entry, kind), plots.scatter(values, words, title))
    if not both:
        return
    for ending in dict.fromkeys(entry.ending for entry in of_layer):
        pair = {entry.mode: entry for entry in of_layer if entry.ending == ending}
        mean, mean_abs = pair["mean"], pair["mean_abs"]
        with timing.measure_layer(mean.layer, "combined_plots"):
            words = (_labels(mean, config, kind), _labels(mean_abs, config, kind))
            files = names.combined_files(mean.layer, config.aggregate_by, ending)
            for file, draw in zip(files, (plots.both_histograms, plots.both_scatters), strict=True):
                figure = draw(of_layer[mean], of_layer[mean_abs], words, f"Layer {mean.layer}")
                _save(folder, file, figure)


def draw_all_layers(
    folder: RunFolder, documented: Documented, config: GradientConfig, kind: names.Kind
) -> None:
    """All layers' histograms and scatters, one picture of each a mode."""
    groups: dict[str, list[Entry]] = {}
    for entry in documented:
        groups.setdefault(entry.suffix, []).append(entry)
    for members in groups.values():
        data = {entry.layer: documented[entry] for entry in members}
        words = _labels(members[0], config, kind)
        histograms, scatters = names.all_layers_files(members[0], kind, config.aggregate_by)
        _save(folder, histograms, plots.all_histograms(data, words))
        _save(folder, scatters, plots.all_scatters(data, words))


def _labels(entry: Entry, config: GradientConfig, kind: names.Kind) -> plots.Labels:
    notes = [f"normalised: {entry.normalisation}"] if entry.normalisation != "none" else []
    notes += [f"to the power {config.power:g}"] if config.power != 1 else []
    return plots.labels(f"{config.aggregate_by}_{entry.mode}", kind, ", ".join(notes))


def _save(folder: RunFolder, name: str, figure: Figure) -> None:
    folder.save_figure(name, figure, where="")
