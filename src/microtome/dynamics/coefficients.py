"""The local learning coefficients of kept states, on what the run was trained on where that is known."""

import copy
from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from microtome.core.errors import MicrotomeError
from microtome.dynamics.learning_coefficient import learning_coefficient
from microtome.dynamics.probing import LABELS, inputs_of, load
from microtome.dynamics.run import DynamicsRun
from microtome.hooks import first_tensor

MOST_ROWS = 2000


def coefficients(
    run: DynamicsRun, steps: Mapping[str, int], model: nn.Module | None = None, **how: Any
) -> dict[str, Any]:
    """``{word: estimate}`` for the kept state nearest to each step, and what it was estimated on (``data``).

    All states have the same step sizes, localisation and data, so that they can be compared. ``how`` goes to
    ``learning_coefficient``. Raises ``MicrotomeError`` where the network or labels are not known.
    """
    network = model if model is not None else run.model()
    if network is None:
        raise MicrotomeError("learning_coefficient: the network is not known; give the model")
    inputs, labels, data = rows_of_run(run)
    network = copy.deepcopy(network)
    found: dict[str, Any] = {}
    for word, step in steps.items():
        load(network, run.checkpoint(step))
        estimate = learning_coefficient(network, inputs, labels, class_loss, **how)
        found[word] = {**estimate.as_dict(), "step": step, "data": data}
    return found


def rows_of_run(run: DynamicsRun) -> tuple[Tensor, Tensor, str]:
    """Inputs, labels, and where they are from: the task's training data, else the probe.

    At most 2,000 rows: the first ones, which are in no order.
    """
    if run.facts.get("task"):
        from microtome.dynamics.tasks import build, config_of, task_name

        name = task_name(run.facts["task"]["name"])
        config = config_of(name).from_mapping(run.facts["task"].get("config", {}), source="recording.json")
        task = build(name, config)
        if task.train is not None:
            inputs, labels = (part[:MOST_ROWS].cpu() for part in task.train)
            return inputs, labels, f"{len(inputs)} of {len(task.train[0])} training rows"
    probe = run.probe()
    inputs = inputs_of(probe)
    if LABELS not in probe or not isinstance(inputs, Tensor):
        raise MicrotomeError(
            "learning_coefficient: needs a probe of one input with labels; record with labels="
        )
    return inputs, probe[LABELS], f"the {len(inputs)} rows of the probe"


def class_loss(output: Any, labels: Tensor) -> Tensor:
    """Mean cross-entropy of ``[..., C]`` against classes (-100 does not count), or mean squared error."""
    logits = first_tensor(getattr(output, "logits", output))
    if labels.is_floating_point():
        return F.mse_loss(logits, labels)
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1).long())
