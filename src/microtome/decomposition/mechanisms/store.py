"""Reading a run's mechanisms from its files, and storing what was found beside them."""

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from microtome.core.atomic import atomic_path, write_text
from microtome.core.device import resolve_device, set_threads
from microtome.core.errors import CannotLoad, MicrotomeError, bad_value
from microtome.core.runs import RunFolder, timestamp
from microtome.decomposition.mechanisms.ablation import Ablation, ablate
from microtome.decomposition.mechanisms.attributions import Attributions, attributions
from microtome.decomposition.mechanisms.clustering import Clustering, cluster
from microtome.decomposition.mechanisms.config import (
    AblateConfig,
    AttributionsConfig,
    ClusterConfig,
    ExamplesConfig,
    ReadingConfig,
)
from microtome.decomposition.mechanisms.examples import Examples, harvest
from microtome.decomposition.mechanisms.prompt_graph import PromptGraph, prompt_graph
from microtome.decomposition.mechanisms.reading import one_instance
from microtome.decomposition.plots import mechanisms as plots
from microtome.decomposition.plots.graphs import attribution_edges, prompt_picture
from microtome.decomposition.result import Decomposition, load

KIND = "mechanisms"
CLUSTERS = "clusters.json"


def opened(path: str | Path, config: ReadingConfig, runs_root: Path) -> Decomposition:
    """The decomposition that ``path`` means, on the device asked for. Raises ``MicrotomeError``."""
    d = load(path, device=resolve_device(config.device), runs_root=runs_root)
    one_instance(d, config.instance)
    set_threads(None, small=d.target.spec().get("kind") in ("tms", "resid_mlp", "mlp"))
    return d


def folder(d: Decomposition, config: ReadingConfig, runs_root: Path) -> RunFolder:
    """The run itself, or a new folder for what is not a run of ours."""
    if d.run is not None:
        return d.run
    path = runs_root / f"{KIND}-{d.name}-{timestamp()}"
    run = RunFolder.create(path, config, seed=config.seed, device=config.device, kind=f"{KIND}-{d.method}")
    run.finish({"method": d.method, "decomposition": d.name})
    return run


def own_name(name: str, config: ReadingConfig) -> str:
    """The name of a result; networks other than the first have theirs."""
    return f"{name}_{config.instance}" if config.instance else name


def store_examples(run: RunFolder, found: Examples, config: ReadingConfig) -> Path:
    """``results/examples.jsonl``, a line a component, and ``results/examples.npz``; where the lines are."""
    path = run.path / "results" / f"{own_name('examples', config)}.jsonl"
    write_lines(path, found.components())
    arrays: dict[str, np.ndarray] = {}
    h = found.harvest
    for name, site in h.sites.items():
        arrays[f"density/{name}"] = (site.fired / h.n_positions).cpu().numpy()
        arrays[f"mean_importance/{name}"] = (site.importance / h.n_positions).cpu().numpy()
        arrays[f"largest_importance/{name}"] = site.largest.cpu().numpy()
        for field, values in site.reservoirs.fields.items():
            shape = (len(site.fired), len(h.config.strata), *values.shape[1:])
            arrays[f"example_{field}/{name}"] = values.reshape(shape).cpu().numpy()
    if h.together is not None:
        arrays["together"] = h.together.cpu().numpy()
    run.save_arrays(own_name("examples", config), arrays)
    return path


def write_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """JSON Lines, one record at a time, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as out:
        for record in records:
            out.write(json.dumps(record, ensure_ascii=False) + "\n")


def store_attributions(
    run: RunFolder, found: Attributions, graph: PromptGraph | None, config: AttributionsConfig
) -> list[Path]:
    """Arrays, the table of the strongest edges, the picture, and the prompt's graph; the paths to look at."""
    name = own_name("component_attributions", config)
    run.save_arrays(
        name,
        {
            "signed": found.signed,
            "absolute": found.absolute,
            "sources": np.array(found.sources),
            "targets": np.array(found.targets),
        },
    )
    table = run.path / "results" / f"{name}.csv"
    with atomic_path(table) as temporary, temporary.open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, ["source", "target", "signed", "absolute"])
        writer.writeheader()
        writer.writerows(found.edges(config.n_edges))
    made = [table, run.save_figure(name, attribution_edges(found.edges(config.n_drawn), found.sources))]
    if graph is not None:
        one = _name_of_prompt(run, graph.prompt, config)
        made.append(run.save_json(f"graphs/{one}.json", graph.as_dict()))
        made.append(run.save_figure(one, prompt_picture(graph.as_dict())))
    return made


def _name_of_prompt(run: RunFolder, prompt: str, config: AttributionsConfig) -> str:
    """``prompt_<n>``: that of the same text before, or the next free one."""
    n = 0
    while (run.path / f"graphs/{own_name(f'prompt_{n}', config)}.json").is_file():
        if run.load_json(f"graphs/{own_name(f'prompt_{n}', config)}.json")["prompt"] == prompt:
            break
        n += 1
    return own_name(f"prompt_{n}", config)


