"""Live progress of a long loop: one live line on a terminal, plain lines when piped."""

import os
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

PLAIN_EVERY = 5.0
LIVE_EVERY = 0.1


@runtime_checkable
class Stream(Protocol):
    """What progress is written to, such as ``sys.stderr``."""

    def write(self, text: str, /) -> Any: ...
    def flush(self) -> Any: ...
    def isatty(self) -> bool: ...


class Progress:
    """Prints step, share, steps per second, time left and the losses. Use it as a context manager."""

    def __init__(
        self, title: str, total: int, start: int = 0, enabled: bool = True, stream: Stream | None = None
    ):
        self.title, self.total, self.start = title, max(total, 1), start
        self.stream: Any = stream if stream is not None else sys.stderr
        self.enabled = enabled
        self.live = enabled and self.stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
        self._step, self._values = start, {}
        self._began = self._shown = time.monotonic()
        self._shown_step = start - 1
        self._screen: Any = None

    def __enter__(self) -> "Progress":
        if self.live:
            from rich.console import Console
            from rich.live import Live

            self._screen = Live(console=Console(file=self.stream), refresh_per_second=8, transient=False)
            self._screen.start()
        return self

    def update(self, step: int, values: Mapping[str, float] | None = None) -> None:
        """Tell the step reached (of ``total``) and, when there are new ones, the losses as plain floats."""
        self._step = step
        if values is not None:
            self._values = dict(values)
        if self.enabled and time.monotonic() - self._shown >= (LIVE_EVERY if self.live else PLAIN_EVERY):
            self._show()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.enabled and self._shown_step != self._step:
            self._show()
        if self._screen is not None:
            self._screen.stop()

    def line(self) -> str:
        """The line as it would be shown now."""
        rate, left = self._rate()
        parts = [f"{self.title}  {self._step:,}/{self.total:,} ({100 * self._step / self.total:.0f}%)"]
        if rate:
            parts.append(f"{rate:,.0f} steps/s" if rate >= 10 else f"{rate:.2g} steps/s")
            parts.append(
                f"{duration(left)} left" if self._step < self.total else f"took {duration(self._spent())}"
            )
        parts += [f"{name} {value:.4g}" for name, value in self._values.items()]
        return "  ".join(parts)

    def _spent(self) -> float:
        return time.monotonic() - self._began

    def _rate(self) -> tuple[float, float]:
        done, spent = self._step - self.start, self._spent()
        if done <= 0 or spent <= 0:
            return 0.0, 0.0
        rate = done / spent
        return rate, (self.total - self._step) / rate

    def _show(self) -> None:
        self._shown, self._shown_step = time.monotonic(), self._step
        if self._screen is not None:
            self._screen.update(self._rich_line())
            return
        print(self.line(), file=self.stream, flush=True)

    def _rich_line(self) -> Any:
        from rich.text import Text

        width = 24
        filled = min(width, round(width * self._step / self.total))
        bar = Text("━" * filled, style="cyan") + Text("━" * (width - filled), style="dim")
        return Text.assemble(bar, " ", self.line(), overflow="ellipsis", no_wrap=True)


def progress(
    title: str, total: int, start: int = 0, enabled: bool = True, stream: Stream | None = None
) -> Progress:
    """Progress over ``total`` steps of which ``start`` were done before; ``enabled=False`` prints nothing."""
    return Progress(title, total, start, enabled, stream)


def duration(seconds: float | int) -> str:
    """A time in the largest two units: ``8s``, ``3m 05s``, ``2h 10m``."""
    seconds = round(max(seconds, 0))
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m {seconds % 60:02d}s"
    return f"{seconds // 3600}h {seconds % 3600 // 60:02d}m"
