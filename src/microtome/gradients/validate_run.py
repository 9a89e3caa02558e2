"""The validation of a run: its samples, its layers, its files."""

import numpy as np

from microtome.core.errors import MicrotomeError
from microtome.core.progress import progress
from microtome.core.runs import RunFolder
from microtome.core.seeds import stream_seed
from microtome.data.text import TokenBatch, tokenize
from microtome.gradients.ablation import Identity, LayerIntervention
from microtome.gradients.accumulate import Accumulator, Plan
from microtome.gradients.chunks import batches_of, chunked
from microtome.gradients.config import GradientConfig
from microtome.gradients.layer_sums import QUANTITIES
from microtome.gradients.measured import scores
from microtome.gradients.names import Kind
from microtome.gradients.setup import Prepared
from microtome.gradients.validation import Validation, validate_layer
from microtome.gradients.validation_plots import validation_figure

# Tokens on which ablations are measured. A raw dimension acts on every one of them, a feature on few.
TOKENS = {"features": 6144, "layers": 1024}


def validate_run(
    prepared: Prepared, config: GradientConfig, kind: Kind, folder: RunFolder | None, show: bool = True
) -> Validation:
    """Ablate ``config.validate_top`` features of every layer on the first samples of the run.

    Writes ``results/validation_layer_<i>.json`` and ``layer_<i>_validation.png``. Raises ``MicrotomeError``
    when no layer has features that fire often enough.
    """
    plan = prepared.plan
    batches = _first(prepared, config, TOKENS[kind])
    quantities = QUANTITIES if kind == "features" else ["gradients", "attribution", "values"]
    plain = Plan(plan.lm, plan.paths, quantities, plan.dictionaries, top_tokens=0)
    accumulator = Accumulator(plain, prepared.widths)
    for chunk in chunked(batches, config.max_tokens_in_memory):
        accumulator.add(chunk)
    found = {}
    with progress("validate by ablation", 2 * len(prepared.layers), enabled=show) as bar:
        done = 0

        def step() -> None:
            nonlocal done
            done += 1
            bar.update(done)

        for layer, path in plan.paths.items():
            source = plan.dictionaries(layer) if plan.dictionaries else Identity(prepared.widths[layer])
            intervention = LayerIntervention(plan.lm, path, source, batches)
            sums = accumulator.sums[layer]
            rng = np.random.default_rng(stream_seed(config.seed, f"validate {layer}"))
            positions = int(sums.mass.bins[0].sum())
            one = validate_layer(layer, intervention, scores(sums), positions, config.validate_top, rng, step)
            if one is not None:
                found[layer] = one
    if not found:
        raise MicrotomeError("validate: no feature fires often enough to be removed; give more samples")
    validation = Validation(found, "feature" if kind == "features" else "dimension")
    if folder is not None:
        _save(validation, folder, config)
    return validation


def _save(validation: Validation, folder: RunFolder, config: GradientConfig) -> None:
    for layer, one in validation.layers.items():
        told = {
            "layer": layer,
            "tokens": one.tokens,
            "loss": one.loss,
            "chance": one.chance,
            "spearman": one.spearman,
            "ablations": one.rows(),
            "nudges": [dict(zip(("factor", "change", "predicted"), row, strict=True)) for row in one.nudges],
            "removed_together": {
                name: [dict(zip(("features", "change", "predicted"), row, strict=True)) for row in rows]
                for name, rows in one.removed.items()
            },
        }
        folder.save_json(f"results/validation_layer_{layer}.json", told)
        if not config.no_plots:
            folder.save_figure(f"layer_{layer}_validation", validation_figure(one, validation.noun), where="")


def _first(prepared: Prepared, config: GradientConfig, tokens: int) -> list[TokenBatch]:
    """The first samples of the run, up to a number of tokens."""
    lm, few, n = prepared.plan.lm, [], 0
    for text in prepared.texts:
        few.append(text)
        n += len(tokenize([text], lm.tokenizer, config.max_length)[0])
        if n >= tokens:
            break
    return batches_of(few, lm, max_length=config.max_length, batch_size=max(config.batch_size, 16))
