"""``timing_stats.json`` and ``timing_summary.txt``."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from microtome.core.progress import duration


class Timing:
    """Seconds of a run: overall, and of each layer."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self.overall: dict[str, float] = {}
        self.per_layer: dict[int, dict[str, float]] = {}

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Add the block's seconds to an overall entry."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.overall[name] = self.overall.get(name, 0.0) + time.perf_counter() - start

    @contextmanager
    def measure_layer(self, layer: int, name: str) -> Iterator[None]:
        """Add the block's seconds to a layer's entry."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add_layer(layer, name, time.perf_counter() - start)

    def add_layer(self, layer: int, name: str, seconds: float) -> None:
        """Add seconds to a layer's entry."""
        entry = self.per_layer.setdefault(layer, {})
        entry[name] = entry.get(name, 0.0) + seconds

    def stats(self) -> dict[str, Any]:
        """``overall`` with ``total_runtime`` so far, and ``per_layer`` with each layer's ``total``."""
        overall = {**self.overall, "total_runtime": time.perf_counter() - self._began}
        per_layer = {
            str(layer): {**entry, "total": sum(entry.values())} for layer, entry in self.per_layer.items()
        }
        return {"overall": overall, "per_layer": per_layer}

    def summary(self) -> str:
        """The same in words."""
        stats = self.stats()
        lines = ["Timing", "", "Overall"]
        lines += [f"  {name:<22} {seconds:10.2f} s" for name, seconds in stats["overall"].items()]
        lines += ["", "Per layer (one pass through the model serves all layers: each bears an equal part)"]
        for layer, entry in stats["per_layer"].items():
            parts = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in entry.items())
            lines.append(f"  layer {layer}: {parts}")
        lines += ["", f"In all: {duration(stats['overall']['total_runtime'])}"]
        return "\n".join(lines) + "\n"
