"""The pictures of a comparison that need the kept states: attention, filters, entropy over training."""

import copy

import numpy as np
from matplotlib.figure import Figure
from torch import nn

from microtome.dynamics.before_after import AnalysisResult
from microtome.dynamics.before_after_plots import entropy_figure
from microtome.dynamics.comparison_files import attention_figures, filter_figures
from microtome.dynamics.heads import MOST_SAMPLES
from microtome.dynamics.probing import run_probe
from microtome.dynamics.run import DynamicsRun
from microtome.dynamics.run_plots import uneven
from microtome.measures.attention import head_entropies

MOST_STATES = 40  # whose attention is computed for a picture over time


def state_figures(
    result: AnalysisResult,
    run: DynamicsRun,
    other: DynamicsRun,
    model: nn.Module | None,
    jump_steps: tuple[int, ...] = (),
) -> dict[str, Figure]:
    """Attention patterns, filters and the entropy of attention over training, where there are any."""
    steps = (result.measurements["states"]["before"], result.measurements["states"]["after"])
    states = [r.checkpoint(step) for r, step in zip((run, other), steps, strict=True)]
    names = (f"step {steps[0]}", f"step {steps[1]}")
    figures = filter_figures(states[0], states[1], names)
    if not result.measurements.get("attention"):
        return figures
    network = model if model is not None else run.model()
    if network is None:
        return figures
    network = copy.deepcopy(network)
    seen = [run_probe(network, state, run.probe()).attention for state in states]
    figures |= attention_figures(seen[0], seen[1], names)
    kept, entropies, uniform = attention_over_training(run, network)
    if len(kept) > 2:
        figures["attention_entropy_evolution"] = entropy_figure(
            entropies,
            kept,
            jump_steps or steps,
            uniform,
            log_steps=uneven(np.array(kept)),
            mark="jump" if jump_steps else "compared",
        )
    return figures


def attention_over_training(
    run: DynamicsRun, model: nn.Module | None = None
) -> tuple[list[int], dict[str, list[float]], float | None]:
    """Steps, mean entropy (nats) of each attending module's heads at every kept state, entropy if even.

    At most 40 states, evenly chosen. Head by head where a single module attends. The entropy of even
    attention is None where patterns have different lengths.
    """
    network = copy.deepcopy(model) if model is not None else run.model()
    kept = run.checkpoint_steps()
    if network is None or not kept:
        return [], {}, None
    chosen = [kept[i] for i in sorted(set(np.linspace(0, len(kept) - 1, MOST_STATES).round().astype(int)))]
    probe = run.probe()
    series: dict[str, list[float]] = {}
    keys = set()
    for step in chosen:
        patterns = run_probe(network, run.checkpoint(step), probe).attention
        for name, pattern in patterns.items():
            keys.add(pattern.shape[-1])
            heads = head_entropies(pattern[:MOST_SAMPLES], "probabilities").tolist()
            if len(patterns) == 1:
                for head, value in enumerate(heads):
                    series.setdefault(f"{name or 'head'} {head}", []).append(value)
            else:
                series.setdefault(name, []).append(float(np.nanmean(heads)))
    whole = {name: values for name, values in series.items() if len(values) == len(chosen)}
    return chosen, whole, float(np.log(keys.pop())) if len(keys) == 1 else None
