"""How much faster two gloo processes are than one on the same global batch.

    python benchmarks/two_processes.py [CASE] [--steps 5] [--processes 2]

Every process has one thread and takes its rows of the batch; gradients are summed after every step.
Efficiency by the wall clock is the time of one process over that of n, divided by n: it needs n free cores.
Efficiency by CPU time is that of one process over that of all n together, which other work disturbs less:
what it lacks is work that every process does (optimiser, faithfulness) and messages.
"""

import argparse
import os
import subprocess
import sys
import time

import torch
from language_cases import CASES

from microtome.core.device import tune_allocator
from microtome.core.distributed import Processes, all_reduce_sum, processes
from microtome.decomposition.full_spd import FullSPD


def measure(name: str, steps: int, mine: Processes) -> tuple[float, float]:
    """Seconds of a step by the wall clock (the median), and CPU seconds of it over all processes."""
    case = CASES[name]
    method = case.method(batch_size=case.batch)
    method = FullSPD(method.target, method.config, [0], processes=mine)
    optimizer = torch.optim.AdamW(list(method.parameters.values()), lr=1e-3, weight_decay=0.0, fused=True)
    draws = torch.Generator().manual_seed(0)
    walls: list[float] = []
    cpu = 0.0
    for i in range(steps + 1):
        wall, start = time.perf_counter(), time.process_time()
        method.compute(case.batch_of(draws), i)
        optimizer.step()
        if i:  # the first step fills caches
            walls.append(time.perf_counter() - wall)
            cpu += time.process_time() - start
    everyone = all_reduce_sum(torch.tensor([cpu]), mine)
    return sorted(walls)[len(walls) // 2], float(everyone) / steps


def child(name: str, steps: int) -> None:
    """One of the processes that torchrun started; the first prints what all measured."""
    torch.set_num_threads(1)
    tune_allocator()
    with processes() as mine:
        wall, cpu = measure(name, steps, mine)
        if mine.main:
            print(f"{wall} {cpu}")


def launched(name: str, steps: int, n: int) -> tuple[float, float]:
    """Wall and CPU seconds of a step under ``n`` processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n}"]
    command += [__file__, name, "--steps", str(steps), "--child"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    wall, cpu = told.strip().splitlines()[-1].split()
    return float(wall), float(cpu)


def main() -> None:
    text = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=text)
    parser.add_argument("case", nargs="?", default="llama_width128", choices=CASES)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.case, arguments.steps)
        return
    n = arguments.processes
    one, own_cpu = launched(arguments.case, arguments.steps, 1)
    many, all_cpu = launched(arguments.case, arguments.steps, n)
    print(f"{arguments.case}: {1e3 * one:.0f} ms a step alone, {1e3 * many:.0f} ms by {n} processes")
    print(f"efficiency {one / many / n:.2f} by the wall clock, {own_cpu / all_cpu:.2f} by CPU time")
    busy = os.getloadavg()[0]
    if busy > n + 0.5:
        print(f"other work has {busy:.0f} processes running here: the wall clock says little")


if __name__ == "__main__":
    main()
