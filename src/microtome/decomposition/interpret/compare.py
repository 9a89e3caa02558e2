"""Did two decompositions find the same components?"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from microtome.core.device import resolve_device, say
from microtome.core.errors import CannotLoad, MicrotomeError, bad_value
from microtome.core.runs import RunFolder, timestamp
from microtome.core.seeds import generator
from microtome.data.images import ArrayData
from microtome.data.loading import DataSource, data_from_spec
from microtome.decomposition.interpret.compare_config import CompareConfig
from microtome.decomposition.interpret.comparison import Comparison, LayerComparison
from microtome.decomposition.interpret.config import InterpretConfig
from microtome.decomposition.interpret.selection import own_masks, scores
from microtome.decomposition.interpret.subject import Subject
from microtome.decomposition.result import Decomposition, load
from microtome.measures.similarity import (
    component_cosines,
    match_components,
    rotated_cosines,
    similarity,
)

KIND = "compare-runs"
METRICS = (
    "mean_max_abs_cosine_sim",
    "max_abs_cosine_sim_std",
    "max_abs_cosine_sim_min",
    "max_abs_cosine_sim_max",
)


def compare_decompositions(
    current: Decomposition,
    reference: Decomposition,
    config: CompareConfig,
    data: DataSource | None = None,
    note: Callable[[str], None] = say,
) -> Comparison:
    """Absolute cosines between alive components of ``current`` and all of ``reference``, site by site.

    Alive: on (causal importance above ``ci_alive_threshold``; APD: in the top k) for a larger share of
    ``data`` (default: the current run's) than ``density_threshold``. Source: ``compare_models`` of the later
    SPD code. Raises ``MicrotomeError`` when the two have no site of the same shape in common.
    """
    i = _instance("current_instance", config.current_instance, current)
    j = _instance("reference_instance", config.reference_instance, reference)
    shared = _shared_sites(current, reference)
    for site in shared:
        one, other = current.sites[site].weight[i].cpu(), reference.sites[site].weight[j].cpu()
        if not torch.allclose(one, other, rtol=1e-3, atol=1e-5):
            note(f"They took different networks apart (weights of {site} differ): compare with chance.")
            break
    density = activation_densities(current, config, data)
    draws = generator(config.seed, "cpu", "compare rotations")
    layers: dict[str, LayerComparison] = {}
    skipped: dict[str, str] = {}
    for site in shared:
        alive = np.flatnonzero(density[site][i] > config.density_threshold)
        if not len(alive):
            skipped[site] = f"no component is active on more than {config.density_threshold:g} of the inputs"
            continue
        left, right = (factor[i][alive].cpu() for factor in current.factors[site])
        other_left, other_right = (factor[j].cpu() for factor in reference.factors[site])
        cosines = component_cosines(left, right, other_left, other_right).abs().numpy()
        everyone: Bool[np.ndarray, " alive"] = np.ones(len(alive), dtype=bool)
        found = similarity(cosines, everyone)
        assert found is not None
        chance = [
            float(rotated_cosines(left, right, other_left, other_right, draws).abs().amax(dim=1).mean())
            for _ in range(config.n_rotations)
        ]
        layers[site] = LayerComparison(
            alive, cosines, found.largest, found.std, np.array(chance), match_components(cosines)
        )
    if not layers:
        mend = "lower density_threshold or give more n_eval_steps"
        raise bad_value("density_threshold", config.density_threshold, "leaves no component alive", mend)
    for site, reason in skipped.items():
        note(f"Left out {site}: {reason}.")
    return Comparison(current.name, reference.name, layers, _documented(layers), skipped)


def activation_densities(
    d: Decomposition, config: CompareConfig, data: DataSource | None = None
) -> dict[str, Float[np.ndarray, "K C"]]:
    """Share of ``n_eval_steps`` batches' inputs on which each component is active, by site.

    APD: in the top k, with an attribution above 0 (where fewer components have one, the top k is filled up).
    """
    source = data or _source(d)
    settings = InterpretConfig(ci_threshold=min(config.ci_alive_threshold, 1.0), seed=config.seed)
    device = next(iter(d.parameters.values())).device
    s = Subject(d, settings, source, device=device)
    n = config.n_eval_steps * config.eval_batch_size
    x = s.inputs("compare, shuffled" if config.shuffle_data else "compare", n)
    masks = own_masks(s, x)
    if d.method == "apd":
        on = scores(s, x) > 0
        active = {site: (mask > 0.5) & on for site, mask in masks.items()}
    else:
        active = {site: mask > config.ci_alive_threshold for site, mask in masks.items()}
    return {site: mask.double().mean(dim=1).cpu().numpy() for site, mask in active.items()}


def compare_runs(
    current: str | Path | Decomposition | None = None,
    reference: str | Path | Decomposition | None = None,
    config: CompareConfig | None = None,
    *,
    data: DataSource | Tensor | None = None,
    runs_root: str | Path = Path("runs"),
    note: Callable[[str], None] = say,
    **settings: Any,
) -> Comparison:
    """Compare two runs and keep the result in a run folder: ``similarity_results.json``, a figure, arrays.

    ``current``, ``reference``: loaded decompositions, or where they are (any form that ``load`` takes); left
    out, the paths of ``config``. ``settings`` are fields of ``CompareConfig``. Raises ``MicrotomeError``.
    """
    paths = {
        "current_model_path": str(current) if isinstance(current, str | Path) else None,
        "reference_model_path": str(reference) if isinstance(reference, str | Path) else None,
    }
    given = {name: path for name, path in paths.items() if path is not None}
    for name, value in (("current_model_path", current), ("reference_model_path", reference)):
        if isinstance(value, Decomposition):
            given[name] = str(value.source or value.name)
    merged = CompareConfig.from_mapping(
        {**(config.as_dict() if config else {}), **given, **settings}, "settings"
    )
    device = resolve_device(merged.device)
    one, other = (
        value if isinstance(value, Decomposition) else load(path, device=device, runs_root=Path(runs_root))
        for value, path in ((current, merged.current_model_path), (reference, merged.reference_model_path))
    )
    source = ArrayData(data) if isinstance(data, Tensor) else data
    result = compare_decompositions(one, other, merged, source, note)
    path = merged.output_dir or (
        Path(runs_root) / f"{KIND}-{result.current}-{result.reference}-{timestamp()}"
    )
    run = RunFolder.create(
        path, merged, seed=merged.seed, device=str(device), kind=KIND, reuse=merged.output_dir is not None
    )
    _write(run, result, merged)
    return replace(result, run=run)


def _write(run: RunFolder, result: Comparison, config: CompareConfig) -> None:
    run.save_json("similarity_results.json", result.similarities)
    arrays: dict[str, np.ndarray] = {}
    for site, layer in result.layers.items():
        arrays |= {
            f"alive/{site}": layer.alive,
            f"cosines/{site}": layer.cosines,
            f"chance/{site}": layer.chance,
            f"matched_current/{site}": layer.alive[layer.matching.rows],
            f"matched_reference/{site}": layer.matching.columns,
        }
    run.save_arrays("comparison", arrays)
    run.save_figure("similarity", result.plot(), dpi=config.dpi)
    run.finish({"current": result.current, "reference": result.reference, "sites": result.summary(),
                "left_out": result.skipped})  # fmt: skip


def _documented(layers: dict[str, LayerComparison]) -> dict[str, float]:
    found: dict[str, float] = {}
    for site, layer in layers.items():
        values = (layer.largest.mean(), layer.std, layer.largest.min(), layer.largest.max())
        found |= {f"{name}/{site}": float(v) for name, v in zip(METRICS, values, strict=True)}
    for name in METRICS:
        found[f"{name}/all_layers"] = float(np.mean([found[f"{name}/{site}"] for site in layers]))
    return found


def _instance(field: str, k: int, d: Decomposition) -> int:
    if k >= d.n_instances:
        raise bad_value(field, k, f"the run has {d.n_instances}", f"choose 0 to {d.n_instances - 1}")
    return k


def _shared_sites(current: Decomposition, reference: Decomposition) -> list[str]:
    shared = [site for site in current.sites if site in reference.sites]
    if not shared:
        raise MicrotomeError(
            f"{current.name} has the sites {', '.join(current.sites)} and {reference.name}"
            f" {', '.join(reference.sites)}; compare decompositions of one target"
        )
    for site in shared:
        shapes = [tuple(d.sites[site].weight.shape[1:]) for d in (current, reference)]
        if shapes[0] != shapes[1]:
            raise MicrotomeError(
                f"{site}: {shapes[0]} in {current.name} but {shapes[1]} in {reference.name};"
                " compare decompositions of one target"
            )
    return shared


def _source(d: Decomposition) -> DataSource:
    if d.data is None:
        raise CannotLoad(f"{d.name}: its inputs are not known; pass data=... in Python")
    return data_from_spec(d.data, next(iter(d.parameters.values())).device)
