"""A magnitude sweep from configuration to files."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from microtome.core.device import resolve_device, say
from microtome.core.errors import bad_value
from microtome.core.runs import RunFolder, timestamp
from microtome.decomposition.result import Decomposition, load
from microtome.magnitude.config import MagnitudeConfig
from microtome.magnitude.plots import MAX_COMPONENTS, GridData, unified_grid
from microtome.magnitude.sweep import MagnitudeSweep, compute, n_inputs, shows_neurons

KIND = "magnitude"
# A picture of more pixels on a side than this can be opened by few programs.
MAX_PIXELS = 10_000


def run(
    config: MagnitudeConfig,
    *,
    decomposition: Decomposition | None = None,
    note: Callable[[str], None] = say,
) -> list[Path]:
    """Sweep, write ``results/magnitude.npz`` and one unified grid a feature and site; returns the files.

    ``decomposition`` stands in for ``config.model_path``. ``note`` is told what was left out. Raises
    ``MicrotomeError`` for a feature or an instance that is not there, ``CannotLoad`` for a missing model.
    """
    device = resolve_device(config.device)
    found = decomposition if decomposition is not None else load(config.model_path, device=device)
    features = config.chosen_features(n_inputs(found.target))
    n_instances = found.target.n_instances
    if config.instance >= n_instances:
        mend = f"choose 0 to {n_instances - 1}"
        raise bad_value("instance", config.instance, f"the decomposition has {n_instances}", mend)
    sweep = compute(found, features, config.n_steps, config.max_magnitude, config.two_sided)
    if sweep.left_out:
        note(f"No gates in this decomposition ({found.method}): left out {', '.join(sweep.left_out)}.")
    folder = RunFolder.create(
        config.output_dir or Path("runs") / f"{KIND}-{_model_id(found, config)}-{timestamp()}",
        config,
        device=str(device),
        kind=KIND,
        reuse=config.output_dir is not None,
    )
    files = [folder.save_arrays("magnitude", sweep.arrays())]
    files += draw(sweep, config, folder, note)
    folder.finish({"features": features, "sites": list(sweep.pre), "left_out": list(sweep.left_out)})
    return files


def draw(
    sweep: MagnitudeSweep, config: MagnitudeConfig, folder: RunFolder, note: Callable[[str], None] = say
) -> list[Path]:
    """Draw the unified grid of every swept feature and site into ``folder`` itself."""
    files = []
    panel, scale = panel_and_scale(config.figsize_per_subplot)
    for position, feature in enumerate(sweep.features.tolist()):
        for site in sweep.pre:
            data = grid_data(sweep, config, position, site)
            if data.importance_note and not sweep.left_out:
                note(f"Feature {feature}, {site}: {' '.join(data.importance_note.split())}.")
            figure = unified_grid(
                data,
                feature=feature,
                site=site,
                figsize_per_subplot=panel,
                pre_activation=config.pre_activation,
                summary_only=config.summary_only,
                ci_threshold=config.ci_threshold,
                seed_name=f"seed {config.instance} of {len(sweep.outputs)}" if len(sweep.outputs) > 1 else "",
            )
            most = int(MAX_PIXELS / max(figure.get_size_inches()))
            if most < round(config.dpi * scale):
                note(f"Feature {feature}, {site}: drawn with {MAX_PIXELS} pixels, fewer than asked for.")
            name = f"unified_grid_feature_{feature}_{site.replace('.', '_')}"
            files.append(folder.save_figure(name, figure, dpi=min(round(config.dpi * scale), most), where=""))
    return files


def panel_and_scale(asked: tuple[float, float]) -> tuple[tuple[float, float], float]:
    """Panel size in inches at which type is readable, and how much the picture is enlarged to the size asked.

    Panels of more than twice the default size are drawn smaller and enlarged as a whole, type included.
    """
    width, height = asked
    scale = min(width / 2.0, height / 1.5)
    return ((width / scale, height / scale), scale) if scale > 2 else (asked, 1.0)


def grid_data(sweep: MagnitudeSweep, config: MagnitudeConfig, position: int, site: str) -> GridData:
    """What one grid shows: the neurons that respond most, and the components above the threshold."""
    k = config.instance
    neurons: np.ndarray | None = None
    names = np.empty(0, dtype=np.int64)
    if shows_neurons(site, list(sweep.pre)):
        responses = (sweep.pre if config.pre_activation else sweep.post)[site][k, position]
        strongest = np.argsort(-np.ptp(responses, axis=0), kind="stable")
        names = np.sort(strongest[: config.max_neurons])
        neurons = responses[:, names]
    chosen, reason = _components(sweep, config, position, site)
    gates = site in sweep.lower
    return GridData(
        magnitudes=sweep.magnitudes,
        outputs=sweep.outputs[k, position],
        neurons=neurons,
        neuron_names=names,
        components=chosen,
        importance=sweep.lower[site][k, position][:, chosen] if gates else None,
        gate_outputs=sweep.gate_outputs[site][k, position][:, chosen] if gates else None,
        gate_inputs=sweep.gate_inputs[site][k, position][:, chosen] if gates else None,
        importance_note=reason,
        nonlinear=site in sweep.pre and not np.array_equal(sweep.pre[site], sweep.post[site]),
    )


def _components(
    sweep: MagnitudeSweep, config: MagnitudeConfig, position: int, site: str
) -> tuple[np.ndarray, str]:
    """Indices of the components to draw, at most ten, and why there are none."""
    if site not in sweep.lower:
        return np.empty(0, dtype=np.int64), "this method\nhas no gates"
    largest = sweep.lower[site][config.instance, position].max(axis=0)
    ranked = np.argsort(-largest, kind="stable")
    chosen = np.sort(ranked[largest[ranked] > config.ci_threshold][:MAX_COMPONENTS])
    if not len(chosen):
        return chosen, f"no causal importance\nexceeds {config.ci_threshold:g}\n(largest {largest.max():.2g})"
    return chosen, ""


def _model_id(found: Decomposition, config: MagnitudeConfig) -> str:
    name = found.run.path.name if found.run is not None else Path(config.model_path).stem
    return name.removeprefix("decompose-")
