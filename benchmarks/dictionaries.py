"""A dictionary's training step beside a dense one written out, and beside other libraries where installed.

    python benchmarks/dictionaries.py [--rounds 8]
    python benchmarks/dictionaries.py --quality [--steps 600]

Every side takes a whole step on the same batch: losses, gradients, decoder rows of length 1, Adam. TopK:
896 inputs to 8,192 features, 32 of them active, 1,024 inputs a step, one thread. They alternate in a process
and the least CPU time of each is compared, because it is what a busy machine disturbs least. Compare ratios
between machines, not milliseconds. sparsify (`eai-sparsify`), `dictionary-learning` and `sae-lens` join in
where they can be imported: install them in an environment of their own.

``--quality``: the held-out FVU after the same number of steps on planted data (2,048 features, 16 active, of
1,024 true ones in 256 dimensions), each side at its best of five learning rates.
"""

import argparse
import contextlib
import importlib.util
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from microtome.core.device import tune_allocator
from microtome.core.seeds import generator
from microtome.dictionaries.planted import PlantedData
from microtome.dictionaries.train_config import DictionaryTraining
from microtome.dictionaries.trainer import DictionaryTrainer

RATES = (1e-3, 2e-3, 3e-3, 5e-3, 8e-3)


@dataclass
class Side:
    """One way to train: a step on a batch, and the reconstruction after it."""

    step: Callable[[Tensor], Any]
    reconstruct: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Task:
    """Sizes of a dictionary and its training."""

    d: int
    n_features: int
    k: int
    batch: int
    steps: int
    lr: float


def ours(task: Task, first: Tensor, **settings: object) -> Side:
    """Microtome's trainer."""
    config = DictionaryTraining.from_mapping(
        {
            "architecture": "topk",
            "n_features": task.n_features,
            "k": task.k,
            "steps": task.steps,
            "batch_size": task.batch,
            "lr": task.lr,
            **settings,
        }
    )
    trainer = DictionaryTrainer("a", config.dictionary(task.d), config, first)
    return Side(trainer.step, lambda x: trainer.finished()(x))


class Dense(nn.Module):
    """A TopK dictionary as one would write it down."""

    def __init__(self, task: Task, first: Tensor) -> None:
        super().__init__()
        rows = nn.functional.normalize(torch.randn(task.n_features, task.d), dim=1)
        self.k = task.k
        self.factor = task.d**0.5 / first.norm(dim=1).mean()
        self.W_dec, self.W_enc = nn.Parameter(rows.clone()), nn.Parameter(rows.T.contiguous())
        self.b_enc = nn.Parameter(torch.zeros(task.n_features))
        self.b_dec = nn.Parameter((first * self.factor).mean(0))

    def forward(self, x: Tensor) -> Tensor:
        f = ((x - self.b_dec) @ self.W_enc + self.b_enc).relu()
        values, indices = f.topk(self.k, dim=-1)
        return torch.zeros_like(f).scatter(-1, indices, values) @ self.W_dec + self.b_dec


def dense(task: Task, first: Tensor) -> Side:
    """The plain way: autograd through arrays of all features."""
    model = Dense(task, first)
    adam = torch.optim.Adam(model.parameters(), lr=task.lr)

    def step(x: Tensor) -> None:
        x = x * model.factor
        adam.zero_grad()
        (model(x) - x).square().mean().backward()
        with torch.no_grad():
            W, g = model.W_dec, model.W_dec.grad
            assert g is not None
            g -= (g * W).sum(1, keepdim=True) * W
        adam.step()
        with torch.no_grad():
            model.W_dec /= model.W_dec.norm(dim=1, keepdim=True)

    return Side(step, lambda x: model(x * model.factor) / model.factor)


def sparsify_side(task: Task, first: Tensor) -> Side:
    """EleutherAI's sparsify with Adam."""
    from sparsify import SparseCoder, SparseCoderConfig

    coder = SparseCoder(task.d, SparseCoderConfig(num_latents=task.n_features, k=task.k))
    factor = task.d**0.5 / first.norm(dim=1).mean()
    coder.b_dec.data = (first * factor).mean(0)
    adam = torch.optim.Adam(coder.parameters(), lr=task.lr)

    def step(x: Tensor) -> None:
        adam.zero_grad()
        coder(x * factor).fvu.backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        adam.step()
        coder.set_decoder_norm_to_unit_norm()

    return Side(step, lambda x: coder(x * factor).sae_out / factor)


