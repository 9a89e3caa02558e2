"""Sweeping magnitudes in one batch against one row at a time, and how long the pictures take.

    python benchmarks/magnitude.py [--rounds 5] [--rows 400] [RUN]

Every feature at 100 magnitudes through a one-layer residual MLP (100 features, 1,000 dimensions, 50 neurons,
C = 100, gates of 16 neurons), computing only: neurons, outputs, causal importances, gate outputs and gate
inputs of every site. The loop does what the original script does, one input at a time through the same
network; it is timed on the first ``--rows`` inputs of each round and scaled to all of them. Both sides
alternate in one process on one thread, and the smallest CPU times are compared: compare ratios between
machines, not milliseconds.
RUN is a decomposition to take instead of random numbers.
"""

import argparse
import copy
import io
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from microtome.core.device import tune_allocator
from microtome.decomposition.config import config_from_mapping
from microtome.decomposition.result import Decomposition, load
from microtome.decomposition.subcomponents import init_subcomponents
from microtome.magnitude import importance
from microtome.magnitude.forward import n_inputs
from microtome.magnitude.sweep import compute
from microtome.targets.config import ResidMLPModelConfig
from microtome.targets.resid_mlp import ResidMLP

STEPS, MAXIMUM = 100, 2.0


def random_decomposition() -> Decomposition:
    """Weights and components drawn at random, in the sizes of the SPD paper's one-layer residual MLP."""
    target = ResidMLP(
        ResidMLPModelConfig(n_features=100, d_embed=1000, d_mlp=50, n_layers=1), fixed_embedding=True
    )
    target.reset(0, embedding="random").requires_grad_(False)
    parts = init_subcomponents(target.sites(), n_components=100, gate_hidden=16, seeds=[0])
    config = config_from_mapping({"method": "spd", "C": 100, "n_ci_mlp_neurons": 16})
    return Decomposition(config, target, parts.named_parameters())


@torch.no_grad()
def one_row(d: Decomposition, x: torch.Tensor) -> dict[str, np.ndarray]:
    """What the sweep records of one input ``[K, 1, n]``."""
    output, inputs = d.site_inputs(x)
    found = {"outputs": output}
    for name, h in inputs.items():
        if name.endswith("mlp_in"):
            found[f"pre/{name}"] = d.sites[name].apply(h)
            found[f"post/{name}"] = torch.relu(found[f"pre/{name}"])
    for name, ci in (d.causal_importances(x) or {}).items():
        found |= {f"gate_inputs/{name}": ci.inner, f"gate_outputs/{name}": ci.gate}
        found |= {f"lower/{name}": ci.lower, f"upper/{name}": ci.upper}
    return {name: values.numpy() for name, values in found.items()}


def row_by_row(d: Decomposition, rows: int) -> Iterator[dict[str, np.ndarray]]:
    """The first ``rows`` inputs, feature by feature, one forward pass each."""
    n = n_inputs(d)
    for row in range(rows):
        x = torch.zeros(d.n_instances, 1, n, dtype=d.sites[next(iter(d.sites))].weight.dtype)
        x[..., row // STEPS] = MAXIMUM * (row % STEPS) / (STEPS - 1)
        yield one_row(d, x)


def cpu_seconds(run: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    run()
    return time.process_time() - start


def check_equal(d: Decomposition) -> float:
    """The largest difference between the two, over the first feature's inputs."""
    swept = compute(d, [0], STEPS, MAXIMUM).arrays()
    return max(
        float(np.abs(swept[name][:, 0, s] - values[:, 0]).max())
        for s, made in enumerate(row_by_row(d, STEPS))
        for name, values in made.items()
    )


def in_double_precision(d: Decomposition) -> Decomposition:
    """The same network and components with twice the digits."""
    parameters = {name: tensor.double() for name, tensor in d.parameters.items()}
    return Decomposition(d.config, copy.deepcopy(d.target).double(), parameters, d.data)


def compare_computing(d: Decomposition, rounds: int, rows: int) -> None:
    """One batch, and the loop, alternating."""
    n = n_inputs(d)
    features = range(n)
    compute(d, features, STEPS, MAXIMUM)
    together, alone = [], []
    for _ in range(rounds):
        together += [cpu_seconds(lambda: compute(d, features, STEPS, MAXIMUM)) for _ in range(3)]
        alone.append(cpu_seconds(lambda: list(row_by_row(d, rows))) * n * STEPS / rows)
    batch, loop = min(together), min(alone)
    print(f"{n} features x {STEPS} magnitudes, computing only")
    print(
        f"  everything, one batch {1e3 * batch:.1f} CPU ms    row by row {1e3 * loop:.0f} CPU ms"
        f"    ratio {loop / batch:.0f}"
    )
    least = min(
        cpu_seconds(lambda: importance.compute(d, n_steps=STEPS, max_magnitude=MAXIMUM))
        for _ in range(rounds)
    )
    print(f"  causal importances only, one batch {1e3 * least:.1f} CPU ms    ratio {loop / least:.0f}")


def draw(d: Decomposition, rounds: int) -> None:
    """The unified grid at its default size into memory, and the classification of every curve."""
    sweep = compute(d, range(n_inputs(d)), STEPS, MAXIMUM)
    importances = importance.compute(d, n_steps=50)
    site = sweep.sites[0]

    def grid(**how: Any) -> Callable[[], None]:
        return lambda: sweep.plot(0, site, **how).savefig(io.BytesIO(), dpi=150, format="png")

    def importance_grid() -> None:
        importances.plot(site).savefig(io.BytesIO(), dpi=150, format="png")

    cases = {
        "unified grid, 50 neurons and 10 components (85 panels)": grid(ci_threshold=0.0),
        "unified grid, 50 neurons and 2 components (61 panels)": grid(ci_threshold=0.0, max_components=2),
        "importance grid, 100 panels x 100 components": importance_grid,
        "kinds of all responses of all features": sweep.responses,
    }
    for name, run in cases.items():
        run()
        print(f"  {name:<58}{min(cpu_seconds(run) for _ in range(rounds)):6.2f} CPU s")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", nargs="?", help="a decomposition with gates, instead of random numbers")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=400)
    words = parser.parse_args()
    tune_allocator()
    torch.set_num_threads(1)
    d = random_decomposition() if words.run is None else load(words.run)
    single, double = check_equal(d), check_equal(in_double_precision(d))
    print(
        f"largest difference between batch and loop: {double:.1e} in double, {single:.1e} in single precision"
    )
    compare_computing(d, words.rounds, words.rows)
    print("drawing")
    draw(d, words.rounds)


if __name__ == "__main__":
    main()
