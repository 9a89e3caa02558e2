"""The parameters of an evaluation's metrics, and where they come from."""

from collections.abc import Collection
from dataclasses import dataclass

from microtome.decomposition.config import DecompositionConfig
from microtome.decomposition.evaluation.adversarial import SCOPES
from microtome.decomposition.evaluation.config import EvaluateConfig
from microtome.decomposition.loss_configs import AnyLoss, PGDRecon
from microtome.decomposition.metric_configs import CEAndKLLosses, MetricConfig, PGDMultiBatchRecon


@dataclass(frozen=True)
class Settings:
    """The parameters of metrics: the evaluation's own, else those of the run's configuration."""

    config: EvaluateConfig
    own: DecompositionConfig
    wanted: Collection[str]

    def of(self, kind: type[MetricConfig]) -> MetricConfig | None:
        """The run's first metric of that kind."""
        return next((metric for metric in getattr(self.own, "metrics", ()) if isinstance(metric, kind)), None)

    @property
    def alive_threshold(self) -> float:
        """Causal importance above which a component is active."""
        given = self.config.ci_alive_threshold
        return float(getattr(self.own, "ci_alive_threshold", 0.0) if given is None else given)

    @property
    def until_dead(self) -> int | None:
        """Inputs without firing after which a component is dead; None: all that are seen."""
        return self.config.n_examples_until_dead or getattr(self.own, "n_examples_until_dead", None)

    @property
    def rounding_threshold(self) -> float:
        """Above it rounded masks are 1."""
        metric = self.of(CEAndKLLosses)
        given = self.config.rounding_threshold
        if given is None and isinstance(metric, CEAndKLLosses):
            return metric.rounding_threshold
        return 0.5 if given is None else given

    @property
    def attacks(self) -> tuple[PGDRecon, ...]:
        """An attack for each scope: the run's own where it names one, else with the same steps."""
        named: list[AnyLoss] = [
            *getattr(self.own, "all_losses", {}).values(),
            *getattr(self.own, "metrics", ()),
        ]
        known = [one for one in named if isinstance(one, PGDRecon) and one.sites == "all" and one.n_steps > 1]
        out = []
        for scope in SCOPES:
            own = next((one for one in known if one.mask_scope == scope), known[0] if known else PGDRecon())
            c = self.config
            changes = {"mask_scope": scope, "n_steps": c.pgd_n_steps, "step_size": c.pgd_step_size}
            out.append(own.model_copy(update={k: v for k, v in changes.items() if v is not None}))
        return tuple(out)

    @property
    def over_batches(self) -> tuple[PGDMultiBatchRecon, ...]:
        """Attacks on many batches at once: those that the run names; one that is asked for by name."""
        named = (one for one in getattr(self.own, "metrics", ()) if isinstance(one, PGDMultiBatchRecon))
        asked = "pgd_multi_batch_recon" in (self.config.metrics or ())
        found = tuple(named) or ((PGDMultiBatchRecon(gradient_accumulation_steps=4),) if asked else ())
        return found if "pgd_multi_batch_recon" in self.wanted else ()

    @property
    def n_mask_samples(self) -> int:
        """Draws of stochastic masks."""
        return self.config.n_mask_samples or getattr(self.own, "n_mask_samples", 1)