def dictionary_learning_side(task: Task, first: Tensor) -> Side:
    """dictionary_learning's TopKTrainer."""
    from dictionary_learning.trainers.top_k import TopKTrainer

    trainer = TopKTrainer(
        steps=task.steps,
        activation_dim=task.d,
        dict_size=task.n_features,
        k=task.k,
        layer=0,
        lm_name="none",
        lr=task.lr,
        warmup_steps=max(task.steps // 20, 1),
        decay_start=task.steps * 4 // 5,
        device="cpu",
    )
    factor = task.d**0.5 / first.norm(dim=1).mean()
    numbers = iter(range(10**9))
    return Side(
        lambda x: trainer.update(next(numbers), x * factor), lambda x: trainer.ae(x * factor) / factor
    )


def saelens_side(task: Task, first: Tensor) -> Side:
    """SAELens' TopK, with what its trainer does in a step."""
    from sae_lens.saes.sae import TrainStepInput
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig

    sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=task.d, d_sae=task.n_features, k=task.k))
    factor = task.d**0.5 / first.norm(dim=1).mean()
    adam = torch.optim.Adam(sae.parameters(), lr=task.lr)
    fired, since = torch.zeros(task.n_features), torch.zeros(task.n_features)

    def step(x: Tensor) -> None:
        sae.train()
        inputs = TrainStepInput(
            sae_in=x * factor,
            coefficients={},
            dead_neuron_mask=None,
            n_training_steps=0,
            is_logging_step=False,
        )
        out = sae.training_forward_pass(step_input=inputs)
        with torch.no_grad():
            acts = out.feature_acts.bool().float()
            fired.add_(acts.sum(0))
            since.add_(1)[acts.sum(-2).bool()] = 0
        out.loss.backward()
        torch.nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
        adam.step()
        adam.zero_grad()

    return Side(step, lambda x: sae(x * factor) / factor)


SIDES: dict[str, Callable[[Task, Tensor], Side]] = {
    "microtome": ours,
    "microtome, bfloat16": lambda task, first: ours(task, first, encoder_dtype="bfloat16"),
    "microtome, BatchTopK": lambda task, first: ours(task, first, architecture="batch_topk"),
    "dense, written out": dense,
}
PEERS = {"sparsify": sparsify_side, "dictionary_learning": dictionary_learning_side, "sae_lens": saelens_side}


def contestants() -> dict[str, Callable[[Task, Tensor], Side]]:
    """Our sides, and the libraries that can be imported."""
    there: dict[str, Callable[[Task, Tensor], Side]] = dict(SIDES)
    for name, build in PEERS.items():
        if importlib.util.find_spec(name) is None:
            print(f"({name} is not installed)")
            continue
        try:
            with quiet():
                importlib.import_module(name)
            there[name] = build
        except Exception as error:
            print(f"({name} cannot be imported: {error})")
    return there


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what libraries print while they are imported."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):  # noqa: PTH123
        yield


def compare_steps(rounds: int) -> None:
    """CPU time of a step of each side."""
    task = Task(d=896, n_features=8192, k=32, batch=1024, steps=1000, lr=1e-3)
    torch.manual_seed(0)
    mixing = torch.randn(task.d, task.d) / task.d**0.5
    x = torch.randn(task.batch, task.d) @ mixing
    sides = {name: build(task, x) for name, build in contestants().items()}
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            start = time.process_time()
            side.step(x)
            times[name].append(time.process_time() - start)
    base = min(times["microtome"][1:])
    print(f"{'':<24}{'CPU ms a step':>14}{'ratio':>8}")
    for name, spent in times.items():
        best = min(spent[1:])
        print(f"{name:<24}{1e3 * best:>14.0f}{best / base:>8.2f}")


def compare_quality(steps: int) -> None:
    """Held-out FVU of each side at its best learning rate, after the same steps."""
    data = PlantedData()
    draws = generator(1, stream="benchmark")
    batches = [data.batch(512, draws) for _ in range(steps)]
    first, held_out = data.batch(4096, draws), data.batch(8192, draws)
    variance = (held_out - held_out.mean(0)).square().sum()
    print(f"{'':<24}{'FVU':>8}{'lr':>8}{'CPU s':>8}")
    for name, build in contestants().items():
        found = []
        for lr in RATES:
            torch.manual_seed(0)
            side = build(Task(256, 2048, 16, 512, steps, lr), first)
            start = time.process_time()
            for x in batches:
                side.step(x)
            spent = time.process_time() - start
            with torch.no_grad():
                fvu = float((side.reconstruct(held_out) - held_out).square().sum() / variance)
            found.append((fvu, lr, spent))
        fvu, lr, spent = min(found)
        print(f"{name:<24}{fvu:>8.3f}{lr:>8.0e}{spent:>8.1f}", flush=True)


def main() -> None:
    """Read the words and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--quality", action="store_true")
    parser.add_argument("--steps", type=int, default=600)
    words = parser.parse_args()
    torch.set_num_threads(1)
    tune_allocator()
    if words.quality:
        compare_quality(words.steps)
    else:
        compare_steps(words.rounds)


if __name__ == "__main__":
    main()
