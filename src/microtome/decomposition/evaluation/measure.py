"""Runs every metric that applies over the batches of an evaluation, in one pass over the inputs."""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

from microtome.core.seeds import generator
from microtome.decomposition.apd_config import APDConfig
from microtome.decomposition.evaluation.adversarial import SCOPES, Adversarial
from microtome.decomposition.evaluation.identity import Identity, identity
from microtome.decomposition.evaluation.importances import L0, Alive, Histograms, PerComponent
from microtome.decomposition.evaluation.inputs import Labelled
from microtome.decomposition.evaluation.losses import Losses
from microtome.decomposition.evaluation.many_batches import pgd_multi_batch
from microtome.decomposition.evaluation.measured import Measured
from microtome.decomposition.evaluation.recon import Recon
from microtome.decomposition.evaluation.seen import ALL_SITES, see
from microtome.decomposition.evaluation.settings import Settings
from microtome.decomposition.evaluation.subsets import Subsets, site_subsets
from microtome.decomposition.evaluation.weights import faithfulness, weight_errors
from microtome.decomposition.masks import Draws, draw_key
from microtome.decomposition.metric_configs import (
    CIL0,
    CIHistograms,
    IdentityCIError,
    StochasticReconSubsetCEAndKL,
)
from microtome.decomposition.result import Decomposition
from microtome.measures.recovery import measure_recovery
from microtome.targets.tms import TMS

DEAD_RATIO = 0.1  # a component shorter than this share of a feature's weights does not stand for the feature
MOST_DRAWN = 100_000  # numbers in a matrix that somebody can look at
NO_GATES = "APD's components have no causal importances"