def store_clusters(run: RunFolder, found: Clustering, config: ClusterConfig) -> list[Path]:
    """``clusters.json``, ``results/clusters.npz`` with every merge, and two pictures; what to look at."""
    arrays: dict[str, np.ndarray] = {"labels": found.labels, "components": np.array(found.names)}
    for i, one in enumerate(found.histories):
        arrays |= {f"run{i}/pairs": one.pairs, f"run{i}/names": one.names, f"run{i}/weights": one.weights}
        arrays[f"run{i}/labels"] = one.labels()
    for i, one in enumerate(found.shuffled):
        arrays[f"shuffled{i}/total"] = one.total
    told: dict[str, Any] = {
        "n_components": len(found.names),
        "n_clusters": found.n_clusters,
        "n_inputs": len(found.firing),
        "merges": found.history.best,
        "bits": {
            "names": float(found.history.names[found.history.best]),
            "weights": float(found.history.weights[found.history.best]),
        },
        "bits_before": {"names": float(found.history.names[0]), "weights": float(found.history.weights[0])},
        "saved": found.saved(),
        "saved_by_chance": found.saved_by_chance(),
        "clusters": found.told(),
        "settings": found.settings,
    }
    if len(found.histories) > 1:
        between = found.distances()
        arrays |= {f"distance/{name}": values for name, values in between.items()}
        away = ~np.eye(len(found.histories), dtype=bool)
        told["between_runs"] = {name: float(values[away].mean()) for name, values in between.items()}
        told["bits_of_runs"] = [float(one.total.min()) for one in found.histories]
    run.save_arrays(own_name("clusters", config), arrays)
    best = found.history
    chance = [one.total for one in found.shuffled]
    return [
        run.save_json(own_name("clusters", config) + ".json", told),
        run.save_figure(
            own_name("component_clusters", config),
            plots.component_clusters(found.firing, found.labels, found.names),
        ),
        run.save_figure(
            own_name("merge_costs", config), plots.merge_costs(best.names, best.weights, best.best, chance)
        ),
    ]


def components_of_cluster(run: RunFolder, config: AblateConfig) -> list[str]:
    """The components of a cluster that ``decompose cluster`` found. Raises ``MicrotomeError``."""
    file = own_name("clusters", config) + ".json"
    if not (run.path / file).is_file():
        raise CannotLoad(f"{run.path}: no clusters yet; run `microtome decompose cluster {run.path}` first")
    clusters = run.load_json(file)["clusters"]
    for one in clusters:
        if one["cluster"] == config.cluster:
            return list(one["components"])
    raise bad_value("cluster", config.cluster, f"there are {len(clusters)}", f"use 0 to {len(clusters) - 1}")


def store_ablation(run: RunFolder, found: Ablation, config: AblateConfig) -> list[Path]:
    """A line more in ``ablations.jsonl``, and the picture of this one."""
    path = run.path / f"{own_name('ablations', config)}.jsonl"
    before = path.read_text(encoding="utf-8") if path.is_file() else ""
    values = {name: each.tolist() for name, each in found.random.items()}
    line = {
        "components": found.names,
        "n_inputs": found.n_inputs,
        "rows": found.rows,
        "random": values,
        "settings": found.settings,
    }
    write_text(path, before + json.dumps(line) + "\n")
    return [path, run.save_figure(own_name("ablation", config), plots.ablation(found.rows, found.random))]


def run_examples(
    path: str | Path, config: ExamplesConfig, runs_root: Path, progress: bool
) -> tuple[Examples, RunFolder, Path]:
    """Read, and store in the run."""
    d = opened(path, config, runs_root)
    found = harvest(d, config=config, progress=progress)
    run = folder(d, config, runs_root)
    return found, run, store_examples(run, found, config)


def run_attributions(
    path: str | Path, config: AttributionsConfig, runs_root: Path, progress: bool
) -> tuple[Attributions, PromptGraph | None, RunFolder, list[Path]]:
    """Read, and store in the run."""
    d = opened(path, config, runs_root)
    graph = None
    if config.prompt is not None:
        graph = prompt_graph(one_instance(d, config.instance), config.prompt, config)
    found = attributions(d, config=config, progress=progress)
    run = folder(d, config, runs_root)
    return found, graph, run, store_attributions(run, found, graph, config)


def run_cluster(
    path: str | Path, config: ClusterConfig, runs_root: Path, progress: bool
) -> tuple[Clustering, RunFolder, list[Path]]:
    """Read, and store in the run."""
    d = opened(path, config, runs_root)
    found = cluster(d, config=config, progress=progress)
    run = folder(d, config, runs_root)
    return found, run, store_clusters(run, found, config)


def run_ablate(
    path: str | Path, config: AblateConfig, runs_root: Path, progress: bool
) -> tuple[Ablation, RunFolder, list[Path]]:
    """Read, and store in the run. Raises ``MicrotomeError``."""
    d = opened(path, config, runs_root)
    names = list(config.components)
    if config.cluster is not None:
        if names:
            raise MicrotomeError("components, cluster: both are given; leave one out")
        if d.run is None:
            raise MicrotomeError("cluster: only runs of ours hold clusters; name components instead")
        names = components_of_cluster(d.run, config)
    found = ablate(d, names, config=config, progress=progress)
    run = folder(d, config, runs_root)
    return found, run, store_ablation(run, found, config)
