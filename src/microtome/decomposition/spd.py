"""Stochastic parameter decomposition: one training step's losses and gradients, K seeds at once.

Source: Bushnaq, Braun, Sharkey, "Stochastic Parameter Decomposition" (2025), and their later code (delta
component, leaky hard sigmoids, frequency term). The shortcuts taken here (rows left out, inner activations
shared between passes, wide axes folded away, fused gates) change no loss and no gradient; ``spd_plain.py`` is
the same step written out, and the tests hold one to the other. ``spd_covers.py`` says for which
configurations; ``FullSPD`` takes all of them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from microtome.core.seeds import generator
from microtome.decomposition import loss_configs as kinds
from microtome.decomposition.causal_importance.functions import CausalImportanceFunction
from microtome.decomposition.causal_importance.sigmoids import upper_leaky
from microtome.decomposition.compaction import Rows, all_rows, compact, zero_stays_zero
from microtome.decomposition.fast_importance import fast_gates, transposed_product
from microtome.decomposition.fused import Source, masked_inner, source_numbers
from microtome.decomposition.fused_importance import FusedSigmoid, fused_importance
from microtome.decomposition.importance_functions import ImportanceFunctions
from microtome.decomposition.losses.faithfulness import faithfulness_loss
from microtome.decomposition.losses.reconstruction import reconstruction_loss
from microtome.decomposition.masks import draw_key
from microtome.decomposition.network import Network, SiteInput, network_of, project, site_inputs
from microtome.decomposition.site_counts import site_counts, site_patterns
from microtome.decomposition.spd_config import SPDConfig
from microtome.decomposition.spd_covers import covers
from microtome.decomposition.streams import Term, weighed_terms
from microtome.decomposition.subcomponents import Factors, init_factors, named_factors, site_draws, with_tied
from microtome.targets.network import Target

SourceDraw = Callable[[Tensor], Source]
# (inner activations, causal importances) -> what is left of the former, and the delta component's weights
Masking = Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]


@dataclass
class _Step:
    """What all losses of one step share."""

    rows: Rows
    output: Tensor
    factors: Factors
    inner: dict[str, list[Tensor]]
    gate: dict[str, list[Tensor]]
    ci: dict[str, list[Tensor]]
    minimality: Tensor


class SPD:
    """Trainable state of SPD on one target (K instances), and its step."""

    def __init__(
        self,
        target: Target,
        config: SPDConfig,
        seeds: list[int],
        draw: SourceDraw | None = None,
        coefficients: Mapping[str, Float[Tensor, " K"]] | None = None,
    ) -> None:
        """``coefficients``: by the loss' label, one for every instance, in place of the configuration's."""
        self.target, self.config = target, config
        self.n_instances = target.n_instances
        self.network: Network = network_of(target, site_patterns(config))
        sites = self.network.sites
        device = next(iter(sites.values())).weight.device
        counts, draws = site_counts(config, sites), site_draws(sites, seeds, device)
        self._factors, self._tied = init_factors(sites, counts, draws)
        functions = ImportanceFunctions.initial(sites, counts, config.importance_function, draws)
        self.functions: Mapping[str, CausalImportanceFunction] = functions.by_site
        self.parameters = {**named_factors(self._factors), **functions.named()}
        for tensor in self.parameters.values():
            tensor.requires_grad_(True)
        self.generator = generator(seeds[0], device, "masks")
        self.draw: SourceDraw = draw or (lambda _: draw_key(self.generator))
        self._losses = config.all_losses
        self._coefficients = dict(coefficients or {})
        self._compacts: bool | None = None

    @staticmethod
    def can(config: SPDConfig, target: Target) -> bool:
        """Whether this step computes what ``config`` asks for on ``target``; ``FullSPD`` always does."""
        return covers(config, target)

    def factors(self) -> Factors:
        """``V`` and ``U`` of every site, tied ones as transposed views."""
        return with_tied(self.network.sites, self._factors, self._tied)

    def before_step(self) -> None:
        """Nothing to prepare."""

    def after_backward(self) -> None:
        """Nothing to project."""

    def compute(self, x: Shaped[Tensor, "K B *d"], step: int) -> dict[str, Tensor]:
        """Losses per instance of one step; fills the gradient of every parameter."""
        losses = self.losses(x, step / self.config.steps)
        # Not backward(): the target may be somebody's own module, whose .grad is not ours to fill.
        grads = torch.autograd.grad(losses["total"].sum(), list(self.parameters.values()), allow_unused=True)
        for parameter, grad in zip(self.parameters.values(), grads, strict=True):
            parameter.grad = grad
        return {name: value.detach() for name, value in losses.items()}

    def losses(self, x: Shaped[Tensor, "K B *d"], fraction: float = 0.0) -> dict[str, Tensor]:
        """Every loss by label, and their weighted sum ``total``, each ``[K]``.

        ``fraction``: the share of the training that is done, which annealed losses depend on.
        """
        step = self._shared(x, fraction)
        out: dict[str, Tensor] = {}
        total = torch.zeros(self.n_instances, dtype=step.output.dtype, device=step.output.device)
        for name, loss in self._losses.items():
            # A loss without a coefficient asks for the number in the log and for nothing else.
            with torch.set_grad_enabled(loss.trained):
                out[name] = self._loss(step, loss)
            if loss.trained:
                total = total + self._coefficients.get(name, loss.coeff or 0.0) * out[name]
        return {"total": total, **out}

    def _loss(self, step: _Step, loss: kinds.AnyLoss) -> Tensor:
        match loss:
            case kinds.Faithfulness():
                return faithfulness_loss(self.network.sites, step.factors)
            case kinds.ImportanceMinimality():
                return step.minimality
            case kinds.Schatten():
                return self._schatten(step, loss.pnorm)
            case kinds.UnmaskedRecon():
                return self._recon(step, list(self.network.sites), self._unmasked)
            case kinds.CIMaskedRecon():
                return self._mean(step, loss.sites, self._by_importance)
            case kinds.StochasticRecon():
                return self._mean(step, loss.sites, self._by_chance, self.config.n_mask_samples)
            case _:
                raise AssertionError(f"spd_covers.py lets {type(loss).__name__} through")

    def _shared(self, x: Tensor, fraction: float) -> _Step:
        self.network.begin_step()
        rows = self._rows(x)
        output, inputs = site_inputs(self.network, rows.x)
        factors = self.factors()
        step = _Step(rows, output, factors, {}, {}, {}, output.new_zeros(self.n_instances))
        minimality = self._minimality()
        for name, calls in inputs.items():
            inner = [transposed_product(call, factors[name][0]) for call in calls]
            function = self.functions[name]
            step.inner[name] = inner
            step.gate[name] = [fast_gates(function, call, h) for call, h in zip(calls, inner, strict=True)]
            step.ci[name] = []
            for gate in step.gate[name]:
                lower, importance = self._importance(rows, gate, minimality, fraction)
                step.ci[name].append(lower)
                step.minimality = step.minimality + importance
        return step

    def _minimality(self) -> kinds.ImportanceMinimality:
        found = (loss for loss in self._losses.values() if isinstance(loss, kinds.ImportanceMinimality))
        return next(found, kinds.ImportanceMinimality())

    def _importance(
        self, rows: Rows, gate: Tensor, loss: kinds.ImportanceMinimality, fraction: float
    ) -> tuple[Tensor, Tensor]:
        """Causal importances for masks, and this call's part of the minimality loss."""
        binomial = self.config.sampling == "binomial"
        jitter = self._numbers(gate) if binomial else None
        weight = _spread(rows.weight, gate.shape[-1])
        lower, sums = fused_importance(
            gate, weight, loss.p_at(fraction), loss.eps, _sigmoid(self.config), jitter
        )
        mean = sums / (rows.n * (gate.shape[-1] // rows.weight.shape[1]))
        if loss.beta:
            mean = mean * (1 + loss.beta * torch.log2(1 + sums))
        return lower, mean.sum(-1)

    def _rows(self, x: Tensor) -> Rows:
        # Counting rows waits for the device, so it pays on a CPU only.
        if x.ndim != 3 or x.device.type != "cpu" or not x.is_floating_point():
            return all_rows(x)
        if self._compacts is None:
            self._compacts = zero_stays_zero(self.target, x.shape[-1])
        return compact(x) if self._compacts else all_rows(x)

    def _numbers(self, like: Tensor) -> Tensor:
        source = self.draw(like)
        return source_numbers(like, source) if isinstance(source, int) else source

    def _by_chance(self, inner: Tensor, ci: Tensor) -> tuple[Tensor, Tensor | None]:
        source = self.draw(ci)
        delta = self._numbers(ci[:, :1]).squeeze(1) if self.config.use_delta_component else None
        return masked_inner(inner, ci, source, delta, self.config.sampling == "binomial"), delta

    @staticmethod
    def _by_importance(inner: Tensor, ci: Tensor) -> tuple[Tensor, Tensor | None]:
        return inner * ci, None

    @staticmethod
    def _unmasked(inner: Tensor, ci: Tensor) -> tuple[Tensor, Tensor | None]:  # noqa: ARG004
        return inner, None

    def _recon(self, step: _Step, masked: Sequence[str], masking: Masking) -> Tensor:
        """Reconstruction loss with the subcomponents of the sites ``masked`` in place of their weights."""
        calls = dict.fromkeys(self.network.sites, 0)
        replaced = False

        def site(name: str, x: SiteInput) -> list[Term]:
            original = self.network.sites[name].weight
            if name not in masked:
                return project(x, original)
            nonlocal replaced
            call = calls[name]
            calls[name] += 1
            v, u = step.factors[name]
            # Nothing is replaced before the first masked site to run: its input is the target's own.
            inner = transposed_product(x, v) if replaced else step.inner[name][call]
            replaced = True
            left, delta = masking(inner, step.ci[name][call])
            return [(left.mT, u), *([] if delta is None else weighed_terms(project(x, original), delta))]

        output = self.network.run(step.rows.x, site)
        return reconstruction_loss(
            output, step.output, step.rows.weight, step.rows.n, self.config.output_loss_type
        )

    def _mean(self, step: _Step, sites: str, masking: Masking, samples: int = 1) -> Tensor:
        """The mean over samples, and over sites masked one at a time where ``sites`` is ``layerwise``."""
        names = list(self.network.sites)
        passes = [[name] for name in names] if sites == "layerwise" else [names]
        values = [self._recon(step, one, masking) for _ in range(samples) for one in passes]
        return torch.stack(values).mean(0)

    def _schatten(self, step: _Step, p: float) -> Tensor:
        """``mean over rows of sum_c upper^p (|V_c|^2 + |U_c|^2)``, as in the SPD paper's code."""
        total = torch.zeros(self.n_instances, dtype=step.output.dtype, device=step.output.device)
        for name, calls in step.gate.items():
            v, u = step.factors[name]
            size = v.square().sum(1) + u.square().sum(2)
            for gate in calls:
                upper = upper_leaky(gate) + 1e-12
                weight = _spread(step.rows.weight, gate.shape[-1])
                positions = step.rows.n * (gate.shape[-1] // step.rows.weight.shape[1])
                total = total + torch.einsum("kcn,kc,kn->k", upper.pow(p), size, weight) / positions
        return total


def _sigmoid(config: SPDConfig) -> FusedSigmoid:
    assert config.sigmoid_type in ("paper", "leaky_hard"), config.sigmoid_type
    return config.sigmoid_type


def _spread(weight: Float[Tensor, "K N"], n: int) -> Float[Tensor, "K M"]:
    """Row weights repeated for every position of a row."""
    repeats = n // weight.shape[1]
    return weight if repeats == 1 else weight.repeat_interleave(repeats, dim=1)
