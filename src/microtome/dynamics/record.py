"""Train a built-in task and record it."""

from collections.abc import Sequence
from pathlib import Path

import torch

from microtome.core.device import set_threads
from microtome.core.errors import Diverged
from microtome.core.progress import progress
from microtome.core.runs import RunFolder, timestamp
from microtome.dynamics.record_config import RecordTaskConfig
from microtome.dynamics.recorder import Recorder
from microtome.dynamics.tasks import build
from microtome.dynamics.tasks.task import Task
from microtome.dynamics.when import schedule

CHECKED_EVERY = 50  # steps between two looks at the loss


def record(
    name: str,
    config: RecordTaskConfig,
    *,
    runs_root: str | Path = Path("runs"),
    out_dir: str | Path | None = None,
    command: Sequence[str] = (),
    show_progress: bool = True,
) -> RunFolder:
    """Train the task ``name`` from nothing and write its recording.

    Step 0 is the network before training, step n the one after n updates. Raises ``Diverged`` where the loss
    is no longer finite, and ``MicrotomeError`` where the data or the folder are missing.
    """
    set_threads(config.threads, small=True)
    task = build(name, config)
    path = Path(out_dir) if out_dir is not None else Path(runs_root) / f"dynamics_{name}_{timestamp()}"
    facts = {"name": name, "config": config.as_dict()}
    recorder = Recorder(
        task.model,
        task.probe,
        path,
        when=config.when,
        measures=config.measures,
        save=config.save,
        captures=False if config.captures == "never" else config.captures,
        attention=config.attention,
        on=config.on,
        labels=task.labels,
        config=config,
        seed=config.seed,
        task=facts,
        command=command,
    )
    with recorder:
        _train(task, config, recorder, show_progress)
    return RunFolder.open(path)


def _train(task: Task, config: RecordTaskConfig, recorder: Recorder, show_progress: bool) -> None:
    optimizer = torch.optim.AdamW(
        task.model.parameters(), lr=config.lr, weight_decay=config.weight_decay, **task.adamw
    )
    measured = schedule(config.when)
    recorder.step(0, **task.evaluate())
    with progress(f"recording {task.name}", config.steps, enabled=show_progress) as bar:
        for step in range(1, config.steps + 1):
            loss = task.loss()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            recorder.step(step, loss=loss, **(task.evaluate() if measured(step) else {}))
            if step % CHECKED_EVERY == 0 or step == config.steps:
                value = loss.item()
                if not torch.isfinite(loss):
                    raise Diverged(f"step {step}: the loss is {value}; lower lr")
                bar.update(step, {"loss": value})
