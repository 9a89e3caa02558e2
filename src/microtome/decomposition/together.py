"""Several configurations as one batched program: seeds, coefficients and top-k values side by side.

Every configuration still ends as a run folder of its own. While they train they share one, which holds the
checkpoint to carry on from; it is gone at the end.
"""

import hashlib
import json
import shutil
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from microtome.core.device import set_threads
from microtome.core.errors import MicrotomeError
from microtome.core.run_lock import only_writer
from microtome.core.run_start import MARKER
from microtome.core.runs import RunFolder
from microtome.decomposition.apd_variation import VARIED_FIELDS
from microtome.decomposition.config import DecompositionConfig
from microtome.decomposition.decompose import measure, picture
from microtome.decomposition.evaluate import Reporter
from microtome.decomposition.jobs import Job, build_method, load_job
from microtome.decomposition.loop import Hooks, Loop
from microtome.decomposition.outputs import save_model, save_start
from microtome.decomposition.pictures import draw_all

KIND = "together"


def together_key(config: DecompositionConfig) -> Hashable:
    """Equal for configurations that can share one batched program, whatever their seeds and coefficients.

    One that logs to a tracker shares its key with no other: a tracker holds one run at a time.
    """
    if config.tracker not in (None, "none") or config.wandb_project is not None:
        return object()
    values = config.as_dict()
    names = [name for name in values if name.endswith("_coeff")] if config.method == "spd" else VARIED_FIELDS
    for name in names:
        # Whether a loss is computed, and whether it is differentiated, is the program's shape.
        values[name] = None if values[name] is None else values[name] != 0
    return json.dumps(values | {"seed": None}, sort_keys=True, default=str)


def run_together(
    configs: Sequence[DecompositionConfig],
    folders: Sequence[Path],
    *,
    runs_root: Path = Path("runs"),
    relative_to: Path | None = None,
    command: Sequence[str] = (),
    progress: bool = True,
) -> list[RunFolder]:
    """Decompose as every configuration says, all in one program; folder i holds the run of configuration i.

    Called again with the same arguments after a kill it carries on. The runs of one program share the stream
    of inputs; each starts as it would alone. Raises ``MicrotomeError`` for configurations that do not belong
    together, and ``Diverged`` when a loss of any of them stops being finite.
    """
    assert len(configs) == len(folders) and configs
    if len({together_key(config) for config in configs}) > 1:
        raise MicrotomeError("run_together: the configurations differ in more than seeds and coefficients")
    first = configs[0]
    base = load_job(first, runs_root=runs_root, relative_to=relative_to)
    every = list(range(base.target.n_instances)) * len(configs)
    job = Job(first, base.target.select(every), base.data, base.train_config, tuple(configs))
    set_threads(first.threads)
    method = build_method(job)
    device = str(next(iter(method.parameters.values())).device)
    common = _shared_folder(folders)
    carried_on = common.exists()
    runs = [
        _open_or_create(folder, config, f"decompose-{config.method}", command, device, carried_on)
        for folder, config in zip(folders, configs, strict=True)
    ]
    shared = _open_or_create(common, first, KIND, command, device)
    parts = job.parts()
    with only_writer(shared.path):
        for run, part in zip(runs, parts, strict=True):
            save_start(run, part)
        _train(job, method, shared, runs, parts, progress)
        for i, (run, part) in enumerate(zip(runs, parts, strict=True)):
            if not run.finished:
                _finish_part(run, part, _slice(method.parameters, i, part), i, shared)
    shutil.rmtree(shared.path)
    return runs


def _train(
    job: Job, method: Any, shared: RunFolder, runs: list[RunFolder], parts: list[Job], progress: bool
) -> None:
    def each(act: Any) -> Any:
        def hook(step: int) -> None:
            for i, (run, part) in enumerate(zip(runs, parts, strict=True)):
                act(run, part, _slice(method.parameters, i, part), step)

        return hook

    loop = Loop(
        method,
        job.data,
        job.config,
        shared,
        extra=job.description(),
        fixed=job.target.state_dict(),
        hooks=Hooks(
            report=Reporter(method, job.data).report,
            picture=each(picture),
            saved=each(save_model),
            show=progress,
            title=f"decompose {job.config.method}, {len(runs)} runs together",
        ),
    )
    checkpoint = shared.latest_checkpoint()
    if checkpoint is not None:
        loop.restore(*checkpoint[:2])
    loop.train()


def _finish_part(
    run: RunFolder, part: Job, parameters: dict[str, Tensor], position: int, shared: RunFolder
) -> None:
    """One configuration's share of the program as a complete run."""
    checkpoint = shared.latest_checkpoint()
    assert checkpoint is not None
    step, state, _ = checkpoint
    optimizer = {name: t for name, t in state.items() if name.startswith("optimizer/")}
    tensors = parameters | _slice(optimizer, position, part)
    tensors |= {name: t for name, t in state.items() if name.startswith("random/")}
    tensors |= {f"target/{name}": t.detach() for name, t in part.target.state_dict().items()}
    run.drop_metrics_after(-1)
    for row in shared.metrics():
        run.log(row["step"], {n: _share(v, position, part) for n, v in row.items() if n != "step"})
    run.save_checkpoint(step, {n: t.contiguous().clone() for n, t in tensors.items()}, part.description())
    summary = measure(run, part, parameters)
    if part.config.pictures:
        draw_all(run)
    run.finish(summary)


def _slice(tensors: Mapping[str, Tensor], position: int, part: Job) -> dict[str, Tensor]:
    """The instances of one part; scalars (the optimiser's step count) belong to all."""
    n = part.target.n_instances
    mine = slice(position * n, (position + 1) * n)
    return {name: t.detach()[mine] if t.ndim else t for name, t in tensors.items()}


def _share(value: Any, position: int, part: Job) -> Any:
    n = part.target.n_instances
    return value[position * n : (position + 1) * n] if isinstance(value, list) else value


def _shared_folder(folders: Sequence[Path]) -> Path:
    names = "\n".join(str(Path(folder).absolute()) for folder in folders)
    return Path(folders[0]).parent / f".together-{hashlib.sha256(names.encode()).hexdigest()[:12]}"


def _open_or_create(
    path: Path,
    config: DecompositionConfig,
    kind: str,
    command: Sequence[str],
    device: str,
    carried_on: bool = False,
) -> RunFolder:
    """The folder as a run of this configuration: what a kill left of it, or a new one."""
    if (Path(path) / MARKER).is_file():
        run = RunFolder.open(path)
        same = run.kind == kind and run.config == config.as_dict()
        if same and (carried_on or not run.finished):
            return run
    return RunFolder.create(path, config, command=command, seed=config.seed, device=device, kind=kind)
