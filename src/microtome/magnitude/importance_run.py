"""An importance sweep from configuration to files."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from microtome.core.atomic import write_text
from microtome.core.device import say
from microtome.core.progress import progress
from microtome.core.runs import RunFolder
from microtome.magnitude.config import ImportanceConfig, known_feature
from microtome.magnitude.importance import KIND, ImportanceSweep, importance_in
from microtome.magnitude.importance_plots import grid_size, importance_grid, map_size, onset_map, panel_for
from microtome.magnitude.pictures import MAX_PIXELS, enlarged
from microtome.magnitude.run import MANY_ROWS, Made, load_model, new_folder
from microtome.magnitude.words import in_words

if TYPE_CHECKING:
    from microtome.decomposition.result import Decomposition

DEFAULT_PANEL = (1.6, 1.2)


def run(
    config: ImportanceConfig,
    *,
    decomposition: "Decomposition | None" = None,
    note: Callable[[str], None] = say,
    show_progress: bool = False,
    runs_root: Path = Path("runs"),
    command: Sequence[str] = (),
) -> Made:
    """Sweep every feature; write ``results/importance.npz``, a table, and two pictures a site.

    ``decomposition`` stands in for ``config.model_path``. Raises ``MicrotomeError`` for a decomposition
    without gates, a feature or an instance that is not there, ``CannotLoad`` for a missing model.
    """
    from microtome.magnitude.forward import n_inputs
    from microtome.magnitude.importance import compute

    device, found = load_model(config, decomposition, runs_root)
    n = n_inputs(found)
    if config.feature_idx is not None:
        known_feature(config.feature_idx, n, "feature_idx")
        note("feature_idx: every feature is drawn; --features 0,5,10 draws some.")
    features = config.listed_features(n)
    config.check_instance(found.n_instances)
    rows = len(features) * config.n_steps
    with progress("sweep", rows, enabled=show_progress and rows >= MANY_ROWS) as bar:
        sweep = compute(
            found,
            features,
            config.n_steps,
            config.max_magnitude,
            config.two_sided,
            told=lambda done, _: bar.update(done),
        )
    folder = new_folder(config, found, KIND, device, runs_root, command)
    files = [folder.save_arrays("importance", sweep.arrays(config.ci_threshold))]
    return _finish(sweep, config, folder, files, note)


def redraw(run: RunFolder, config: ImportanceConfig, *, note: Callable[[str], None] = say) -> Made:
    """Draw and classify a finished sweep again, as ``config`` says, without its network."""
    sweep = importance_in(run)
    config.check_instance(sweep.n_instances)
    return _finish(sweep, config, run, [], note)


def _finish(
    sweep: ImportanceSweep,
    config: ImportanceConfig,
    folder: RunFolder,
    files: list[Path],
    note: Callable[[str], None],
) -> Made:
    frame = sweep.frame(config.instance, config.ci_threshold)
    table = frame.to_csv(index=False, float_format="%.6g")
    files.append(write_text(folder.path / "results" / "importances.csv", table))
    for site in sweep.sites:
        files += _draw(sweep, config, folder, site, note)
    rows = _rows(sweep, frame)
    folder.finish({"features": sweep.features.tolist(), "sites": list(sweep.sites), "components": rows})
    return Made(folder.path, files, [f"  {row['site']}: {_words(row)}" for row in rows])


def _draw(
    sweep: ImportanceSweep,
    config: ImportanceConfig,
    folder: RunFolder,
    site: str,
    note: Callable[[str], None],
) -> list[Path]:
    k, count = sweep.n_instances, len(sweep.features)
    shared: dict[str, Any] = {
        "site": site,
        "ci_threshold": config.ci_threshold,
        "seed_name": f"seed {config.instance} of {k}" if k > 1 else "",
    }
    asked = config.figsize_per_subplot if config.figsize is None else panel_for(count, config.figsize)
    panel, scale = enlarged(asked, DEFAULT_PANEL)
    dpi = round(config.dpi * scale)
    most = int(MAX_PIXELS / max(grid_size(count, panel)))
    if most < dpi:
        note(f"{site}: drawn with {MAX_PIXELS} pixels on a side, fewer than asked for.")
    stem = site.replace(".", "_")
    values = sweep.lower[site][config.instance]
    figure = importance_grid(sweep.magnitudes, values, sweep.features, panel=panel, **shared)
    grid = folder.save_figure(f"{stem}_causal_importance_sweep", figure, dpi=min(dpi, most), where="")
    onsets = sweep.onsets(site, config.ci_threshold)[config.instance]
    figure = onset_map(onsets, sweep.features, **shared)
    most = int(MAX_PIXELS / max(map_size(*onsets.shape)))
    return [grid, folder.save_figure(f"{stem}_onsets", figure, dpi=min(config.dpi, most), where="")]


def _rows(sweep: ImportanceSweep, frame: Any) -> list[dict[str, Any]]:
    """For every site: components, how many turn on, and for how many features each kind was seen."""
    rows = []
    for site in sweep.sites:
        own = frame[frame["site"] == site] if len(frame) else frame
        kinds = own["kind"].value_counts().to_dict() if len(own) else {}
        features = int(own["feature"].nunique()) if len(own) else 0
        rows.append(
            {
                "site": site,
                "components": sweep.lower[site].shape[-1],
                "turning_on": int(own["index"].nunique()) if len(own) else 0,
                "features_with_a_component": features,
                "components_a_feature": len(own) / len(sweep.features) if len(sweep.features) else 0.0,
                "median_onset": float(own["onset"].abs().median()) if len(own) else None,
                **{kind.replace(" ", "_"): int(count) for kind, count in kinds.items()},
            }
        )
    return rows


def _words(row: dict[str, Any]) -> str:
    kinds = {kind: row[kind] for kind in ("persistent", "early", "late", "peaked") if kind in row}
    if not kinds:
        return f"none of {row['components']} components turns on"
    return (
        f"{row['turning_on']} of {row['components']} components turn on, for"
        f" {row['features_with_a_component']} features, half of them below {row['median_onset']:.3g}"
        f" ({in_words(kinds)})"
    )
