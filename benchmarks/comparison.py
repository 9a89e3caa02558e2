"""Comparing two networks: what is shared between computations, against doing each by itself.

    python benchmarks/comparison.py [--small] [--cases gram collect probes command ...]

gram     one Gram matrix a layer for principal components, CKA, Procrustes, RSA, intervals and permutation
         nulls, against each computed from the activations (resamples and permutations from the rows again)
collect  one pass that keeps every layer before and after its nonlinearity, against the bare forward pass
         (CPU time) and against keeping the raw activations (memory beyond that of the bare pass)
probes   see probe_cases.py
command  `microtome compare --run-all` on 200 images of 128 x 128 pixels and two untrained conv2 networks

One thread; CPU seconds. Compare ratios between machines, not seconds.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import probe_cases
import torch
from sklearn.decomposition import PCA
from threadpoolctl import threadpool_limits

from microtome.comparison.activations import collect
from microtome.comparison.batch_norm import frozen
from microtome.comparison.gram import Gram, cka_input_values
from microtome.comparison.layers import match_layers, trace_layers
from microtome.comparison.listening import listening
from microtome.data.labelled_images import LabelledImages, Labels
from microtome.measures import representation_similarity as measures
from microtome.targets.few_shot_convnet import FewShotConvNet
from microtome.targets.image_network import ImageNetwork
from microtome.targets.same_different_nets import SameDifferentNet

REPEATS = 3


def cpu_seconds(work: Callable[[], Any], repeats: int = REPEATS) -> float:
    """The least CPU time of several calls, after one that warms up."""
    work()
    spent = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        spent.append(time.process_time() - start)
    return min(spent)


def gram_case(small: bool) -> dict[str, float]:
    """All measures of one layer of two networks with intervals and null."""
    n, d, resamples = (150, 300, 20) if small else (512, 1024, 100)
    draws = np.random.default_rng(0)
    common = draws.normal(size=(n, 20))
    x, y = (common @ draws.normal(size=(20, d)) + draws.normal(size=(n, d)) for _ in range(2))
    halves = [draws.permutation(n)[: n // 2] for _ in range(resamples)]
    deals = [draws.permutation(n) for _ in range(resamples)]

    def shared() -> None:
        one, other = Gram(x), Gram(y)
        for gram in (one, other):
            gram.pca(n - 1)
        one.cka(other)
        one.procrustes(other)
        one.rsa(other)
        one.overlap(other, 10)
        cka_input_values(np.stack([one.unit, other.unit]), np.array([[0, 1]])).std()
        for order in deals:
            np.vdot(one.unit, other.unit[np.ix_(order, order)])

    def apart() -> None:
        for rows in (x, y):
            PCA(svd_solver="full").fit_transform(rows)
        measures.debiased_cka(x, y)
        measures.procrustes_distance(x, y)
        measures.rsa(x, y)
        measures.subspace_overlap(x, y, 10)
        for half in halves:
            measures.debiased_cka(x[half], y[half])
        for order in deals:
            measures.debiased_cka(x, y[order])

    ours, theirs = cpu_seconds(shared), cpu_seconds(apart, 1)
    return {"one Gram matrix": ours, "each by itself": theirs, "ratio": theirs / ours}


def made_up(n: int, channels: int, size: int) -> LabelledImages:
    """Noise."""
    pixels = torch.randint(0, 256, (n, channels, size, size), dtype=torch.uint8)
    labels = {"class": Labels(np.arange(n) % 2, ("same", "different"))}
    return LabelledImages(
        pixels, labels, tuple(f"{i:05d}" for i in range(n)), "noise", f"{n}-{channels}-{size}"
    )


def material(name: str, small: bool) -> tuple[ImageNetwork, LabelledImages]:
    """A network and images for it."""
    torch.manual_seed(0)
    if name == "Conv4-64":
        module, images = FewShotConvNet(), made_up(100 if small else 1000, 1, 28)
    else:
        module, images = SameDifferentNet("conv2"), made_up(20 if small else 200, 3, 128)
    return ImageNetwork(module.eval().requires_grad_(False), name, digest=name), images


def bare(network: ImageNetwork, images: LabelledImages) -> None:
    """The forward pass alone."""
    with torch.no_grad():
        for start in range(0, len(images), 32):
            network.module(images.inputs(slice(start, start + 32)))


def raw(network: ImageNetwork, images: LabelledImages) -> dict[str, list[torch.Tensor]]:
    """Everything kept in memory as it comes."""
    kept: dict[str, list[torch.Tensor]] = {}
    names = [layer.name for layer in trace_layers(network, images.inputs(slice(0, 2)))]

    def keep(site: str) -> Callable[[str, torch.Tensor], None]:
        return lambda name, output: kept.setdefault(f"{name}/{site}", []).append(output.clone())

    with listening(network.module, names, keep("pre"), keep("post")):
        bare(network, images)
    return kept


def pooled(network: ImageNetwork, images: LabelledImages) -> None:
    """Ours."""
    trace = trace_layers(network, images.inputs(slice(0, 2)))
    layers = match_layers({"a": trace}).layers
    with tempfile.TemporaryDirectory() as folder:
        collect(network, images, layers, "a", folder=Path(folder), bn="native")


WAYS: dict[str, Callable[[ImageNetwork, LabelledImages], Any]] = {"bare": bare, "raw": raw, "pooled": pooled}


def collect_case(name: str, small: bool) -> dict[str, float]:
    """CPU time in this process; memory each in a process of its own."""
    network, images = material(name, small)
    rounds = [
        {way: cpu_seconds(lambda way=way: WAYS[way](network, images), 1) for way in ("bare", "pooled")}
        for _ in range(REPEATS)  # by turns: the machine may have other work
    ]
    seconds = {way: min(each[way] for each in rounds) for way in rounds[0]}
    peaks = {way: _peak(name, way, small) for way in WAYS}
    kept, ours = (max(peaks[way] - peaks["bare"], 1.0) for way in ("raw", "pooled"))
    freezing = cpu_seconds(lambda: frozen(network, images))
    return {
        "bare pass": seconds["bare"], "collecting": seconds["pooled"],
        "time ratio": seconds["pooled"] / seconds["bare"], "freezing the norms": freezing,
        "raw MB": kept, "ours MB": ours, "memory ratio": ours / kept,
    }  # fmt: skip


def _peak(name: str, way: str, small: bool) -> float:
    """Largest memory of a process that does only this, in MB."""
    command = [sys.executable, __file__, "--peak", name, way, *(["--small"] if small else [])]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def command_case(small: bool) -> dict[str, float]:
    """The whole command in a process of its own: CPU seconds, pictures and start of Python included."""
    from PIL import Image

    _, images = material("conv2", small)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shown = folder / "data" / "results_problem_1_x" / "test"
        shown.mkdir(parents=True)
        for i, pixels in enumerate(images.pixels):
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(shown / f"sample_{i % 2}_{i:04d}.png")
        for seed, arm in enumerate(("meta", "baseline")):
            torch.manual_seed(seed)
            torch.save(SameDifferentNet("conv2").state_dict(), folder / f"{arm}.pt")
        words = ["--meta-model", "meta.pt", "--baseline-model", "baseline.pt", "--data-dir", "data"]
        words += ["--problem-number", "1", "--run-all", "--device", "cpu", "--output-dir", "out"]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "microtome", "compare", *words], check=True, cwd=folder)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"CPU seconds": spent, "peak MB": after.ru_maxrss / 1024}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--cases", nargs="*", default=["gram", "collect", "probes", "command"])
    parser.add_argument("--peak", nargs=2, metavar=("NETWORK", "WAY"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    small = arguments.small
    if arguments.peak:
        name, way = arguments.peak
        kept = WAYS[way](*material(name, small))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        del kept
        return
    cases: dict[str, Callable[[], dict[str, dict[str, float]]]] = {
        "gram": lambda: {"one Gram matrix": gram_case(small)},
        "collect": lambda: {f"collect {name}": collect_case(name, small) for name in ("Conv4-64", "conv2")},
        "probes": lambda: probe_cases.run(small),
        "command": lambda: {"compare --run-all": command_case(small)},
    }
    with threadpool_limits(1):
        for case in arguments.cases:
            for name, numbers in cases[case]().items():
                print(
                    name,
                    json.dumps({key: float(f"{value:.3g}") for key, value in numbers.items()}),
                    flush=True,
                )


if __name__ == "__main__":
    main()
