"""Streams chunks of samples through the model and the dictionaries; what stays are sums."""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from microtome.core.distributed import Processes, all_reduce_sum
from microtome.data.text import TokenBatch
from microtome.gradients.active_pairs import FeatureSource, reconstruct
from microtome.gradients.layer_sums import LayerSums
from microtome.gradients.passes import LossScale, activations, all_layers, spliced_gradient
from microtome.gradients.positions import Positions, counted_positions, joined
from microtome.gradients.stage import add_activations, add_features
from microtome.targets.language_model import LanguageModel
from microtome.targets.token_losses import scored_positions

Dictionaries = Callable[[int], FeatureSource]


@dataclass(frozen=True)
class Plan:
    """What is measured, on which model, and which positions count."""

    lm: LanguageModel
    paths: Mapping[int, str]
    """Module path of each layer, in the order of the layers."""
    quantities: Sequence[str]
    dictionaries: Dictionaries | None = None
    """Opens the dictionary of a layer; None measures raw activations."""
    reconstruction: bool = False
    """Splice the dictionary's output into the model, without its error, as the original did."""
    stride: int = 1
    loss_scale: LossScale = "sum"
    leave_out: frozenset[int] = frozenset()
    """Token ids whose positions do not count."""
    norm_limits: Mapping[int, float] = field(default_factory=dict)
    """Positions whose activation is longer than this do not count, by layer."""
    checkpointing: bool = False
    dtype: torch.dtype = torch.float32
    """Of the products with encoder and decoder."""
    magnitudes: bool = True
    """Whether mean absolute gradients of all features are wanted."""
    activations: bool = True
    """Whether activations are kept for the dictionaries' turn, not gradients alone."""
    top_tokens: int = 5

    def positions(self, batch: TokenBatch) -> Positions:
        """The positions of a batch that count, before limits on norms."""
        return counted_positions(batch, self.stride, self.leave_out, self.loss_scale == "batch_mean")


@dataclass(frozen=True)
class Captured:
    """Activations and gradients ``[N, d]`` of one layer at counted positions."""

    x: Tensor
    g: Tensor
    positions: Positions


