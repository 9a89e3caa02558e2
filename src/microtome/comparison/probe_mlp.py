"""MLP probes of all layers, networks and folds at once: one batched product for hundreds of small fits."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from microtome.core.seeds import generator, stream_seed

EVERY = 5  # steps between looks at the inner split
PATIENCE = 4  # looks without improvement after which a probe is done
INNER_SHARE = 5  # one training image of this many is kept for stopping
BATCH = 512  # most images in a step
AT_ONCE = 2**24  # numbers of the images gathered for one step


@dataclass(frozen=True)
class MLPShape:
    """Sizes and training of the probes; ``decay`` is decoupled from the gradient (AdamW)."""

    hidden: int = 64
    dimensions: int = 64
    steps: int = 200
    lr: float = 0.01
    decay: float = 1.0


@dataclass(frozen=True)
class MLPProbes:
    """Was each held-out image named rightly, and the curves of training, means over folds."""

    correct: Bool[np.ndarray, "k n"]
    steps: Int[np.ndarray, " t"]
    train_loss: Float[np.ndarray, "k t"]
    inner_loss: Float[np.ndarray, "k t"]


def mlp_inputs(x: Float[Tensor, "n r"], dimensions: int) -> Float[Tensor, "n p"]:
    """The leading coordinates of a layer as a probe sees them: unit mean square, filled up with zeros."""
    kept = x[:, :dimensions]
    kept = kept / kept.square().mean().sqrt().clamp_min(1e-30)
    return torch.nn.functional.pad(kept, (0, dimensions - kept.shape[1])).float()


def batched_mlp(
    x: Float[Tensor, "k n p"],
    labels: Int[np.ndarray, " n"],
    folds: Int[np.ndarray, " n"],
    n_classes: int,
    shape: MLPShape,
    seed: int,
) -> MLPProbes:
    """One ReLU layer for each of ``k`` inputs and each fold, trained together by Adam.

    A fifth of each fold's training images, the same for every input, decides where its probe stops: the
    weights with the least cross-entropy there predict the held-out fold. Probes of all inputs start from
    the same weights and see the same batches, so that none is favoured.
    """
    per = (int(folds.max()) + 1) * min(BATCH, x.shape[1]) * x.shape[2]
    block = max(1, AT_ONCE // per)
    done = [
        _Training(x[at : at + block], labels, folds, n_classes, shape, seed).run()
        for at in range(0, len(x), block)
    ]
    return done[0] if len(done) == 1 else _joined(done)


class _Training:
    """The probes of one block of inputs."""

    def __init__(
        self,
        x: Tensor,
        labels: np.ndarray,
        folds: np.ndarray,
        n_classes: int,
        shape: MLPShape,
        seed: int,
    ) -> None:
        self.x, self.shape = x, shape
        self.y = torch.from_numpy(np.ascontiguousarray(labels))
        self.folds, self.n_folds = folds, int(folds.max()) + 1
        self.train, self.inner = _splits(folds, seed)
        self.weights = _start(len(x), self.n_folds, shape, n_classes, seed)
        self.best = [w.detach().clone() for w in self.weights]
        self.least = torch.full((len(x), self.n_folds), float("inf"))
        self.waited = torch.zeros_like(self.least)
        self.draw = generator(seed, stream="mlp batches")

    def run(self) -> MLPProbes:
        optimiser = torch.optim.Adam(self.weights, lr=self.shape.lr, fused=True)
        inner, train = self._gather(self.inner[:, :BATCH]), self._gather(self.train[:, :BATCH])
        curves: list[tuple[Tensor, Tensor]] = []
        for step in range(self.shape.steps + 1):
            if self.train.shape[1] > BATCH:
                chosen = torch.randperm(self.train.shape[1], generator=self.draw)[:BATCH]
                train = self._gather(self.train[:, chosen])
            optimiser.zero_grad(set_to_none=True)
            loss = _loss(*train, self.weights)
            if step % EVERY == 0:
                with torch.no_grad():
                    held = _loss(*inner, self.weights)
                curves.append((loss.detach().mean(1), held.mean(1)))
                if self._keep_best(held):
                    break
            loss.sum().backward()
            with torch.no_grad():
                for matrix in self.weights[::2]:
                    matrix.mul_(1 - self.shape.lr * self.shape.decay)
            optimiser.step()
        train_loss, inner_loss = (torch.stack(one, 1).double().numpy() for one in zip(*curves, strict=True))
        return MLPProbes(self._predict(), np.arange(len(curves)) * EVERY, train_loss, inner_loss)

    def _keep_best(self, loss: Tensor) -> bool:
        """Remember the weights of probes that improved; true when none has for a while."""
        better = loss < self.least - 1e-4
        self.least = torch.where(better, loss, self.least)
        self.waited = torch.where(better, 0.0, self.waited + 1)
        for kept, now in zip(self.best, self.weights, strict=True):
            kept[better] = now.detach()[better]
        return bool((self.waited >= PATIENCE).all())

    def _gather(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        return self.x[:, chosen], self.y[chosen].expand(len(self.x), -1, -1)

    def _predict(self) -> np.ndarray:
        correct = torch.zeros(self.x.shape[:2], dtype=torch.bool)
        with torch.no_grad():
            for fold in range(self.n_folds):
                held = torch.from_numpy(np.flatnonzero(self.folds == fold))
                logits = _forward(self.x[:, None, held], [w[:, fold : fold + 1] for w in self.best])
                correct[:, held] = logits[:, 0].argmax(-1) == self.y[held]
        return correct.numpy()


def _splits(folds: np.ndarray, seed: int) -> tuple[Tensor, Tensor]:
    """Training and inner images of every fold ``[F, m]``; folds of one image more leave it aside."""
    n_folds = int(folds.max()) + 1
    random = np.random.default_rng(stream_seed(seed, "mlp inner split"))
    rests = [random.permutation(np.flatnonzero(folds != fold)) for fold in range(n_folds)]
    size = min(len(rest) for rest in rests)
    kept = torch.from_numpy(np.stack([rest[:size] for rest in rests]))
    n_inner = max(1, size // INNER_SHARE)
    return kept[:, n_inner:], kept[:, :n_inner]


def _start(k: int, n_folds: int, shape: MLPShape, n_classes: int, seed: int) -> list[Tensor]:
    """Weights and biases of both layers, ``[k, F, ...]``, the same for every input."""
    draw = generator(seed, stream="mlp start")

    def matrix(rows: int, columns: int) -> Tensor:
        one = torch.randn(1, n_folds, rows, columns, generator=draw) * (2 / rows) ** 0.5
        return one.expand(k, -1, -1, -1).clone().requires_grad_()

    def offset(columns: int) -> Tensor:
        return torch.zeros(k, n_folds, 1, columns, requires_grad=True)

    first, second = matrix(shape.dimensions, shape.hidden), matrix(shape.hidden, n_classes)
    with torch.no_grad():
        second.mul_(0.1)  # starts near the uniform forecast
    return [first, offset(shape.hidden), second, offset(n_classes)]


def _forward(x: Tensor, weights: list[Tensor]) -> Tensor:
    first, offset_first, second, offset_second = weights
    return torch.relu(x @ first + offset_first) @ second + offset_second


def _loss(x: Tensor, y: Tensor, weights: list[Tensor]) -> Tensor:
    """Mean cross-entropy of every probe, nats, ``[k, F]``."""
    logits = _forward(x, weights)
    return (logits.logsumexp(-1) - logits.gather(-1, y[..., None])[..., 0]).mean(-1)


def _joined(blocks: list[MLPProbes]) -> MLPProbes:
    """Results of blocks that stopped at different steps: curves go on at their last value."""
    longest = max((one.steps for one in blocks), key=len)

    def all_of(curve: str) -> np.ndarray:
        parts = [getattr(one, curve) for one in blocks]
        return np.concatenate([np.pad(p, ((0, 0), (0, len(longest) - p.shape[1])), "edge") for p in parts])

    correct = np.concatenate([one.correct for one in blocks])
    return MLPProbes(correct, longest, all_of("train_loss"), all_of("inner_loss"))
