"""A training step against the same equations written out, side by side in one process.

    python benchmarks/decomposition.py [CASE ...] [--rounds 8] [--stock_allocator]
    python benchmarks/decomposition.py --memory

Both sides take a whole step: losses, gradients, AdamW (SPD: also drawing the batch). They alternate; the
minimum of each side's CPU times on one thread is compared, because it is what a busy machine disturbs least.
Compare ratios between machines, not milliseconds. ``--memory`` gives each side a process of its own and
prints how far its peak lies above what the imports take.
"""

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import apd_cases
import spd_cases
import torch

from microtome.core.device import tune_allocator

Step = Callable[[], None]
SPD_SEEDS = (1, 5)
DEFAULT_SPD = ("tms_5-2", "tms_40-10", "resid_mlp1")


def cases() -> dict[str, tuple[Callable[[], tuple[Step, Step]], int]]:
    """Name to (what builds the fast and the plain step, how many seeds share the step)."""
    table: dict[str, tuple[Callable[[], tuple[Step, Step]], int]] = {}
    for name in spd_cases.CASES:
        for k in SPD_SEEDS:
            table[f"spd_{name}_x{k}"] = (lambda name=name, k=k: spd_cases.steps_of(name, k), k)
    for name in apd_cases.CASES:
        table[f"apd_{name}"] = (lambda name=name: apd_cases.steps_of(name), 1)
    return table


def default_cases() -> list[str]:
    """The configurations whose reference figures are public."""
    spd = [f"spd_{name}_x{k}" for name in DEFAULT_SPD for k in SPD_SEEDS]
    return spd + [f"apd_{name}" for name in apd_cases.CASES]


def cpu_ms(step: Step) -> float:
    """CPU milliseconds of one step."""
    start = time.process_time()
    step()
    return 1e3 * (time.process_time() - start)


def compare(name: str, rounds: int) -> None:
    """One line of the table."""
    build, seeds = cases()[name]
    fast, plain = build()
    fast(), plain()
    ours, theirs = [], []
    for _ in range(rounds):
        ours += [cpu_ms(fast) for _ in range(4)]
        theirs.append(cpu_ms(plain))
    quick, slow = min(ours) / seeds, min(theirs) / seeds
    print(f"{name:<22}{quick:>12.2f}{slow:>14.1f}{slow / quick:>9.1f}", flush=True)


def peak_mb() -> float:
    """Largest resident size of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure_memory(name: str, side: str) -> None:
    """Run a few steps of one side and print its peak above the imports."""
    base = peak_mb()
    build, _ = cases()[name]
    step = build()[0 if side == "fast" else 1]
    for _ in range(4):
        step()
    print(f"{peak_mb() - base:.0f}")


def memory_table(names: list[str]) -> None:
    """Peaks of both sides, each from a fresh process."""
    print(f"{'case':<22}{'fast, MB':>12}{'plain, MB':>14}{'ratio':>9}")
    for name in names:
        fast, plain = (
            float(subprocess.check_output([sys.executable, __file__, name, "--side", side]))
            for side in ("fast", "plain")
        )
        print(f"{name:<22}{fast:>12.0f}{plain:>14.0f}{plain / max(fast, 1.0):>9.1f}", flush=True)


def main() -> None:
    text = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=text)
    parser.add_argument("cases", nargs="*", default=default_cases(), metavar="CASE")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--stock_allocator", action="store_true", help="leave glibc's allocator as it is")
    parser.add_argument("--side", choices=("fast", "plain"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    unknown = [name for name in arguments.cases if name not in cases()]
    if unknown:
        parser.error(f"{unknown[0]}: no such case; choose from {', '.join(cases())}")
    torch.set_num_threads(1)
    if arguments.side:
        measure_memory(arguments.cases[0], arguments.side)
        return
    if arguments.memory:
        memory_table(arguments.cases)
        return
    if not arguments.stock_allocator:
        tune_allocator()
    print(f"{'case':<22}{'fast, ms':>12}{'written out':>14}{'ratio':>9}   (CPU ms a step and seed)")
    for name in arguments.cases:
        compare(name, arguments.rounds)


if __name__ == "__main__":
    main()