class Accumulator:
    """The sums of every layer, and the seconds that they took."""

    def __init__(self, plan: Plan, widths: Mapping[int, int]) -> None:
        self.plan = plan
        self.pass_seconds = 0.0
        self.stage_seconds: dict[int, float] = dict.fromkeys(plan.paths, 0.0)
        self.loss = torch.zeros(2, dtype=torch.float64)
        """Summed losses, and what they are to be divided by: scored tokens, or batches."""
        device = plan.lm.device
        self.sums = {
            layer: LayerSums(widths[layer], plan.quantities, plan.top_tokens, device) for layer in plan.paths
        }

    def add(self, chunk: Sequence[TokenBatch]) -> None:
        """Measure a chunk of whole samples."""
        if self.plan.dictionaries is None:
            self._add_layers(chunk)
        elif self.plan.reconstruction:
            self._add_spliced(chunk, self.plan.dictionaries)
        else:
            self._add_features(chunk, self.plan.dictionaries)

    def all_reduce(self, processes: Processes) -> None:
        """Add up over all processes."""
        for sums in self.sums.values():
            sums.all_reduce(processes)
        self.loss = all_reduce_sum(self.loss, processes)

    def state(self) -> dict[str, Tensor]:
        """Tensors from which ``restore`` makes the same sums again."""
        layers = {
            f"{layer}/{name}": tensor
            for layer, sums in self.sums.items()
            for name, tensor in sums.state().items()
        }
        return {"loss": self.loss, **layers}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take the sums of a checkpoint."""
        by_layer: dict[int, dict[str, Tensor]] = defaultdict(dict)
        self.loss = state["loss"]
        for key, tensor in state.items():
            layer, slash, name = key.partition("/")
            if slash:
                by_layer[int(layer)][name] = tensor
        for layer, sums in self.sums.items():
            sums.restore(by_layer[layer])

    # -- the three ways ------------------------------------------------------------------------------------

    def _add_layers(self, chunk: Sequence[TokenBatch]) -> None:
        """Raw activations: nothing outlives the layer's turn in the backward pass."""
        for batch in chunk:
            positions = self.plan.positions(batch)

            def arrived(layer: int, x: Tensor, g: Tensor, positions: Positions = positions) -> None:
                start = time.perf_counter()
                held = self._counted(layer, x, g, positions)
                add_activations(self.sums[layer], held.x, held.g, held.positions)
                spent = time.perf_counter() - start
                self.stage_seconds[layer] += spent
                self.pass_seconds -= spent

            self._pass(batch, arrived)

    def _add_features(self, chunk: Sequence[TokenBatch], dictionaries: Dictionaries) -> None:
        """One pass a batch, then one visit of each dictionary for the whole chunk."""
        held: dict[int, list[Captured]] = defaultdict(list)
        for batch in chunk:
            positions = self.plan.positions(batch)

            def arrived(layer: int, x: Tensor, g: Tensor, positions: Positions = positions) -> None:
                kept = self._counted(layer, x, g, positions)
                if not self.plan.activations:
                    kept = Captured(kept.x[:, :0], kept.g, kept.positions)
                held[layer].append(kept)

            self._pass(batch, arrived)
        for layer in self.plan.paths:
            # Popped, so that a layer's activations are gone when the next one's dictionary is read.
            self._stage(layer, held.pop(layer, []), dictionaries(layer))

    def _add_spliced(self, chunk: Sequence[TokenBatch], dictionaries: Dictionaries) -> None:
        """The original's way: the dictionary's output takes the activations' place, one pass a layer."""
        plan = self.plan
        seen = [activations(plan.lm, batch, plan.paths) for batch in chunk]
        for layer, path in plan.paths.items():
            dictionary = dictionaries(layer)
            held = []
            for batch, values in zip(chunk, seen, strict=True):
                start = time.perf_counter()
                x = values[layer]
                kept = self._counted(layer, x, x, plan.positions(batch))
                x_hat = reconstruct(dictionary, kept.x)
                g = spliced_gradient(plan.lm, batch, path, kept.positions.rows, x_hat, plan.loss_scale)
                held.append(Captured(kept.x, g, kept.positions))
                self.pass_seconds += time.perf_counter() - start
            self._stage(layer, held, dictionary)

    # -- their parts ---------------------------------------------------------------------------------------

    def _pass(self, batch: TokenBatch, arrived: Callable[[int, Tensor, Tensor], None]) -> None:
        plan, start = self.plan, time.perf_counter()
        loss = all_layers(plan.lm, batch, plan.paths, arrived, plan.loss_scale, plan.checkpointing)
        scored = float(scored_positions(batch.attention_mask).sum())
        self.loss += torch.tensor([loss, scored if plan.loss_scale == "sum" else 1.0])
        self.pass_seconds += time.perf_counter() - start

    def _counted(self, layer: int, x: Tensor, g: Tensor, positions: Positions) -> Captured:
        x, g = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])
        if len(positions) < len(x):
            rows = positions.rows.to(x.device)
            x, g = x[rows], g[rows]
        limit = self.plan.norm_limits.get(layer)
        if limit is not None:
            keep = x.float().norm(dim=1) <= limit
            if not bool(keep.all()):
                x, g, positions = x[keep], g[keep], positions.where(keep.cpu())
        return Captured(x, g, positions)

    def _stage(self, layer: int, held: Sequence[Captured], dictionary: FeatureSource) -> None:
        start = time.perf_counter()
        x = torch.cat([part.x for part in held])
        g = torch.cat([part.g for part in held])
        positions = joined([part.positions for part in held])
        plan = self.plan
        add_features(self.sums[layer], x, g, positions, dictionary, plan.dtype, plan.magnitudes)
        self.stage_seconds[layer] += time.perf_counter() - start
