"""Stochastic parameter decomposition of any network, by any list of losses: one training step.

Where the configuration allows it ``spd.py`` computes the same faster. Here every loss is run part by part:
the causal importances are computed once and cut off, each part's backward pass runs into them and into the
subcomponents before the next part begins, and one last backward pass goes through the causal importance
functions. So the activations of a single pass are all that is in memory at a time.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from microtome.core.distributed import Processes, all_reduce_sum
from microtome.core.errors import MicrotomeError
from microtome.core.seeds import generator
from microtome.decomposition.batch_cuts import equal_cuts, own_rows
from microtome.decomposition.importance_functions import ALL_SITES, ImportanceFunctions
from microtome.decomposition.loss_configs import AnyLoss
from microtome.decomposition.losses.registry import loss_function, needs_batch, needs_whole_batch
from microtome.decomposition.make_step import Attached, make_step
from microtome.decomposition.masks import Draws, draw_key
from microtome.decomposition.site_counts import site_counts, site_patterns
from microtome.decomposition.site_masks import MaskedNetwork
from microtome.decomposition.spd_config import SPDConfig
from microtome.decomposition.step import Step, WholeBatch
from microtome.decomposition.subcomponents import Factors, init_factors, named_factors, site_draws, with_tied
from microtome.targets.network import Target

if TYPE_CHECKING:
    from microtome.decomposition.result import Decomposition


class FullSPD:
    """Trainable state of SPD on one target (K instances), and its step; a ``Method`` of the loop.

    Under several processes each computes its rows of the batch, and all get the sum of the gradients.
    """

    def __init__(
        self,
        target: Target,
        config: SPDConfig,
        seeds: list[int],
        *,
        processes: Processes | None = None,
        coefficients: Mapping[str, Float[Tensor, " K"]] | None = None,
    ) -> None:
        """``coefficients``: by loss label, one for every instance, in place of the configuration's."""
        self.target, self.config = target, config
        self.n_instances = target.n_instances
        self.processes = processes or Processes()
        self.network = MaskedNetwork(target, site_patterns(config))
        sites = self.network.sites
        self.device = next(iter(sites.values())).weight.device
        counts = site_counts(config, sites)
        draws = site_draws([*sites, ALL_SITES], seeds, self.device)
        self._factors, self._tied = init_factors(sites, counts, draws)
        self.functions = ImportanceFunctions.initial(sites, counts, config.importance_function, draws)
        self.parameters: dict[str, Tensor] = {**named_factors(self._factors), **self.functions.named()}
        for tensor in self.parameters.values():
            tensor.requires_grad_(True)
        self.losses: dict[str, AnyLoss] = config.all_losses
        self.states: dict[str, dict[str, Any]] = {label: {} for label in self.losses}
        self.generator = generator(seeds[0], "cpu", "masks")
        self._coefficients = dict(coefficients or {})

    def before_step(self) -> None:
        """Nothing to prepare."""

    def after_backward(self) -> None:
        """Nothing to project."""

    def factors(self) -> Factors:
        """``V`` and ``U`` of every site, tied ones as transposed views."""
        return with_tied(self.network.sites, self._factors, self._tied)

    # -- one training step ---------------------------------------------------------------------------------

    def compute(self, x: Shaped[Tensor, "K B *d"], step: int) -> dict[str, Tensor]:
        """Losses ``[K]`` of one step by label, with ``total``; fills the gradient of every parameter.

        ``x``: the whole batch, of which each process takes its rows, or this process' rows alone.
        """
        for parameter in self.parameters.values():
            parameter.grad = None
        x, start, n_rows = self._own(x)
        cuts = equal_cuts(x.shape[1], self.config.gradient_accumulation_steps)
        seed = draw_key(self.generator)
        whole = WholeBatch(self._sum if self.processes.size > 1 else None)

        def micro_batch(cut: slice, *, grad: bool) -> tuple[Step, Attached]:
            rows = slice(start + cut.start, start + cut.stop)
            made, attached = self.step_on(x[:, cut], step, Draws(seed), rows, n_rows, grad=grad)
            made.whole_batch = whole
            whole.share = made.share
            return made, attached

        if len(cuts) > 1:
            whole.n_parts = len(cuts)
            whole.parts = lambda: (micro_batch(cut, grad=False)[0] for cut in cuts)
        if len(cuts) > 1 and any(needs_whole_batch(loss) for loss in self.losses.values()):
            whole.collecting = True
            for cut in cuts:
                self._collect(micro_batch(cut, grad=False)[0])
            whole.collected()
        own_share = x.shape[1] / n_rows
        found: dict[str, Tensor] = {}
        for i, cut in enumerate(cuts):
            made, attached = micro_batch(cut, grad=True)
            for label, loss in self.losses.items():
                if i == 0 or needs_batch(loss):
                    share = made.share if needs_batch(loss) else own_share
                    value = self._train_on(made, attached, label, share)
                    found[label] = value if i == 0 else found[label] + value
            self._through_functions(attached)
            del made, attached
        return self._reported(self._over_processes(found))

    def _own(self, x: Tensor) -> tuple[Tensor, int, int]:
        """This process' rows, where they begin in the whole batch, and how many rows that has."""
        if self.processes.size == 1:
            return x, 0, x.shape[1]
        rows = own_rows(self.config.batch_size, self.processes)
        if x.shape[1] == rows.stop - rows.start:
            return x, rows.start, self.config.batch_size
        rows = own_rows(x.shape[1], self.processes)
        return x[:, rows], rows.start, x.shape[1]

    def step_on(
        self,
        x: Shaped[Tensor, "K B *d"],
        number: int,
        draws: Draws,
        rows: slice | None = None,
        n_rows: int | None = None,
        *,
        grad: bool = False,
    ) -> tuple[Step, Attached]:
        """What the losses of a batch share, with the causal importances cut off from their functions."""
        rows = slice(0, x.shape[1]) if rows is None else rows
        with self._precision():
            made, attached = make_step(
                self.network,
                self.functions,
                self.factors(),
                self.config,
                x,
                number=number,
                fraction=number / self.config.steps,
                draws=draws,
                processes=self.processes,
                rows=rows,
                n_rows=x.shape[1] if n_rows is None else n_rows,
                grad=grad,
            )
        return made, attached

    def _train_on(self, step: Step, attached: Attached, label: str, share: float) -> Tensor:
        """A loss' value, its parts' gradients added to the leaves' and the subcomponents'."""
        loss = self.losses[label]
        into = [leaf for _, leaf in attached] + [t for pair in self._factors.values() for t in pair]
        weight = share * self._coefficients.get(label, loss.coeff or 0.0)
        total = step.zeros()
        for part in self._parts(step, label, grad=loss.trained):
            total = total + share * part.detach()
            if loss.trained and part.requires_grad:
                # Into these only: the target may be somebody's own module, whose .grad is not ours to fill.
                torch.autograd.backward((weight * part).sum(), inputs=into)
        return total

    def _parts(self, step: Step, label: str, *, grad: bool) -> Iterator[Tensor]:
        loss = self.losses[label]
        parts = loss_function(loss)(step, loss, self.states[label])
        while True:
            step.whole_batch.loss = label
            with self._precision(), torch.set_grad_enabled(grad):
                part = next(parts, None)
            if part is None:
                return
            yield part
            del part

    def _collect(self, step: Step) -> None:
        for label, loss in self.losses.items():
            if needs_whole_batch(loss):
                for _ in self._parts(step, label, grad=False):
                    pass

    def _through_functions(self, attached: Attached) -> None:
        pairs = [(importance, leaf.grad) for importance, leaf in attached if leaf.grad is not None]
        if pairs:
            roots, grads = zip(*pairs, strict=True)
            torch.autograd.backward(roots, grads, inputs=list(self.parameters.values()))

    # -- sums over processes -------------------------------------------------------------------------------

    def _sum(self, tensor: Tensor) -> Tensor:
        return all_reduce_sum(tensor, self.processes)

    def _over_processes(self, found: dict[str, Tensor]) -> dict[str, Tensor]:
        """The losses of the whole batch; every gradient becomes the whole batch's, all in one message."""
        if self.processes.size == 1:
            return found
        grads = [p.grad for p in self.parameters.values() if p.grad is not None]
        tensors = [*grads, *found.values()]
        flat = self._sum(torch.cat([tensor.reshape(-1) for tensor in tensors]))
        pieces = flat.split([tensor.numel() for tensor in tensors])
        for grad, piece in zip(grads, pieces, strict=False):
            grad.copy_(piece.view_as(grad))
        return dict(zip(found, pieces[len(grads) :], strict=True))

    def _reported(self, found: dict[str, Tensor]) -> dict[str, Tensor]:
        total = torch.zeros(self.n_instances, device=self.device)
        for label, loss in self.losses.items():
            if loss.trained:
                total = total + self._coefficients.get(label, loss.coeff or 0.0) * found[label]
        return {"total": total, **found}

    def _precision(self) -> AbstractContextManager[Any]:
        # No cache of casts: one made without gradients would be taken for one with them.
        return torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.config.autocast_bf16, cache_enabled=False
        )

    # -- what lives from step to step ----------------------------------------------------------------------

    def state_tensors(self) -> dict[str, Tensor]:
        """What losses remember from step to step (persistent adversaries), by ``<label>/<name>``."""
        return {
            f"{label}/{name}": value
            for label, state in self.states.items()
            for name, value in state.items()
            if isinstance(value, Tensor)
        }

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Go back to what ``state_tensors`` gave."""
        self.states = {label: {} for label in self.losses}
        for key, value in tensors.items():
            label, _, name = key.partition("/")
            if label in self.states:
                self.states[label][name] = value.detach().to(self.device, copy=True)


def evaluation_step(decomposition: "Decomposition", x: Shaped[Tensor, "K B *d"], draws: Draws) -> Step:
    """What losses and metrics of a finished decomposition share on a batch, without gradients.

    Every loss of ``losses.registry`` runs on it; adversarial ones turn gradients on for themselves. Raises
    ``MicrotomeError`` for a method without causal importances.
    """
    config = decomposition.config
    functions = decomposition.importance_functions
    if functions is None or not isinstance(config, SPDConfig):
        raise MicrotomeError(
            f"{decomposition.method.upper()} components have no gates, so no causal importances;"
            " decompose with method: spd"
        )
    with torch.no_grad():
        step, _ = make_step(
            decomposition.masked_network,
            functions,
            decomposition.joined,
            config,
            x,
            number=config.steps,
            fraction=1.0,
            draws=draws,
            processes=Processes(),
            rows=slice(0, x.shape[1]),
            n_rows=x.shape[1],
            sigmoid_type=decomposition.sigmoid_type,
        )
    return step
