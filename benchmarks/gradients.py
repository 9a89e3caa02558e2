"""Gradients of all layers and all dictionary features by one pass, against the original's pass a layer.

    python benchmarks/gradients.py [--small] [--cases layers features ...] [--folder /tmp/microtome-benchmark]

The model has the shape of Qwen2.5-0.5B (24 layers, width 896, vocabulary 151,936) and random weights; the
dictionaries have 65,536 features a layer and lie on disk (11.3 GB, removed afterwards). Every case runs in a
process of its own on one thread; CPU seconds per 256 tokens and peak memory are compared. The original's way
is measured at the first, the middle and the last layer, and summed over all layers by the trapezoid rule.
Compare ratios between machines, not seconds.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from microtome.data.text import TokenBatch
from microtome.dictionaries.formats import open_dictionary
from microtome.gradients.accumulate import Accumulator, Plan
from microtome.gradients.layer_sums import QUANTITIES
from microtome.gradients.measured import scores
from microtome.hooks import record, replace
from microtome.targets.language_model import LanguageModel, wrap

UNIT = 256  # tokens that seconds are given for
LENGTH, BATCH = 128, 2


@dataclass(frozen=True)
class Shape:
    """Sizes of the model and the dictionaries."""

    layers: int = 24
    d: int = 896
    d_mlp: int = 4864
    heads: int = 14
    vocabulary: int = 151_936
    features: int = 65_536
    k: int = 32
    tokens: int = 2048  # that ours takes for one reading


SHAPES = {"full": Shape(), "small": Shape(6, 128, 344, 4, 8192, 4096, 16, 1024)}


class NoTokenizer:
    """The ids are made here."""

    pad_token_id = 0


def model(shape: Shape, dtype: torch.dtype = torch.float32) -> LanguageModel:
    """Random weights of that shape."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.d,
        intermediate_size=shape.d_mlp,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    return wrap(Qwen2ForCausalLM(config).to(dtype), NoTokenizer(), "random")


def batches(shape: Shape, tokens: int, padded: bool = False) -> list[TokenBatch]:
    """Random ids, batches of 2 x 128; ``padded``: 61 percent padding, as paragraphs have."""
    draw = torch.Generator().manual_seed(0)
    found = []
    for start in range(0, tokens, BATCH * LENGTH):
        ids = torch.randint(1, shape.vocabulary, (BATCH, LENGTH), generator=draw)
        mask = torch.ones_like(ids)
        if padded:
            for row, length in enumerate((62, 38)):
                mask[row, length:] = 0
        found.append(TokenBatch(ids * mask, mask, [start, start + 1]))
    return found


def save_dictionaries(shape: Shape, folder: Path) -> None:
    """Random dictionaries in sparsify's layout, W_dec and W_enc in fp32."""
    for layer in range(shape.layers):
        place = folder / f"layers.{layer}.mlp"
        place.mkdir(parents=True)
        decoder = torch.empty(shape.features, shape.d).normal_(std=shape.d**-0.5)
        state = {
            "encoder.weight": decoder.clone(),
            "encoder.bias": torch.zeros(shape.features),
            "W_dec": decoder,
            "b_dec": torch.zeros(shape.d),
        }
        save_file(state, place / "sae.safetensors")
        config = {"d_in": shape.d, "num_latents": shape.features, "k": shape.k, "activation": "topk"}
        (place / "cfg.json").write_text(json.dumps(config))


# -- ours


def measure(run: Callable[[], Any], tokens: int) -> dict[str, float]:
    """CPU seconds for 256 tokens, and the process' peak memory in GB."""
    start = time.process_time()
    run()
    spent = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return {"seconds": spent * UNIT / tokens, "peak": peak}


def one_pass(shape: Shape, dtype: torch.dtype, padded: bool = False) -> dict[str, float]:
    """All layers' raw gradients."""
    lm = model(shape, dtype)
    plan = Plan(lm, {i: lm.path(i) for i in range(shape.layers)}, ["gradients"], top_tokens=0)
    todo = batches(shape, 2 * UNIT, padded)
    if padded:  # what the analysis does with samples of unequal length: the shortest batch that holds them
        todo = [TokenBatch(b.input_ids[:, :62], b.attention_mask[:, :62], b.index) for b in todo]

    def run() -> None:
        accumulator = Accumulator(plan, dict.fromkeys(plan.paths, shape.d))
        for batch in todo:
            accumulator.add([batch])

    Accumulator(plan, dict.fromkeys(plan.paths, shape.d)).add(todo[:1])  # allocator and threads warm up
    return measure(run, 2 * UNIT)


def features(shape: Shape, folder: Path, dtype: torch.dtype, attribution: bool) -> dict[str, float]:
    """All features of all layers, decoders streamed from disk."""
    lm = model(shape, dtype)
    quantities = QUANTITIES if attribution else ["gradients"]
    paths = {i: lm.path(i) for i in range(shape.layers)}
    plan = Plan(
        lm,
        paths,
        quantities,
        lambda layer: open_dictionary(folder, layer),
        dtype=dtype,
        activations=attribution,
    )
    accumulator = Accumulator(plan, dict.fromkeys(paths, shape.features))
    todo = batches(shape, shape.tokens)

    def run() -> None:
        accumulator.add(todo)
        for sums in accumulator.sums.values():
            scores(sums)

    return measure(run, shape.tokens)


# -- the original's way


