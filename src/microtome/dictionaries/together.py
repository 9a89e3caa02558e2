"""Many small TopK dictionaries of one shape trained side by side, each on activations of its own.

The mathematics of ``trainer.py`` with a leading axis: for dictionaries of a few hundred features a step costs
what the calls cost, not the arithmetic, so that ten together take little longer than one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from microtome.core.distributed import Processes
from microtome.core.errors import Diverged, bad_value
from microtome.core.seeds import generator
from microtome.dictionaries.dictionary import Dictionary
from microtome.dictionaries.sparse_step import Gradients, SparseStep, auxiliary
from microtome.dictionaries.start import centre, input_factor, random_directions
from microtome.dictionaries.topk import TopKDictionary
from microtome.dictionaries.train_config import DictionaryTraining

AUX_ROWS = 128
WEIGHTS = ("W_enc", "W_dec", "b_enc", "b_dec")


@dataclass(frozen=True)
class Trained:
    """The dictionaries, and every step's error as a share of the variance of all rows (FVU)."""

    dictionaries: list[Dictionary]
    fvu: Float[Tensor, "M steps"]


def fit_together(
    rows: Sequence[Float[Tensor, "n d"]], training: DictionaryTraining, seeds: Sequence[int]
) -> Trained:
    """Train one dictionary on each of ``rows``, all ``[n, d]`` alike, from the seed of the same place.

    A seed draws the first features and the order of the rows. Raises ``MicrotomeError`` for another
    architecture than ``topk``, and ``Diverged``.
    """
    if training.architecture != "topk":
        raise bad_value("architecture", training.architecture, "cannot be trained together", "use topk")
    stack = _Stack(rows, training, seeds)
    errors = torch.stack([stack.step() for _ in range(training.steps)], 1)
    if not bool(torch.isfinite(errors).all()):
        raise Diverged(
            "the reconstruction error is no finite number; use a smaller lr or look at the activations"
        )
    variance = torch.stack([(x - x.mean(0)).square().sum() for x in stack.rows]) / len(stack.rows[0])
    return Trained(stack.finished(), errors / variance.clamp_min(1e-30)[:, None])


