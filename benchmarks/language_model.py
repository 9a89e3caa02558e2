"""What a decomposition step of a language model costs, and where the time goes.

    python benchmarks/language_model.py [CASE ...] [--rounds 5]
    python benchmarks/language_model.py --losses          # each loss on its own
    python benchmarks/language_model.py --where           # shares of the step by part
    python benchmarks/language_model.py --bfloat16        # autocast_bf16 against single precision

The unit is the target's plain training step: forward, cross-entropy and backward for all its weights. Both
alternate in one process on one thread; the smallest CPU times are compared. Parts are timed without what is
timed inside them.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from language_cases import CASES, Case
from torch import nn

from microtome.core.device import tune_allocator
from microtome.decomposition import full_spd, step
from microtome.decomposition.full_spd import FullSPD
from microtome.decomposition.importance_functions import ImportanceFunctions
from microtome.decomposition.masks import Draws
from microtome.decomposition.site_masks import MaskedNetwork

Step = Callable[[], None]
EACH = {
    "stochastic": ({"name": "stochastic_recon", "coeff": 1.0},),
    "stochastic subset": ({"name": "stochastic_recon", "coeff": 1.0, "sites": "subset"},),
    "stochastic layerwise": ({"name": "stochastic_recon", "coeff": 1.0, "sites": "layerwise"},),
    "CI masked": ({"name": "ci_masked_recon", "coeff": 1.0},),
    "PGD, 1 ascent": ({"name": "pgd_recon", "coeff": 1.0, "n_steps": 1},),
    "hidden activations": ({"name": "hidden_acts_recon", "coeff": 1.0},),
    "importance minimality": ({"name": "importance_minimality", "coeff": 1.0},),
    "faithfulness": ({"name": "faithfulness", "coeff": 1.0},),
}


class Parts:
    """CPU seconds by part, each without what is timed inside it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._stack: list[list[Any]] = []

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time spent inside belongs to ``name``."""
        self._stack.append([time.process_time(), 0.0, name])
        try:
            yield
        finally:
            start, inside, _ = self._stack.pop()
            spent = time.process_time() - start
            self.seconds[name] = self.seconds.get(name, 0.0) + spent - inside
            if self._stack:
                self._stack[-1][1] += spent

    def wrap(self, owner: Any, attribute: str, name: str, within: str = "") -> None:
        """Time every call of ``owner.attribute``; calls inside the part ``within`` stay part of it."""
        inner = getattr(owner, attribute)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.part(within if within and self._stack and self._stack[-1][2] == within else name):
                return inner(*args, **kwargs)

        setattr(owner, attribute, timed)


def plain_step(case: Case) -> Step:
    """Forward, cross-entropy and backward of the model itself."""
    model, draws = case.model(), torch.Generator().manual_seed(0)

    def run() -> None:
        ids = case.batch_of(draws)[0]
        logits = model(ids, use_cache=False).logits[:, :-1]
        model.zero_grad()
        nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()

    return run


def spd_step(case: Case, method: FullSPD) -> Step:
    """A whole step: batch, losses, gradients, AdamW."""
    optimizer = torch.optim.AdamW(list(method.parameters.values()), lr=1e-3, weight_decay=0.0, fused=True)
    draws = torch.Generator().manual_seed(0)

    def run() -> None:
        method.compute(case.batch_of(draws), 0)
        optimizer.step()

    return run


def cpu_ms(run: Step) -> float:
    """CPU milliseconds of one step."""
    start = time.process_time()
    run()
    return 1e3 * (time.process_time() - start)


def alternate(runs: dict[str, Step], rounds: int) -> dict[str, float]:
    """The smallest CPU milliseconds of each, taking turns."""
    for run in runs.values():
        run()
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(rounds):
        for name, run in runs.items():
            best[name] = min(best[name], cpu_ms(run))
    return best


def compare(names: list[str], rounds: int) -> None:
    """The cost of a step of each case in units of the plain step."""
    print(f"{'case':<22}{'plain, ms':>11}{'step, ms':>11}{'ratio':>8}")
    for name in names:
        case = CASES[name]
        best = alternate({"plain": plain_step(case), "step": spd_step(case, case.method())}, rounds)
        ratio = best["step"] / best["plain"]
        print(f"{name:<22}{best['plain']:>11.1f}{best['step']:>11.1f}{ratio:>8.1f}", flush=True)


def compare_losses(name: str, rounds: int) -> None:
    """The cost of a step with one loss only."""
    case = CASES[name]
    runs = {"plain": plain_step(case)}
    runs |= {label: spd_step(case, case.method(losses)) for label, losses in EACH.items()}
    best = alternate(runs, rounds)
    print(f"{name}: in units of the plain step ({best['plain']:.1f} ms)")
    for label in EACH:
        print(f"  {label:<24}{best[label] / best['plain']:>6.1f}")


def compare_precision(name: str, rounds: int) -> None:
    """autocast_bf16 against single precision."""
    case = CASES[name]
    runs = {str(on): spd_step(case, case.method(autocast_bf16=on)) for on in (False, True)}
    best = alternate(runs, rounds)
    print(f"{name:<22}single {best['False']:.1f} ms, bfloat16 {best['True']:.1f} ms, "
          f"ratio {best['True'] / best['False']:.2f}", flush=True)  # fmt: skip


def where(name: str, rounds: int) -> None:
    """Shares of the step by part."""
    case, parts = CASES[name], Parts()
    parts.wrap(MaskedNetwork, "record", "target's pass")
    parts.wrap(ImportanceFunctions, "__call__", "causal importances")
    parts.wrap(Draws, "uniform", "random numbers")
    parts.wrap(MaskedNetwork, "run", "masked passes")
    parts.wrap(step, "reconstruction_loss", "output loss")
    parts.wrap(FullSPD, "_through_functions", "backward of causal importances")
    parts.wrap(torch.autograd, "backward", "backward of losses", within="backward of causal importances")
    parts.wrap(full_spd, "make_step", "sigmoids, inner activations")
    run = spd_step(case, case.method())
    run()
    parts.seconds.clear()
    for _ in range(rounds):
        with parts.part("optimiser and the rest"):
            run()
    total = sum(parts.seconds.values())
    print(f"{name}: {1e3 * total / rounds:.1f} ms a step")
    for part, seconds in sorted(parts.seconds.items(), key=lambda item: -item[1]):
        print(f"  {part:<34}{100 * seconds / total:>5.1f} %")


def main() -> None:
    text = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=text)
    parser.add_argument("cases", nargs="*", default=list(CASES), metavar="CASE")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--losses", action="store_true")
    parser.add_argument("--bfloat16", action="store_true")
    parser.add_argument("--where", action="store_true", help="shares of the step by part")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.cases if name not in CASES]
    if unknown:
        parser.error(f"{unknown[0]}: no such case; choose from {', '.join(CASES)}")
    torch.set_num_threads(1)
    tune_allocator()
    if not (arguments.losses or arguments.bfloat16 or arguments.where):
        compare(arguments.cases, arguments.rounds)
    for name in arguments.cases:
        if arguments.losses:
            compare_losses(name, arguments.rounds)
        if arguments.bfloat16:
            compare_precision(name, arguments.rounds)
        if arguments.where:
            where(name, arguments.rounds)


if __name__ == "__main__":
    main()
