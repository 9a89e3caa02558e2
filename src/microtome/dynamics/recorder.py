"""The recorder: two lines in a training loop give a run folder of measures, scalars and states."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from torch import Tensor, nn

from microtome.core.config import Config
from microtome.dynamics.when import Schedule, log2_then

When = Schedule | Callable[[int], bool] | str | int


class Recorder:
    """Measures a network on a fixed probe while it trains. Use it as a context manager."""

    def __init__(
        self,
        model: nn.Module,
        probe: Any,
        out: str | Path,
        *,
        layers: Literal["auto"] | Sequence[str] = "auto",
        when: When = log2_then(100),  # noqa: B008
        measures: Sequence[str] | None = None,
        save: Literal["auto"] | When | None = "auto",
        captures: bool | When = False,
        attention: bool = False,
        on: Literal["probe", "batch"] = "probe",
        labels: Tensor | None = None,
        config: Mapping[str, Any] | Config | None = None,
        seed: int | None = None,
    ) -> None:
        raise NotImplementedError

    def step(self, step: int, *, loss: Any = None, **scalars: Any) -> None:
        """Tell the recorder that training step ``step`` is done."""
        raise NotImplementedError

    def close(self) -> None:
        """Write what is left and mark the recording finished."""
        raise NotImplementedError

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