class _Stack:
    """Dictionaries in training: weights ``[M, ...]``, of which each ``Dictionary`` holds its part."""

    def __init__(self, rows: Sequence[Tensor], training: DictionaryTraining, seeds: Sequence[int]) -> None:
        self.training = training
        self.full = training.dictionary(rows[0].shape[1])
        self.factors = [_factor(x) for x in rows]
        # Fewer rows than columns: what is learned lies in the rows' span, and is learned there.
        few = len(rows[0]) < rows[0].shape[1]
        self.spans = [torch.linalg.qr(x.float().T).Q for x in rows] if few else None
        self.rows = [
            (x.float() if self.spans is None else x.float() @ self.spans[m]) * self.factors[m]
            for m, x in enumerate(rows)
        ]
        self.config = training.dictionary(self.rows[0].shape[1])
        self.flat = torch.cat(self.rows)
        self.orders = [_Order(len(rows[0]), training.batch_size, seed) for seed in seeds]
        shape = (len(rows), self.config.n_features, self.config.d_in)
        self.W_enc, self.W_dec = torch.zeros(shape), torch.zeros(shape)
        self.b_enc, self.b_dec = torch.zeros(shape[:2]), torch.zeros(shape[0], shape[2])
        for m, (x, seed) in enumerate(zip(self.rows, seeds, strict=True)):
            self.W_dec[m] = random_directions(self.config, generator(seed, stream="start activations"))
            self.W_enc[m] = self.W_dec[m]
            self.b_dec[m] = centre(x, training.centre, Processes())
        self.parts = [self._part(m) for m in range(len(rows))]
        self.leaves = {name: getattr(self, name).requires_grad_() for name in WEIGHTS}
        self.optimiser = torch.optim.Adam(
            list(self.leaves.values()), lr=training.learning_rate(self.config.n_features), fused=True
        )
        self.since_fired = torch.zeros(shape[:2], dtype=torch.int64)
        self.done = 0

    def _part(self, m: int) -> Dictionary:
        """A dictionary whose weights are those of place ``m``, in the same memory."""
        part = TopKDictionary(self.config)
        for name in WEIGHTS:
            part.get_parameter(name).data = getattr(self, name).detach()[m]
        return part

    @property
    def dead(self) -> Bool[Tensor, "M F"]:
        return self.since_fired >= self.training.patience()

    @torch.no_grad()
    def step(self) -> Float[Tensor, " M"]:
        """Learn from one batch each; the mean squared error of a row of every dictionary."""
        t, (n_dictionaries, n_features, d) = self.training, self.W_dec.shape
        n = len(self.rows[0])
        places = torch.cat([m * n + order.next() for m, order in enumerate(self.orders)])
        x = self.flat[places].view(n_dictionaries, -1, d)
        batch = x.shape[1]
        centred = x - self.b_dec[:, None]
        pre = torch.baddbmm(self.b_enc[:, None], centred, self.W_enc.mT)
        values, features = pre.topk(t.k, sorted=False)
        f = torch.zeros_like(pre).scatter_(2, features, values.relu_())
        error = torch.baddbmm(self.b_dec[:, None] - x, f, self.W_dec)
        g = error * (2.0 / (batch * d))
        dv = torch.bmm(g, self.W_dec.mT).mul_(f > 0)
        dW_dec = torch.bmm(f.mT, g)
        dW_dec -= self.W_dec * (dW_dec * self.W_dec).sum(2, keepdim=True)
        db_enc = dv.sum(1)
        db_dec = g.sum(1) - torch.einsum("mf,mfd->md", db_enc, self.W_enc)
        gradients = {"W_enc": torch.bmm(dv.mT, centred), "W_dec": dW_dec, "b_enc": db_enc, "b_dec": db_dec}
        self._revive(gradients, centred, pre, error)
        for group in self.optimiser.param_groups:
            group["lr"] = t.learning_rate(n_features) * t.rate_factor(self.done)
        for name, leaf in self.leaves.items():
            leaf.grad = gradients[name]
        self.optimiser.step()
        self.W_dec.div_(self.W_dec.norm(dim=2, keepdim=True).clamp_min(1e-8))
        self.since_fired += batch
        self.since_fired[f.amax(1) > 0] = 0
        self.done += 1
        return error.square().sum((1, 2)) / batch

    def _revive(self, gradients: dict[str, Tensor], centred: Tensor, pre: Tensor, error: Tensor) -> None:
        """Add the auxiliary loss where features are dead."""
        dead = self.dead
        for m in dead.any(1).nonzero()[:, 0].tolist():
            step = SparseStep(
                rows=pre.shape[1], k=self.training.k, aux_weight=self.training.aux_weight,
                aux_rows=AUX_ROWS, turn=self.done,
            )  # fmt: skip
            nothing = torch.zeros(())
            W_enc, W_dec, b_enc, b_dec = (gradients[name][m] for name in WEIGHTS)
            others = {"error": error[m]}
            own = Gradients(W_enc, W_dec, b_enc, b_dec, nothing, 0, dead[m], others=others)
            auxiliary(self.parts[m], centred[m], pre[m], dead[m], step, own)

    @torch.no_grad()
    def finished(self) -> list[Dictionary]:
        """The dictionaries for activations as they came: the input factors go into the biases."""
        found: list[Dictionary] = []
        for m, part in enumerate(self.parts):
            whole = TopKDictionary(self.full)
            for name in WEIGHTS:
                value = part.get_parameter(name)
                if self.spans is not None and name != "b_enc":
                    value = value @ self.spans[m].T
                scale = self.factors[m] if name.startswith("b_") else 1.0
                whole.get_parameter(name).copy_(value / scale)
            found.append(whole.requires_grad_(False).eval())
        return found


def _factor(x: Tensor) -> float:
    return input_factor(x.float(), Processes())


class _Order:
    """Rows in random order, all of them before any comes again; a rest smaller than a batch is dropped."""

    def __init__(self, n: int, batch: int, seed: int) -> None:
        self.n, self.batch = n, min(batch, n)
        self.draws = generator(seed, stream="order")
        self.order, self.at = torch.empty(0, dtype=torch.long), 0

    def next(self) -> Int[Tensor, " batch"]:
        """The next batch's rows."""
        if self.at + self.batch > len(self.order):
            self.order, self.at = torch.randperm(self.n, generator=self.draws), 0
        self.at += self.batch
        return self.order[self.at - self.batch : self.at]
