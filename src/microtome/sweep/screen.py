"""Progress of a sweep: trials done, running, failed, and the time left."""

import time

from microtome.core.progress import PLAIN_EVERY, Progress, duration

AT_LEAST = 1.0  # seconds between the lines of a piped log


class SweepProgress(Progress):
    """One live line on a terminal, plain lines now and then when piped."""

    def __init__(self, total: int, done: int = 0, enabled: bool = True) -> None:
        super().__init__("sweep", total, done, enabled)
        self.running = self.failed = 0
        self.best: float | None = None

    def __enter__(self) -> "SweepProgress":
        super().__enter__()
        return self

    def show(self, done: int, running: int, failed: int, best: float | None) -> None:
        """Tell how many trials are done and running, how many of those done failed, and the best metric."""
        changed = (done, failed) != (self._step, self.failed)
        self.running, self.failed, self.best = running, failed, best
        if changed and not self.live and time.monotonic() - self._shown > AT_LEAST:
            self._shown -= PLAIN_EVERY  # news are told at once
        self.update(done)

    def line(self) -> str:
        """The line as it would be shown now."""
        rate, left = self._rate()
        parts = [f"sweep  {self._step}/{self.total} trials ({100 * self._step / self.total:.0f}%)"]
        if self.running:
            parts.append(f"{self.running} running")
        if self.failed:
            parts.append(f"{self.failed} failed")
        if self._step >= self.total:
            parts.append(f"took {duration(self._spent())}")
        elif rate:
            parts.append(f"about {duration(left)} left")
        if self.best is not None:
            parts.append(f"best {self.best:.4g}")
        return "  ".join(parts)
