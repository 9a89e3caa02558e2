"""What every training run does around its mathematics: folder, progress, curves, and a clean end."""

import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from microtome.core.device import resolve_device, set_threads
from microtome.core.progress import Progress, progress
from microtome.core.runs import RunFolder, timestamp
from microtome.core.tracking import Tracker, open_tracker
from microtome.training.run_settings import RunSettings


@dataclass(frozen=True)
class TrainingRun:
    """An open run folder with its progress line and its tracker."""

    folder: RunFolder
    bar: Progress
    tracker: Tracker
    steps: int

    def report(self, step: int, values: Mapping[str, Any]) -> None:
        """One line of ``metrics.jsonl``, the progress line and the tracker."""
        self.folder.log(step, values)
        self.bar.update(step + 1, {"loss": values["loss"]})
        self.tracker.log(step, values)

    def image(self, name: str, path: Path) -> None:
        """Tell the tracker of a picture, at the last step: W&B drops what comes for an earlier one."""
        self.tracker.image(self.steps - 1, name, path)


@contextmanager
def training_run(
    config: RunSettings,
    kind: str,
    name: str,
    steps: int,
    runs_root: str | Path,
    out_dir: str | Path | None,
    command: Sequence[str],
    show_progress: bool,
) -> Iterator[TrainingRun]:
    """A new run folder ``<runs_root>/<name>_<timestamp>`` (or ``out_dir``) for the body to fill.

    Training takes no resume, so that a body that fails or is stopped leaves no folder behind.
    """
    set_threads(config.threads, small=True)
    path = Path(out_dir) if out_dir is not None else Path(runs_root) / f"{name}_{timestamp()}"
    existed = path.exists()
    device = str(resolve_device(config.device))
    folder = RunFolder.create(
        path, config, command=command or sys.argv, seed=config.seed, device=device, kind=f"train-{kind}"
    )
    try:
        sink = config.tracker or ("wandb" if config.wandb_project else "none")
        tracker = open_tracker(sink, folder, config.wandb_project, name, config.as_dict())
        try:
            with progress(f"training {kind}", steps, enabled=show_progress) as bar:
                yield TrainingRun(folder, bar, tracker, steps)
        finally:
            tracker.finish()
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        if existed:  # an empty folder that the user had made
            path.mkdir(parents=True, exist_ok=True)
        raise