class Metrics:
    """Every metric that applies to a decomposition, fed batch by batch."""

    def __init__(self, d: Decomposition, settings: Settings) -> None:
        self.d, self.settings = d, settings
        kind = "mse" if isinstance(d.config, APDConfig) else d.config.output_loss_type
        components = {name: left.shape[1] for name, (left, _) in d.factors.items()}
        if d.method == "apd":
            components = {ALL_SITES: next(iter(components.values()))}
        self.measured = Measured(d.n_instances, d.method, list(d.sites), components, kind)
        sites, wanted, threshold = list(components), settings.wanted, settings.alive_threshold
        groups = settings.of(CIL0)
        gated = d.method == "spd"
        chosen = gated or getattr(d.config, "topk", None) is not None
        self.l0 = (
            L0(sites, threshold, getattr(groups, "groups", None)) if "ci_l0" in wanted and chosen else None
        )
        self.alive = Alive(threshold, settings.until_dead) if "alive" in wanted and chosen else None
        self.histograms = Histograms() if "ci_histograms" in wanted and gated else None
        most = settings.of(CIHistograms)
        self.histogram_batches = getattr(most, "n_batches_accum", None)
        means = {"ci_mean_per_component", "component_activation_density"} & set(wanted)
        self.per_component = PerComponent(threshold) if means and chosen else None
        self.recon = self._recon(chosen) if {"recon", "hidden_acts_recon"} & set(wanted) else None
        self.adversarial = Adversarial(settings.attacks) if "pgd_recon" in wanted and gated else None
        self.subsets = self._subsets() if gated else None
        self.losses = (
            Losses(getattr(d.config, "all_losses", {}), settings.own)
            if "losses" in wanted and gated
            else None
        )
        self.n = 0

    def _recon(self, chosen: bool) -> Recon:
        names = ["unmasked", "ablated"]
        if chosen:
            names += ["ci", "other_inputs"]
        if self.d.method == "spd":
            names += ["rounded", "stochastic", "random"]
        else:
            reason = NO_GATES if chosen else "APD without topk calls no component unimportant"
            self.measured.refused |= dict.fromkeys(("rounded", "stochastic", "pgd_recon"), NO_GATES)
            if not chosen:
                self.measured.refused |= dict.fromkeys(("ci", "other_inputs"), reason)
        s = self.settings
        return Recon(
            names,
            rounding_threshold=s.rounding_threshold,
            n_mask_samples=s.n_mask_samples,
            hidden="hidden_acts_recon" in s.wanted,
        )

    def _subsets(self) -> Subsets | None:
        metric = self.settings.of(StochasticReconSubsetCEAndKL)
        if "stochastic_recon_subset_ce_and_kl" not in self.settings.wanted:
            return None
        if not isinstance(metric, StochasticReconSubsetCEAndKL):
            return None
        found = site_subsets(list(self.d.sites), metric.include_patterns or {}, metric.exclude_patterns or {})
        return Subsets(found, self.settings.n_mask_samples)

    def update(self, x: Tensor, labels: Tensor | None, draws: Draws) -> None:
        """One more batch."""
        seen = see(self.d, x, labels, draws)
        lower = seen.lower()
        self.measured.inputs_seen += max(ci.shape[1] for ci in lower.values())
        for metric in (self.l0, self.alive, self.per_component):
            if metric is not None:
                metric.update(lower)
        if self.histograms is not None and (
            self.histogram_batches is None or self.n < self.histogram_batches
        ):
            self.histograms.update(lower)
        del lower
        for metric in (self.recon, self.adversarial, self.subsets, self.losses):
            if metric is not None:
                metric.update(seen)
        self.n += 1

    def finish(self) -> Measured:
        """What was found, with what needs no inputs."""
        m = self.measured
        if self.l0 is not None:
            m.series |= {f"l0/{name}": series for name, series in self.l0.series.items()}
        for metric in (self.recon, self.adversarial, self.subsets, self.losses):
            if metric is not None:
                m.series |= metric.series
        asked = self.recon is not None and "other_inputs" in self.recon.makers
        if asked and not m.has(f"{m.distance}/other_inputs"):
            m.refused["other_inputs"] = "batches of one input hold no other one"
        self._components()
        self._of_weights()
        self._factors()
        self._patterns()
        self._features()
        return m

    def _components(self) -> None:
        m = self.measured
        if self.alive is not None:
            for kind, found in (("alive", self.alive.alive()), ("dead", self.alive.dead())):
                m.fixed |= {f"{kind}/{site}": which.sum(1).astype(float) for site, which in found.items()}
                m.arrays |= {f"{kind}/{site}": which for site, which in found.items()}
        if self.per_component is not None:
            m.arrays |= {f"mean_importance/{site}": mean for site, mean in self.per_component.mean().items()}
            m.arrays |= {f"density/{site}": share for site, share in self.per_component.density().items()}
        if self.histograms is not None:
            m.arrays |= self.histograms.arrays()
        for attack in self.adversarial.attacks if self.adversarial is not None else ():
            scope = (
                "a set of masks a batch"
                if "shared" in attack.mask_scope
                else "masks of its own for every input"
            )
            m.facts[SCOPES[attack.mask_scope]] = f"{attack.n_steps} steps of {attack.step_size:g}, {scope}"

    def _factors(self) -> None:
        """The first seed's V and U, where they are small enough to look at."""
        factors = {name: (left[0], right[0]) for name, (left, right) in self.d.factors.items()}
        largest = max(t.numel() for pair in factors.values() for t in pair)
        if "uv_plots" not in self.settings.wanted or self.d.method != "spd" or largest > MOST_DRAWN:
            return
        for name, (left, right) in factors.items():
            self.measured.arrays[f"V/{name}"] = _numpy(left.squeeze(-1).mT)
            self.measured.arrays[f"U/{name}"] = _numpy(right.squeeze(1))

    def _of_weights(self) -> None:
        if "faithfulness" in self.settings.wanted:
            found = weight_errors(self.d)
            self.measured.fixed |= {f"weight_error/{site}": _numpy(error) for site, error in found.items()}
            self.measured.fixed["faithfulness"] = _numpy(faithfulness(self.d))

    def _patterns(self) -> None:
        m, metric = self.measured, self.settings.of(IdentityCIError)
        if "identity_ci_error" not in self.settings.wanted:
            return
        found: Identity | None = identity(self.d, metric if isinstance(metric, IdentityCIError) else None)
        if found is None:
            m.refused["identity_ci_error"] = (
                NO_GATES if self.d.method == "apd" else "its inputs are no features"
            )
            return
        m.arrays |= {f"single_feature/{site}": ci for site, ci in found.importances.items()}
        for site, errors in found.errors.items():
            for tolerance, error in errors.items():
                name = "identity_error" if tolerance == 0.1 else f"identity_error_{tolerance:g}"
                m.fixed[f"{name}/{site}"] = error
                m.fixed[name] = m.fixed.get(name, 0.0) + error
        m.facts |= {f"identity/{site}": type(pattern).__name__ for site, pattern in found.patterns.items()}
        if found.refused:
            reasons = "; ".join(f"{site}: {why}" for site, why in found.refused.items())
            m.refused["identity_ci_error"] = reasons
            m.fixed.pop("identity_error", None)

    def _features(self) -> None:
        m = self.measured
        if "recovery" not in self.settings.wanted:
            return
        if not isinstance(self.d.target, TMS) or "linear1" not in self.d.sites:
            m.refused["recovery"] = "its features' directions are not known"
            return
        parts, target = self.d.component_weights("linear1"), self.d.sites["linear1"].weight
        found = [
            measure_recovery(_numpy(p), _numpy(w), min_ratio=DEAD_RATIO)
            for p, w in zip(parts, target, strict=True)
        ]
        m.fixed["recovered_features"] = np.array([r.recovered for r in found]) / target.shape[1]
        m.fixed["mmcs"] = np.array([r.mmcs for r in found], dtype=float)
        m.fixed["ml2r"] = np.array([r.ml2r for r in found], dtype=float)


def measure(
    d: Decomposition,
    batches: Callable[[], Iterable[Labelled]],
    settings: Settings,
    *,
    done: Callable[[int], None] = lambda _: None,
) -> Measured:
    """Everything wanted, of all batches. ``batches`` begins them anew; ``done`` gets how many were seen."""
    metrics, seed = Metrics(d, settings), settings.config.seed
    masks = generator(seed, "cpu", "evaluation masks")
    for x, labels in batches():
        metrics.update(x, labels, Draws(draw_key(masks)))
        done(metrics.n)
    found = metrics.finish()
    for metric in settings.over_batches if d.method == "spd" else ():
        found.fixed[metric.label] = _numpy(pgd_multi_batch(d, batches, metric, seed))
    return found


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()
