"""Small tasks that train from nothing on a fresh machine, and show what recordings are for."""

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from microtome.core.config_keys import nearest
from microtome.core.errors import MicrotomeError
from microtome.dynamics import record_config
from microtome.dynamics.record_config import RecordTaskConfig

if TYPE_CHECKING:
    from torch import nn

    from microtome.dynamics.tasks.task import Task

# Task -> (its configuration, module with build(config) -> Task and network(config) -> nn.Module, help).
TASKS: dict[str, tuple[str, str, str]] = {
    "digits": ("DigitsConfig", "images", "scikit-learn's digits by an MLP, a CNN or a small ViT; smooth"),
    "modular-addition": ("ModularAdditionConfig", "modular_addition", "a + b mod p, which groks"),
    "induction": ("InductionConfig", "induction", "repeated sequences: an induction head forms"),
    "mnist": ("MNISTConfig", "images", "MNIST, or the like, from idx files of yours"),
}
OTHER_NAMES = {"grokking": "modular-addition", "grok": "modular-addition", "induction-head": "induction"}


def task_name(text: str) -> str:
    """The task that a word names. Raises ``MicrotomeError`` with the nearest one."""
    name = text.replace("_", "-").lower()
    name = OTHER_NAMES.get(name, name)
    if name not in TASKS:
        near = nearest(name, [*TASKS, *OTHER_NAMES])
        mend = f"did you mean {near}?" if near else f"choose {', '.join(TASKS)}"
        raise MicrotomeError(f"record {text}: no such task; {mend}")
    return name


def config_of(name: str) -> type[RecordTaskConfig]:
    """The configuration of a task."""
    return getattr(record_config, TASKS[name][0])


def build(name: str, config: RecordTaskConfig) -> "Task":
    """The task with its network, data and probe, ready to train."""
    return importlib.import_module(f"microtome.dynamics.tasks.{TASKS[name][1]}").build(config)


def rebuild(task: Mapping[str, Any]) -> "nn.Module":
    """The network of a recorded task (``recording.json``'s ``task``), with start values of its own."""
    name = task_name(str(task.get("name", "")))
    config = config_of(name).from_mapping(task.get("config", {}), source="recording.json")
    module = importlib.import_module(f"microtome.dynamics.tasks.{TASKS[name][1]}")
    return module.network(config)
