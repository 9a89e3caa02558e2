"""Training one dictionary, a batch at a time."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from microtome.core.distributed import Processes, all_reduce_sum
from microtome.core.errors import CannotLoad, Diverged
from microtome.core.seeds import generator
from microtome.dictionaries.architectures import new_dictionary
from microtome.dictionaries.config import DictionaryConfig
from microtome.dictionaries.dictionary import Dictionary
from microtome.dictionaries.losses import LOSSES
from microtome.dictionaries.selection import BatchSelection
from microtome.dictionaries.sparse_step import SparseStep, sparse_step
from microtome.dictionaries.start import centre, input_factor, quantile_threshold, random_directions
from microtome.dictionaries.train_config import SPARSE, DictionaryTraining

AUX_ROWS = 128
MEMORY = 0.9  # of the running threshold: the last ten batches or so
SINKING = 0.97  # factor a step on the threshold of a dead feature
STEERING = 0.02  # how fast the penalty follows the number of active features


@dataclass(frozen=True)
class StepReport:
    """What one step measured, over the rows of all processes."""

    squared_error: float
    rows: int
    l0: float
    dead: int


class DictionaryTrainer:
    """One dictionary in training: weights (for inputs times ``factor``), optimiser, running numbers."""

    def __init__(
        self,
        name: str,
        config: DictionaryConfig,
        training: DictionaryTraining,
        first: Float[Tensor, "N d"],
        processes: Processes | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.name, self.config, self.training = name, config, training
        self.processes = processes or Processes()
        self.device = device or torch.device("cpu")
        self.steps_done = 0
        self.penalty = training.penalty
        self.threshold_sum = self.threshold_weight = 0.0
        self.selection = BatchSelection(training.k, self.processes) if config.architecture != "topk" else None
        self._start(first.float().to(self.device))
        self.leaves = dict(self.dictionary.named_parameters())
        if config.architecture in SPARSE:
            self.leaves.pop("threshold", None)  # estimated, not trained
        self.optimiser = torch.optim.Adam(
            list(self.leaves.values()), lr=training.learning_rate(config.n_features), fused=True
        )

    def _start(self, first: Tensor) -> None:
        c, t = self.config, self.training
        self.factor = input_factor(first, self.processes) if t.normalise else 1.0
        first = first * self.factor
        self.dictionary = new_dictionary(c).to(self.device)
        d = self.dictionary
        with torch.no_grad():
            d.W_dec.copy_(random_directions(c, generator(t.seed, stream=f"start {self.name}")))
            d.W_enc.copy_(d.W_dec)
            d.b_dec.copy_(centre(first, t.centre, self.processes))
            self.bandwidth = t.bandwidth
            if c.architecture not in SPARSE:
                self._start_sparse(first)
        self.since_fired = torch.zeros(c.n_features, dtype=torch.int64, device=self.device)

    def _start_sparse(self, first: Tensor) -> None:
        """Let about ``2 k`` features act from the beginning, instead of half of them."""
        t, rows = self.training, self.training.batch_size // self.processes.size
        level = quantile_threshold(self.dictionary, first[:rows], t.k, self.processes)
        name = {"jumprelu": "threshold", "relu": "b_enc", "gated": "b_gate"}[self.config.architecture]
        self.dictionary.get_parameter(name).fill_(level if name == "threshold" else -level)
        self.bandwidth = t.bandwidth * level

    # -- one step ------------------------------------------------------------------------------------------

    @property
    def dead(self) -> Bool[Tensor, " F"]:
        """The features that did not act for ``dead_after`` inputs."""
        return self.since_fired >= self.training.patience()

    def step(self, x: Float[Tensor, "B d"]) -> StepReport:
        """Learn from one batch (this process' part of it). Raises ``Diverged``."""
        t = self.training
        x = x.to(self.device, torch.float32) * self.factor
        rows = len(x) * self.processes.size
        for group in self.optimiser.param_groups:
            group["lr"] = t.learning_rate(self.config.n_features) * t.rate_factor(self.steps_done)
        sparse = self.config.architecture in SPARSE
        measured, fired = self._sparse(x, rows) if sparse else self._dense(x, rows)
        self._share_gradients()
        measured, fired = all_reduce_sum(measured, self.processes), all_reduce_sum(fired, self.processes)
        squared_error, n_active = measured.tolist()
        if not squared_error < float("inf"):
            raise Diverged(
                f"{self.name}: the reconstruction error is no finite number at step {self.steps_done}; use a"
                " smaller lr or look at the activations"
            )
        self.optimiser.step()
        self._renormalise()
        self.since_fired += rows
        self.since_fired[fired > 0] = 0
        self.steps_done += 1
        if not sparse:
            self._steer(n_active / rows)
            self._resample(x)
        error = squared_error / self.factor**2
        return StepReport(error, rows, n_active / rows, int(self.dead.sum()))

    def _sparse(self, x: Tensor, rows: int) -> tuple[Tensor, Tensor]:
        t = self.training
        dead = self.dead
        gradients = sparse_step(
            self.dictionary,
            x,
            SparseStep(
                rows=rows,
                k=t.k,
                batch_selection=self.selection,
                prefixes=self.config.prefixes,
                bfloat16=t.encoder_dtype == "bfloat16",
                aux_weight=t.aux_weight,
                aux_rows=max(AUX_ROWS // self.processes.size, 1),
                turn=self.steps_done,
                processes=self.processes,
            ),
            dead,
        )
        for name, leaf in self.leaves.items():
            leaf.grad = getattr(gradients, name)
        self.threshold_sum = MEMORY * self.threshold_sum + (1 - MEMORY) * gradients.threshold
        self.threshold_weight = MEMORY * self.threshold_weight + (1 - MEMORY)
        measured = torch.tensor(
            [float(gradients.squared_error), gradients.n_active], dtype=torch.float64, device=x.device
        )
        return measured, gradients.fired.to(torch.int32)

    def _dense(self, x: Tensor, rows: int) -> tuple[Tensor, Tensor]:
        self.optimiser.zero_grad(set_to_none=True)
        loss, f, error = LOSSES[self.config.architecture](
            self.dictionary, x, self.penalty, rows, self.bandwidth
        )
        loss.backward()
        acts = f.detach() > 0
        with torch.no_grad():
            gradient = self.dictionary.W_dec.grad
            assert gradient is not None
            gradient -= self.dictionary.W_dec * (gradient * self.dictionary.W_dec).sum(1, keepdim=True)
        measured = torch.stack([error.detach().double().square().sum(), acts.sum().double()])
        return measured, acts.any(0).to(torch.int32)

    def _share_gradients(self) -> None:
        for leaf in self.leaves.values():
            assert leaf.grad is not None
            leaf.grad = all_reduce_sum(leaf.grad, self.processes)

    @torch.no_grad()
    def _renormalise(self) -> None:
        W_dec = self.dictionary.W_dec
        W_dec.div_(W_dec.norm(dim=1, keepdim=True).clamp_min(1e-8))
        if self.config.architecture == "jumprelu":
            # Below its threshold a feature learns nothing: a dead one's sinks until it acts.
            threshold = self.dictionary.get_parameter("threshold")
            threshold.mul_(torch.where(self.dead, SINKING, 1.0)).clamp_(min=1e-4)

    def _steer(self, l0: float) -> None:
        """More penalty while too many features act, less while too few do."""
        off = max(min(l0 / self.training.k - 1, 1.0), -1.0)
        self.penalty *= 1 + STEERING * off

    @torch.no_grad()
    def _resample(self, x: Tensor) -> None:
        """Start dead features again in the directions that the batch's worst inputs are off by.

        After Bricken et al. 2023 (appendix, neuron resampling): inputs drawn by their squared error, encoder
        rows a fifth as long as those of living features, and Adam's memory of them cleared.
        """
        t = self.training
        due = self.steps_done in {round(share * t.steps) for share in t.resample}
        which = self.dead.nonzero()[:, 0]
        if not due or not len(which) or self.config.architecture == "jumprelu":
            return
        off = x - self.dictionary(x)
        chances = off.square().sum(1)
        draw = generator(t.seed, stream=f"resample {self.name} {self.steps_done}")
        rows = torch.multinomial(chances.cpu(), len(which), replacement=True, generator=draw)
        directions = torch.nn.functional.normalize(off[rows.to(x.device)], dim=1)
        if not self.processes.main:  # everyone takes those of the main process
            directions = torch.zeros_like(directions)
        directions = all_reduce_sum(directions, self.processes)
        living = self.dictionary.W_enc[~self.dead]
        length = living.norm(dim=1).mean() if len(living) else torch.ones((), device=x.device)
        self.dictionary.W_dec[which] = directions
        self.dictionary.W_enc[which] = directions * 0.2 * length
        for name in ("b_enc", "b_gate", "b_mag", "r_mag"):
            if name in self.leaves:
                self.leaves[name][which] = 0.0
        for leaf in self.leaves.values():
            for value in self.optimiser.state[leaf].values():
                if value.ndim and len(value) == self.config.n_features:
                    value[which] = 0.0
        self.since_fired[which] = 0

    # -- what comes of it ----------------------------------------------------------------------------------

    @torch.no_grad()
    def finished(self) -> Dictionary:
        """The dictionary for activations as they are: the input factor goes into the biases.

        ``relu(W (s x - b) + c) = s relu(W (x - b / s) + c / s)``: features come out in the units of the
        activations, and decoder rows keep length 1.
        """
        dictionary = new_dictionary(self.config)
        for name, value in self.dictionary.state_dict().items():
            keeps = name in ("W_enc", "W_dec", "r_mag")
            dictionary.get_parameter(name).copy_(value if keeps else value / self.factor)
        if self.config.architecture in ("batch_topk", "matryoshka"):
            threshold = self.threshold_sum / max(self.threshold_weight, 1e-12) / self.factor
            dictionary.get_parameter("threshold").fill_(threshold)
        return dictionary.requires_grad_(False).eval()

    def state(self) -> dict[str, Tensor]:
        """Everything that a later step depends on, by name."""
        tensors = {name: value.detach().clone() for name, value in self.dictionary.state_dict().items()}
        for name, leaf in self.leaves.items():
            for key, value in self.optimiser.state.get(leaf, {}).items():
                tensors[f"optimiser/{name}/{key}"] = torch.as_tensor(value).clone()
        tensors["since_fired"] = self.since_fired.clone()
        guess = self.selection.guess if self.selection else 0.0
        numbers = [
            self.factor,
            self.penalty,
            self.threshold_sum,
            self.threshold_weight,
            guess,
            self.bandwidth,
            self.steps_done,
        ]
        tensors["numbers"] = torch.tensor(numbers, dtype=torch.float64)
        return tensors

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go back to a saved state. Raises ``CannotLoad`` when it is one of another configuration."""
        for name, value in self.dictionary.named_parameters():
            saved = tensors.get(name)
            if saved is None or saved.shape != value.shape:
                raise CannotLoad(
                    f"{self.name}: the checkpoint does not fit the configuration ({name});"
                    " undo the changes to config.yaml, or start a new run"
                )
            value.copy_(saved)
        for name, leaf in self.leaves.items():
            prefix = f"optimiser/{name}/"
            state = {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}
            if state:
                self.optimiser.state[leaf] = {
                    key: t.to("cpu" if key == "step" and self.device.type == "cpu" else self.device)
                    for key, t in state.items()
                }
        self.since_fired = tensors["since_fired"].to(self.device)
        numbers = tensors["numbers"].tolist()
        self.factor, self.penalty, self.threshold_sum, self.threshold_weight = numbers[:4]
        if self.selection is not None:
            self.selection.guess = numbers[4]
        self.bandwidth, self.steps_done = numbers[5], int(numbers[6])
