"""Bayesian search by Optuna: the tree-structured Parzen estimator (Bergstra et al. 2011)."""

import json
import warnings
from collections.abc import Sequence
from typing import Any

from microtome.core.errors import MicrotomeError
from microtome.core.seeds import stream_seed
from microtome.sweep.distributions import quantile
from microtome.sweep.metrics import find_metric
from microtome.sweep.parameters import Space
from microtome.sweep.record import Trial
from microtome.sweep.search import Proposal
from microtome.sweep.spec import Metric


class BayesSearch:
    """Proposes where the trials so far say that the metric is best.

    Continuous parameters are searched on the unit interval of their quantiles, so every distribution weighs
    as it was meant. A failed trial counts as the worst seen, a running one as a place to keep away from.
    """

    ahead = False

    def __init__(self, space: Space, total: int, seed: int, metric: Metric) -> None:
        self.total, self._space, self._seed, self._metric = total, space, seed, metric
        _optuna()

    def propose(self, index: int, trials: Sequence[Trial]) -> Proposal:
        """The parameters of the next trial."""
        optuna = _optuna()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(
                seed=stream_seed(self._seed, f"bayes/{index}") % 2**32, multivariate=True, constant_liar=True
            )
            study = optuna.create_study(direction=self._metric.goal, sampler=sampler)
            worst = self._worst(trials)
            for trial in trials:
                if trial.index != index:
                    self._tell(optuna, study, trial, worst)
            asked = study.ask(self._distributions(optuna))
        chosen: dict[str, Any] = {}
        for name, parameter in self._space.parameters.items():
            found = asked.params.get(name)
            if parameter.fixed:
                chosen[name] = quantile(parameter, 0.0)
            elif parameter.values is not None:
                assert found is not None
                chosen[name] = parameter.values[found]
            else:
                chosen[name] = (
                    found if parameter.kind == "int_uniform" else quantile(parameter, float(found or 0))
                )
        return Proposal(chosen)

    def _distributions(self, optuna: Any) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, parameter in self._space.parameters.items():
            if parameter.fixed:
                continue
            if parameter.values is not None:
                # Places in the list: values themselves may be lists.
                found[name] = optuna.distributions.CategoricalDistribution(range(len(parameter.values)))
            elif parameter.kind == "int_uniform":
                assert parameter.min is not None and parameter.max is not None
                found[name] = optuna.distributions.IntDistribution(int(parameter.min), int(parameter.max))
            else:
                found[name] = optuna.distributions.FloatDistribution(0.0, 1.0)
        return found

    def _worst(self, trials: Sequence[Trial]) -> float | None:
        values = [
            find_metric(t.metrics, self._metric.name) for t in trials if t.status in ("finished", "stopped")
        ]
        known = [value for value in values if value is not None]
        if not known:
            return None
        return max(known) if self._metric.goal == "minimize" else min(known)

    def _tell(self, optuna: Any, study: Any, trial: Trial, worst: float | None) -> None:
        states = optuna.trial.TrialState
        value = find_metric(trial.metrics, self._metric.name) if trial.status != "failed" else worst
        state = states.COMPLETE if trial.ended and value is not None else states.RUNNING
        if trial.ended and value is None:
            return
        distributions = self._distributions(optuna)
        study.add_trial(
            optuna.trial.create_trial(
                state=state,
                value=value if state == states.COMPLETE else None,
                params={name: self._place(name, trial.parameters[name]) for name in distributions},
                distributions=distributions,
            )
        )

    def _place(self, name: str, value: Any) -> Any:
        """Where in Optuna's range a value stands: the inverse of what ``propose`` does."""
        parameter = self._space.parameters[name]
        if parameter.values is not None:
            same = [json.dumps(item) for item in parameter.values]
            return same.index(json.dumps(value))
        if parameter.kind == "int_uniform":
            return int(value)
        low, high = 0.0, 1.0
        for _ in range(50):  # quantiles never fall, so halving finds it, steps of quantised ones included
            middle = (low + high) / 2
            if quantile(parameter, middle) < value:
                low = middle
            else:
                high = middle
        return high


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise MicrotomeError(
            "method='bayes': Optuna is not installed; pip install 'microtome[sweep]', or use random"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
