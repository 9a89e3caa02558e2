"""Evaluating a decomposition from its files to a verdict, and storing it."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped
from torch import Tensor

from microtome.core.config_keys import nearest
from microtome.core.device import resolve_device, set_threads
from microtome.core.errors import MicrotomeError, bad_value
from microtome.core.progress import progress as show_progress
from microtome.core.runs import RunFolder, timestamp
from microtome.data.loading import DataSource
from microtome.decomposition.evaluation.config import METRICS, OTHER_NAMES, EvaluateConfig
from microtome.decomposition.evaluation.draw import PICTURES
from microtome.decomposition.evaluation.inputs import Labelled, batches, inputs_of, sizes
from microtome.decomposition.evaluation.measure import measure
from microtome.decomposition.evaluation.measured import Measured
from microtome.decomposition.evaluation.outcome import arrays_of, numbers_of
from microtome.decomposition.evaluation.result import Evaluation
from microtome.decomposition.evaluation.settings import Settings
from microtome.decomposition.evaluation.verdict import verdict
from microtome.decomposition.result import Decomposition, load

KIND = "evaluate"
MOST_ROWS = 1024  # of a batch, unless the run says more


def evaluate(
    decomposition: Decomposition | str | Path = "latest",
    config: EvaluateConfig | None = None,
    *,
    data: DataSource | Shaped[Tensor, "n *d"] | None = None,
    runs_root: str | Path = Path("runs"),
    progress: bool = False,
    **settings: Any,
) -> Evaluation:
    """Measure a decomposition on inputs that it was not trained on, and check what was found.

    ``decomposition``: a loaded one, or where one is: a run folder, its name, ``latest``, or a folder or model
    file of the original codes. ``data``: the inputs, where the files do not tell them. ``settings`` are
    fields of ``EvaluateConfig``, on top of ``config``. Nothing is written. Raises ``MicrotomeError``.
    """
    config = EvaluateConfig.from_mapping({**(config.as_dict() if config else {}), **settings}, "settings")
    wanted = metric_names(config.metrics)
    device = resolve_device(config.device)
    if isinstance(decomposition, Decomposition):
        d = decomposition
    else:
        d = load(decomposition, device=device, runs_root=Path(runs_root))
    device = next(iter(d.parameters.values())).device
    set_threads(config.threads, small=d.target.spec().get("kind") in ("tms", "resid_mlp", "mlp"))
    source, what = inputs_of(d, data, device)
    n, size = sizes(source, config.n_eval_steps, config.batch_size or _own_size(d))
    found = Settings(config, d.config, wanted)
    with show_progress("evaluate", n, enabled=progress) as bar:

        def stream() -> Iterable[Labelled]:
            return batches(source, n, size, d.n_instances, config.seed, device)

        m = measure(d, stream, found, done=bar.update)
    _steps(m, d)
    about = {
        "name": d.name,
        "method": d.method,
        "seeds": d.n_instances,
        "target": d.target.spec().get("kind"),
        "inputs": what,
        "n_batches": n,
        "batch_size": size,
        "inputs_seen": m.inputs_seen,
        "distance": m.distance,
        "components": m.components,
        "settings": config.as_dict(),
        "attacks": {name: words for name, words in m.facts.items() if name.startswith("pgd")},
    }
    return Evaluation(about, tuple(verdict(m, config)), *numbers_of(m), arrays_of(m))


def evaluate_run(
    path: str | Path, config: EvaluateConfig, *, runs_root: Path = Path("runs"), progress: bool = False
) -> Evaluation:
    """Evaluate, and store the verdict, its numbers and its pictures in the run.

    What is no run of ours gets a new folder in ``runs_root`` (or ``output_dir``). Raises ``MicrotomeError``.
    """
    d = load(path, device=resolve_device(config.device), runs_root=runs_root)
    found = evaluate(d, config, progress=progress)
    if d.run is not None and config.output_dir is None:
        run = d.run
    else:
        folder = config.output_dir or runs_root / f"{KIND}-{d.name}-{timestamp()}"
        kind, reuse = f"{KIND}-{d.method}", config.output_dir is not None
        run = RunFolder.create(folder, config, seed=config.seed, device=config.device, kind=kind, reuse=reuse)
        run.finish({"method": d.method, "checks": {check.name: check.status for check in found.checks}})
    stored = Evaluation(found.about, found.checks, found.values, found.margins, found.arrays, run)
    stored.store(run)
    if config.pictures:
        draw_pictures(stored)
    return stored


def draw_pictures(evaluation: Evaluation) -> list[Path]:
    """Draw what can be drawn into the run's ``plots/evaluation_<name>.png``."""
    run = evaluation.run
    assert run is not None
    return [
        run.save_figure(f"evaluation_{name}", PICTURES[name].draw(evaluation.arrays))
        for name in evaluation.pictures()
    ]


def metric_names(asked: Sequence[str] | None) -> list[str]:
    """The metrics asked for, by our names; all of them for None. Raises ``MicrotomeError``."""
    names = list(METRICS) if asked is None else []
    for name in asked or ():
        own = OTHER_NAMES.get(name, name)
        if own not in METRICS:
            near = nearest(name, [*METRICS, *OTHER_NAMES])
            raise bad_value(
                "metrics",
                name,
                "no such metric",
                f"did you mean {near}?" if near else f"there are {', '.join(METRICS)}",
            )
        names.append(own)
    if not names:
        raise MicrotomeError(f"metrics: nothing to measure; name some of {', '.join(METRICS)}")
    return list(dict.fromkeys(names))


def _own_size(d: Decomposition) -> int:
    own = getattr(d.config, "eval_batch_size", None)
    return int(own or min(d.config.batch_size, MOST_ROWS))


def _steps(m: Measured, d: Decomposition) -> None:
    """How far the training has come."""
    steps = d.run.checkpoint_steps() if d.run is not None and d.source == d.run.path else []
    if not steps:
        m.refused["steps"] = "not a run folder of ours"
        return
    m.fixed["steps_done"] = np.full(m.n_seeds, float(steps[-1]))
    m.fixed["steps"] = np.full(m.n_seeds, float(d.config.steps))
