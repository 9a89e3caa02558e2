"""Evaluations while a decomposition trains: rows of its metrics, and now and then pictures."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from microtome.core.runs import RunFolder
from microtome.data.loading import DataSource
from microtome.decomposition.config import DecompositionConfig
from microtome.decomposition.evaluation.config import METRICS, OTHER_NAMES, EvaluateConfig
from microtome.decomposition.evaluation.draw import PICTURES, drawable
from microtome.decomposition.evaluation.inputs import Labelled, batches, sizes
from microtome.decomposition.evaluation.measure import measure
from microtome.decomposition.evaluation.measured import Measured
from microtome.decomposition.evaluation.outcome import arrays_of, recovered_maskings
from microtome.decomposition.evaluation.settings import Settings
from microtome.decomposition.loss_configs import AnyLoss
from microtome.decomposition.result import Decomposition
from microtome.targets.network import Target

SLOW = (
    "pgd_recon",
    "pgd_multi_batch_recon",
    "uv_plots",
    "identity_ci_error",
    "ci_histograms",
    "ci_mean_per_component",
    "component_activation_density",
    "recovery",
)


class Along:
    """What the loop calls every ``eval_freq`` steps. The inputs and masks are the same each time, and none of
    the training's."""

    def __init__(
        self,
        target: Target,
        config: DecompositionConfig,
        parameters: Mapping[str, Tensor],
        data: DataSource,
        run: RunFolder | None = None,
    ) -> None:
        self.target, self.config, self.parameters, self.data = target, config, parameters, data
        self.run = run
        named = [metric.name for metric in getattr(config, "metrics", ()) if not isinstance(metric, AnyLoss)]
        own = {OTHER_NAMES.get(name, name) for name in named}
        self.wanted = [name for name in METRICS if not own or name in own or name in ("losses", "alive")]

    def evaluate(self, step: int, is_slow: bool) -> dict[str, Any]:
        """``eval/<name>`` [K] of every number; slow metrics, arrays and pictures only when they are due."""
        wanted = [name for name in self.wanted if is_slow or name not in SLOW]
        d = Decomposition(self.config, self.target, self.parameters, self.data.spec())
        asked = getattr(self.config, "eval_batch_size", None) or self.config.batch_size
        n, size = sizes(self.data, getattr(self.config, "n_eval_steps", 10), asked)
        device = next(iter(self.parameters.values())).device

        def stream() -> Iterable[Labelled]:
            return batches(self.data, n, size, d.n_instances, self.config.seed, device)

        settings = Settings(EvaluateConfig(seed=self.config.seed), self.config, wanted)
        m = measure(d, stream, settings)
        if is_slow and self.run is not None:
            self._store(m, step)
        return {f"eval/{name}": found.tolist() for name, found in _numbers(m).items()}

    def _store(self, m: Measured, step: int) -> None:
        """Arrays and pictures named after the step."""
        assert self.run is not None
        arrays = arrays_of(m)
        self.run.save_arrays(f"evaluation_s{step}", arrays)
        for name in drawable(arrays) if self.config.pictures else ():
            self.run.save_figure(f"evaluation_{name}_s{step}", PICTURES[name].draw(arrays))


def _numbers(m: Measured) -> dict[str, np.ndarray]:
    found = {name: series.mean for name, series in m.series.items()} | m.fixed
    return found | {f"recovered/{name}": m.share_recovered(name)[0] for name in recovered_maskings(m)}
