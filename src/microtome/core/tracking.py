"""Tracking sinks beside ``metrics.jsonl``: nothing, Weights & Biases, or TensorBoard."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from microtome.core.environment_file import read_environment_file
from microtome.core.errors import MicrotomeError, bad_value
from microtome.core.runs import RunFolder
from microtome.core.wandb_files import import_wandb

TrackerKind = Literal["none", "wandb", "tensorboard"]


@runtime_checkable
class Tracker(Protocol):
    """What a training loop tells a sink."""

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Numbers of one step; a list is logged as one number an instance."""
        ...

    def image(self, step: int, name: str, path: Path) -> None:
        """A PNG that was just written."""
        ...

    def finish(self) -> None:
        """Close the sink; nothing is logged after this."""
        ...


def open_tracker(
    kind: str,
    run: RunFolder,
    project: str | None = None,
    name: str | None = None,
    config: Mapping[str, Any] | None = None,
) -> Tracker:
    """The sink called ``kind``: none, wandb or tensorboard.

    Raises ``MicrotomeError`` with the pip command when the extra is not installed, and for W&B without a
    login (``WANDB_MODE=offline`` needs none).
    """
    if kind == "none":
        return NoTracker()
    if kind == "wandb":
        return WandbTracker(run, project, name, config or {})
    if kind == "tensorboard":
        return TensorboardTracker(run)
    raise bad_value("tracker", kind, "unknown tracker", "choose one of none, wandb, tensorboard")


def flatten(values: Mapping[str, Any]) -> dict[str, float]:
    """Lists as one number an instance: ``loss: [1, 2]`` becomes ``loss/0: 1, loss/1: 2``."""
    flat: dict[str, float] = {}
    for name, value in values.items():
        value = value.tolist() if hasattr(value, "tolist") else value
        if isinstance(value, (list, tuple)):
            flat |= {f"{name}/{index}": float(item) for index, item in enumerate(value)}
        elif isinstance(value, (int, float)):
            flat[name] = float(value)
    return flat


class NoTracker:
    """Tracks nothing: the run folder holds everything anyway."""

    def log(self, step: int, values: Mapping[str, Any]) -> None: ...

    def image(self, step: int, name: str, path: Path) -> None: ...

    def finish(self) -> None: ...


class WandbTracker:
    """Weights & Biases; with WANDB_MODE=offline it needs neither account nor network."""

    def __init__(
        self, run: RunFolder, project: str | None, name: str | None, config: Mapping[str, Any]
    ) -> None:
        read_environment_file()
        self._wandb = import_wandb()
        mode = os.environ.get("WANDB_MODE", "online")
        if mode not in ("offline", "disabled", "dryrun") and not self._logged_in():
            raise MicrotomeError(
                "tracker='wandb': no W&B login; put WANDB_API_KEY in .env, run `wandb login`,"
                " or set WANDB_MODE=offline"
            )
        try:
            self._run = self._wandb.init(
                project=project or os.environ.get("WANDB_PROJECT") or "microtome",
                name=name or run.path.name,
                config=dict(config),
                dir=str(run.path),
            )
        except Exception as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise MicrotomeError(
                f"tracker='wandb': W&B did not start ({first}); try WANDB_MODE=offline"
            ) from error

    def _logged_in(self) -> bool:
        try:
            return bool(self._wandb.Api().api_key)
        except Exception:
            return False

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        self._run.log(flatten(values), step=step)

    def image(self, step: int, name: str, path: Path) -> None:
        self._run.log({name: self._wandb.Image(str(path))}, step=step)

    def finish(self) -> None:
        self._run.finish()


class TensorboardTracker:
    """TensorBoard event files in ``<run>/tensorboard``."""

    def __init__(self, run: RunFolder) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise MicrotomeError(
                "tensorboard is not installed; run `pip install 'microtome[tensorboard]'`"
            ) from None
        self._writer = SummaryWriter(str(run.path / "tensorboard"))

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        for name, value in flatten(values).items():
            self._writer.add_scalar(name, value, step)

    def image(self, step: int, name: str, path: Path) -> None:
        import matplotlib.image

        self._writer.add_image(name, matplotlib.image.imread(path), step, dataformats="HWC")

    def finish(self) -> None:
        self._writer.close()
