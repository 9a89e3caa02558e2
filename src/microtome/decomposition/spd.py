"""Stochastic parameter decomposition: one training step's losses and gradients, K seeds at once.

Source: Bushnaq, Braun, Sharkey, "Stochastic Parameter Decomposition" (2025). The shortcuts taken here (rows
left out, inner activations shared between passes, wide axes folded away, fused gates) change no loss and no
gradient; ``spd_plain.py`` is the same step written out, and the tests hold one to the other.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from microtome.core.seeds import generator
from microtome.decomposition.compaction import Rows, all_rows, compact, zero_stays_zero
from microtome.decomposition.fused import Source, gate_importance, masked_inner
from microtome.decomposition.gates import gate_values, upper_leaky
from microtome.decomposition.losses.faithfulness import faithfulness_loss
from microtome.decomposition.losses.reconstruction import reconstruction_loss
from microtome.decomposition.masks import draw_key
from microtome.decomposition.network import Network, SiteInput, network_of, project, site_inputs
from microtome.decomposition.spd_config import SPDConfig
from microtome.decomposition.streams import Term
from microtome.decomposition.subcomponents import Factors, Subcomponents, init_subcomponents
from microtome.targets.network import Target

SourceDraw = Callable[[Tensor], Source]


def transposed_inner(x: SiteInput, v: Float[Tensor, "K d_in C"]) -> Float[Tensor, "K C N"]:
    """Inner activations ``x V`` with the batch innermost."""
    terms = project(x, v)
    total = torch.bmm(terms[0][1].mT, terms[0][0].mT)
    for coefficients, matrix in terms[1:]:
        total = torch.baddbmm(total, matrix.mT, coefficients.mT)
    return total


@dataclass
class _Step:
    """What all losses of one step share."""

    rows: Rows
    output: Tensor
    factors: Factors
    inner: dict[str, list[Tensor]]
    ci: dict[str, list[Tensor]]


class SPD:
    """Trainable state of SPD on one target (K instances), and its step."""

    def __init__(
        self,
        target: Target,
        config: SPDConfig,
        seeds: list[int],
        subcomponents: Subcomponents | None = None,
        draw: SourceDraw | None = None,
        coefficients: Mapping[str, Float[Tensor, " K"]] | None = None,
    ) -> None:
        """``coefficients``: by loss, one for every instance, in place of the configuration's."""
        self.target, self.config = target, config
        self.n_instances = target.n_instances
        self.network: Network = network_of(target, config.target_module_patterns)
        sites = self.network.sites
        first = next(iter(sites.values())).weight
        self.subcomponents = subcomponents or init_subcomponents(
            sites, config.C, config.n_ci_mlp_neurons, seeds, first.device
        )
        self.parameters = self.subcomponents.named_parameters()
        for tensor in self.parameters.values():
            tensor.requires_grad_(True)
        self.generator = generator(seeds[0], first.device, "masks")
        self.draw: SourceDraw = draw or (lambda _: draw_key(self.generator))
        self._coefficients = dict(coefficients or {})
        self._compacts: bool | None = None

    def before_step(self) -> None:
        """Nothing to prepare."""

    def after_backward(self) -> None:
        """Nothing to project."""

    def compute(self, x: Float[Tensor, "K B *d"], step: int) -> dict[str, Tensor]:
        """Losses per instance of one step; fills the gradient of every parameter."""
        losses = self.losses(x, self.config.p_at(step))
        # Not backward(): the target may be somebody's own module, whose .grad is not ours to fill.
        grads = torch.autograd.grad(losses["total"].sum(), list(self.parameters.values()), allow_unused=True)
        for parameter, grad in zip(self.parameters.values(), grads, strict=True):
            parameter.grad = grad
        return {name: value.detach() for name, value in losses.items()}

    def losses(self, x: Float[Tensor, "K B *d"], p: float | None = None) -> dict[str, Tensor]:
        """Every loss whose coefficient is set, and their weighted sum ``total``, each ``[K]``.

        ``p`` of the importance minimality; None takes ``pnorm``.
        """
        p = self.config.pnorm if p is None else p
        shared, importance = self._shared(x, p)
        c = self.config
        terms: dict[str, tuple[float, Callable[[], Tensor]]] = {}

        def want(name: str, coefficient: float | None, loss: Callable[[], Tensor]) -> None:
            if coefficient is not None:
                terms[name] = (coefficient, loss)

        want(
            "faithfulness",
            c.faithfulness_coeff,
            lambda: faithfulness_loss(self.network.sites, shared.factors),
        )
        want("stochastic_recon", c.stochastic_recon_coeff, lambda: self._stochastic(shared))
        want(
            "recon", c.recon_coeff, lambda: self._recon(shared, list(self.network.sites), self._by_importance)
        )
        want(
            "out_recon",
            c.out_recon_coeff,
            lambda: self._recon(shared, list(self.network.sites), self._unmasked),
        )
        want("recon_layerwise", c.recon_layerwise_coeff, lambda: self._layerwise(shared, self._by_importance))
        want(
            "stochastic_recon_layerwise",
            c.stochastic_recon_layerwise_coeff,
            lambda: self._layerwise(shared, self._by_chance, c.n_mask_samples),
        )
        want("importance_minimality", c.importance_minimality_coeff, lambda: importance)
        want("schatten", c.schatten_coeff, lambda: self._schatten(shared, p))
        out: dict[str, Tensor] = {}
        total = torch.zeros_like(importance)
        for name, (coefficient, loss) in terms.items():
            # A coefficient of 0 asks for the number in the log and for nothing else.
            with torch.set_grad_enabled(coefficient != 0):
                out[name] = loss()
            if coefficient != 0:
                total = total + self._coefficients.get(name, coefficient) * out[name]
        return {"total": total, **out}

    def _shared(self, x: Tensor, p: float) -> tuple[_Step, Tensor]:
        self.network.begin_step()
        rows = self._rows(x)
        output, inputs = site_inputs(self.network, rows.x)
        factors = self.subcomponents.all_factors()
        inner: dict[str, list[Tensor]] = {}
        ci: dict[str, list[Tensor]] = {}
        importance = torch.zeros(self.n_instances, dtype=x.dtype, device=x.device)
        for name, calls in inputs.items():
            inner[name] = [transposed_inner(call, factors[name][0]) for call in calls]
            ci[name] = []
            for h in inner[name]:
                weight = _spread(rows.weight, h.shape[-1])
                lower, total = gate_importance(h, weight, self.subcomponents.gates[name], p)
                ci[name].append(lower)
                positions = rows.n * (h.shape[-1] // rows.weight.shape[1])
                importance = importance + total / positions
        return _Step(rows, output, factors, inner, ci), importance

    def _rows(self, x: Tensor) -> Rows:
        # Counting rows waits for the device, so it pays on a CPU only.
        if x.ndim != 3 or x.device.type != "cpu":
            return all_rows(x)
        if self._compacts is None:
            self._compacts = zero_stays_zero(self.target, x.shape[-1])
        return compact(x) if self._compacts else all_rows(x)

    def _by_chance(self, inner: Tensor, ci: Tensor) -> Tensor:
        return masked_inner(inner, ci, self.draw(ci))

    @staticmethod
    def _by_importance(inner: Tensor, ci: Tensor) -> Tensor:
        return inner * ci

    @staticmethod
    def _unmasked(inner: Tensor, ci: Tensor) -> Tensor:  # noqa: ARG004
        return inner

    def _recon(self, step: _Step, masked: list[str], mask: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Reconstruction loss with the subcomponents of the sites ``masked`` in place of their weights."""
        calls = dict.fromkeys(self.network.sites, 0)
        replaced = False

        def site(name: str, x: SiteInput) -> list[Term]:
            if name not in masked:
                return project(x, self.network.sites[name].weight)
            nonlocal replaced
            call = calls[name]
            calls[name] += 1
            v, u = step.factors[name]
            # Nothing is replaced before the first masked site to run: its input is the target's own.
            inner = transposed_inner(x, v) if replaced else step.inner[name][call]
            replaced = True
            return [(mask(inner, step.ci[name][call]).mT, u)]

        output = self.network.run(step.rows.x, site)
        return reconstruction_loss(
            output, step.output, step.rows.weight, step.rows.n, self.config.output_loss_type
        )

    def _stochastic(self, step: _Step) -> Tensor:
        n = self.config.n_mask_samples
        samples = [self._recon(step, list(self.network.sites), self._by_chance) for _ in range(n)]
        return torch.stack(samples).mean(0)

    def _layerwise(self, step: _Step, mask: Callable[[Tensor, Tensor], Tensor], samples: int = 1) -> Tensor:
        values = [self._recon(step, [name], mask) for _ in range(samples) for name in self.network.sites]
        return torch.stack(values).mean(0)

    def _schatten(self, step: _Step, p: float) -> Tensor:
        """``mean over rows of sum_c upper^p (|V_c|^2 + |U_c|^2)``, as in the SPD paper's code."""
        total = torch.zeros(self.n_instances, dtype=step.output.dtype, device=step.output.device)
        for name, calls in step.inner.items():
            v, u = step.factors[name]
            size = v.square().sum(1) + u.square().sum(2)
            for h in calls:
                upper = upper_leaky(gate_values(h, self.subcomponents.gates[name])) + 1e-12
                weight = _spread(step.rows.weight, h.shape[-1])
                positions = step.rows.n * (h.shape[-1] // step.rows.weight.shape[1])
                total = total + torch.einsum("kcn,kc,kn->k", upper.pow(p), size, weight) / positions
        return total


def _spread(weight: Float[Tensor, "K N"], n: int) -> Float[Tensor, "K M"]:
    """Row weights repeated for every position of a row."""
    repeats = n // weight.shape[1]
    return weight if repeats == 1 else weight.repeat_interleave(repeats, dim=1)
