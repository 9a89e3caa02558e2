"""What recording costs: training with the recorder against the bare loop, in CPU time.

    python benchmarks/recorder.py [--steps 2000] [--chunk 20] [--repeats 3] [--models mlp cnn] [--folder F]

Two copies of a network train on the same random batches of 64, one bare and one recorded, in turns of
``--chunk`` steps on one thread, so that whatever else the machine does strikes both alike. A ratio is the sum
of all recorded turns over the sum of all bare ones (``total``), making and closing the recorder included; the
median of the turns' ratios stands beside it. ``--spectra`` times all measures of one layer against a full
singular value decomposition. Compare ratios between machines, not milliseconds.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from microtome.core.device import tune_allocator
from microtome.dynamics.recorder import Recorder
from microtome.dynamics.tasks.networks import ConvNet, FlatMLP
from microtome.measures.dimensionality import measure_all


@dataclass(frozen=True)
class Case:
    """How the recorder is set, and how much it may cost on the MLP and on the CNN."""

    name: str
    settings: dict[str, Any]
    limits: dict[str, float]


CASES = [
    Case("probe of 128, log2_then(100)", {"on": "probe"}, {"mlp": 1.05, "cnn": 1.05}),
    Case("batch, every 10 steps", {"on": "batch", "when": "every(10)"}, {"mlp": 1.03, "cnn": 1.03}),
    Case("batch, every step", {"on": "batch", "when": "always"}, {"mlp": 1.35, "cnn": 1.5}),
]


def network(name: str) -> nn.Module:
    """784-512-256-10, or 32-64 channels on 28x28."""
    torch.manual_seed(0)
    return FlatMLP((784, 512, 256, 10)) if name == "mlp" else ConvNet(28, 10)


def trainer(model: nn.Module, images: Tensor, labels: Tensor) -> Callable[[int], Tensor]:
    """One step of Adam on the step's batch."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def step(number: int) -> Tensor:
        start = 64 * number % (len(images) - 64)
        loss = cross_entropy(model(images[start : start + 64]), labels[start : start + 64])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    return step


def measure(name: str, case: Case, steps: int, chunk: int, folder: Path) -> tuple[float, float, float]:
    """Ratio of all turns, median ratio of a turn, and milliseconds of a bare step."""
    images = torch.randn(6400, 1, 28, 28)
    labels = (images.flatten(1) @ torch.randn(784, 10)).argmax(-1)
    bare_model, model = network(name), network(name)
    bare, recorded = trainer(bare_model, images, labels), trainer(model, images, labels)
    for number in range(20):  # caches and the allocator warm up
        bare(number)
        recorded(number)
    out = folder / f"{name}-{len(list(folder.iterdir()))}"
    probe = None if case.settings["on"] == "batch" else images[:128]
    start = time.process_time()
    recorder = Recorder(model, probe, out, note=lambda _: None, **case.settings)
    extra = time.process_time() - start

    def bare_turn(numbers: range) -> None:
        for number in numbers:
            bare(number)

    def recorded_turn(numbers: range) -> None:
        for number in numbers:
            recorder.step(number, loss=recorded(number))

    bare_times, times = [], []
    for first in range(0, steps, chunk):
        turns = (bare_turn, recorded_turn) if first // chunk % 2 else (recorded_turn, bare_turn)
        for turn in turns:
            start = time.process_time()
            turn(range(first, first + chunk))
            (bare_times if turn is bare_turn else times).append(time.process_time() - start)
    start = time.process_time()
    recorder.close()
    assert recorder.failure is None, recorder.failure
    extra += time.process_time() - start
    ratios = [b / a for a, b in zip(bare_times, times, strict=True)]
    total = (sum(times) + extra) / sum(bare_times)
    return total, statistics.median(ratios), 1e3 * sum(bare_times) / steps


def spectra(repeats: int = 200) -> None:
    """All six measures of one layer against one full SVD in the same precision."""

    def milliseconds(run: Callable[[], Any]) -> float:
        run()
        times = []
        for _ in range(repeats):
            start = time.process_time()
            run()
            times.append(time.process_time() - start)
        return 1e3 * statistics.median(times)

    print("\nall measures of one layer, ms     full SVD float32, float64     ratio to float64")
    for shape in ((64, 256), (64, 512), (128, 512), (256, 512), (64, 25088)):
        x = torch.randn(*shape)
        ours = milliseconds(lambda x=x: measure_all({"layer": x}))
        single = milliseconds(lambda x=x: torch.linalg.svd(x, full_matrices=False))
        double = milliseconds(lambda x=x: torch.linalg.svd(x.double(), full_matrices=False))
        print(f"{shape!s:>14} {ours:12.2f} {single:20.2f} {double:10.2f} {double / ours:15.1f}")


def main() -> None:
    """Print every case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--chunk", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--models", nargs="+", default=["mlp", "cnn"], choices=["mlp", "cnn"])
    parser.add_argument("--cases", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--spectra", action="store_true")
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    tune_allocator()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="microtome-recorder-"))
    folder.mkdir(parents=True, exist_ok=True)
    import pyarrow.parquet  # noqa: F401  (imported once a process, not a cost of recording)

    print("model  case                              total    median turn   limit   bare step, ms")
    for name in given.models:
        for case in (CASES[place] for place in given.cases):
            for _ in range(given.repeats):
                total, median, bare = measure(name, case, given.steps, given.chunk, folder)
                limit = case.limits[name]
                print(f"{name:<6} {case.name:<32} {total:6.3f} {median:12.3f} {limit:10.2f} {bare:12.2f}")
    if given.spectra:
        spectra()
    if given.folder is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