def a_pass_a_layer(shape: Shape, padded: bool = False) -> dict[str, float]:
    """Cut the graph at one layer, whole loss, gradient by that layer; then the next layer."""
    lm = model(shape)
    (batch,) = batches(shape, UNIT, padded)

    def one(layer: int) -> None:
        held: list[Tensor] = []

        def cut(output: Tensor) -> Tensor:
            held.append(output.detach().clone().requires_grad_())
            return held[0]

        with replace(lm.model, {lm.path(layer): cut}):
            loss = lm.model(
                input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.input_ids
            ).loss
        (g,) = torch.autograd.grad(loss, held)
        (g * batch.attention_mask[..., None]).abs().sum((0, 1))

    return over_layers(shape, one)


def a_splice_a_layer(shape: Shape, folder: Path) -> dict[str, float]:
    """Forward, encode and decode every 4th position, forward with the splice, gradient by the features."""
    lm = model(shape)
    (batch,) = batches(shape, UNIT)
    loaded = {layer: open_dictionary(folder, layer).load() for layer in measured_layers(shape)}

    def one(layer: int) -> None:
        path, sae = lm.path(layer), loaded[layer]
        with torch.no_grad(), record(lm.model, [path]) as found:
            lm.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
        flat = found[path].reshape(-1, shape.d)
        places = torch.arange(0, len(flat), 4)
        f = sae.encode(flat[places]).detach().requires_grad_()
        x_hat = sae.decode(f)

        def splice(output: Tensor) -> Tensor:
            return output.reshape(-1, shape.d).index_copy(0, places, x_hat).view_as(output)

        with replace(lm.model, {path: splice}):
            loss = lm.model(
                input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.input_ids
            ).loss
        (g,) = torch.autograd.grad(loss, f)
        g.abs().mean(0)

    return over_layers(shape, one)


def measured_layers(shape: Shape) -> list[int]:
    """The layers that the original's way is measured at."""
    return [0, shape.layers // 2, shape.layers - 1]


def over_layers(shape: Shape, one: Callable[[int], None]) -> dict[str, float]:
    """CPU seconds for all layers of 256 tokens, by the trapezoid rule through the measured ones."""
    layers = measured_layers(shape)
    one(layers[-1])
    seconds = [
        min(measure(lambda layer=layer: one(layer), UNIT)["seconds"] for _ in range(2)) for layer in layers
    ]
    total = float(np.interp(np.arange(shape.layers), layers, seconds).sum())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return {"seconds": total, "peak": peak}


# -- the table

CASES: dict[str, Callable[[Shape, Path], dict[str, float]]] = {
    "layers, a pass a layer": lambda s, _: a_pass_a_layer(s),
    "layers, one pass, fp32": lambda s, _: one_pass(s, torch.float32),
    "layers, one pass, bf16": lambda s, _: one_pass(s, torch.bfloat16),
    "padded layers, a pass a layer": lambda s, _: a_pass_a_layer(s, padded=True),
    "padded layers, one pass, fp32": lambda s, _: one_pass(s, torch.float32, padded=True),
    "features, a splice a layer": a_splice_a_layer,
    "features, one pass, fp32": lambda s, f: features(s, f, torch.float32, attribution=False),
    "features, one pass, bf16": lambda s, f: features(s, f, torch.bfloat16, attribution=False),
    "features and attribution, fp32": lambda s, f: features(s, f, torch.float32, attribution=True),
    "features and attribution, bf16": lambda s, f: features(s, f, torch.bfloat16, attribution=True),
}
REFERENCES = {
    "layers": "layers, a pass a layer",
    "padded": "padded layers, a pass a layer",
    "features": "features, a splice a layer",
}


def main() -> None:
    text = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=text)
    parser.add_argument("--small", action="store_true", help="a small model, in a minute")
    parser.add_argument("--cases", nargs="*", default=list(REFERENCES), choices=list(REFERENCES))
    parser.add_argument("--folder", type=Path, help="where the dictionaries are written meanwhile")
    parser.add_argument("--case", choices=list(CASES), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    shape = SHAPES["small" if arguments.small else "full"]
    if arguments.case:
        torch.set_num_threads(1)
        print(json.dumps(CASES[arguments.case](shape, arguments.folder)))
        return
    folder = Path(arguments.folder or tempfile.mkdtemp(prefix="microtome-benchmark-"))
    try:
        if "features" in arguments.cases:
            save_dictionaries(shape, folder / "saes")
        table(arguments, folder / "saes")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def table(arguments: argparse.Namespace, folder: Path) -> None:
    """Run every case and print its seconds, its ratio to the original's way, and its peak memory."""
    print(f"{'case':<34}{'CPU s / 256 tokens':>19}{'times faster':>14}{'peak, GB':>10}")
    found: dict[str, float] = {}
    for name in CASES:
        kind = name.split()[0].rstrip(",")
        if kind not in arguments.cases:
            continue
        words = [sys.executable, __file__, "--case", name, "--folder", str(folder)]
        words += ["--small"] if arguments.small else []
        seen = json.loads(subprocess.check_output(words, stderr=subprocess.DEVNULL).splitlines()[-1])
        found[name] = seen["seconds"]
        ratio = found[REFERENCES[kind]] / seen["seconds"]
        print(f"{name:<34}{seen['seconds']:>19.2f}{ratio:>14.1f}{seen['peak']:>10.2f}", flush=True)
    if "features" in arguments.cases:
        print("A splice a layer counts every 4th position, one pass counts all of them.")


if __name__ == "__main__":
    main()
