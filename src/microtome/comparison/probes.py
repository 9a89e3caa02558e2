"""What can be decoded from each layer of every network, against controls, nulls and untrained networks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from microtome.comparison.activations import Activations
from microtome.comparison.arms import Arms
from microtome.comparison.part import Part
from microtome.comparison.probe_arrays import store
from microtome.comparison.probe_claims import difference_rows
from microtome.comparison.probe_config import ProbeConfig
from microtome.comparison.probe_description import online_code
from microtome.comparison.probe_lda import nested_lda
from microtome.comparison.probe_logistic import nested_logistic
from microtome.comparison.probe_mlp import MLPShape, batched_mlp, mlp_inputs
from microtome.comparison.probe_results import Probed, TaskResult
from microtome.comparison.probe_rows import task_rows
from microtome.comparison.probe_spectrum import FoldedRows, coordinates
from microtome.comparison.probe_tasks import Group, Task, control_labels, permuted, probe_groups
from microtome.data.labelled_images import LabelledImages

Note = Callable[[str], None]
MLP_FLOORS = 2  # untrained networks of an arm that MLPs are trained on
ARITHMETIC = 4e10  # operations of one layer's permutations; classes by the hundred get fewer of them
FEWEST_PERMUTATIONS = 20
CODED_CONTROLS = 2  # permutations behind the null of the code length


def analyse(
    arms: Arms,
    activations: dict[str, list[Activations]],
    images: LabelledImages,
    settings: ProbeConfig,
    progress: Note,
    seed: int,
) -> Part:
    """Probe every layer of every network for every label, and set the arms against each other.

    Linear probes are shrinkage LDA in nested cross-validation; MLPs stop early on an inner split. Beside
    each accuracy stand untrained networks, random control labels, label permutations and an interval.
    Claims are the linear probes' differences between arms. Results do not depend on the images' order.
    Raises ``MicrotomeError`` in one line when no label can be probed.
    """
    groups, remarks = probe_groups(
        images, settings.tasks, folds=settings.folds, min_images=settings.min_images, seed=seed
    )
    part = Part("probes", remarks=remarks)
    for group in groups:
        for result in _GroupProbes(arms, activations, group, settings, seed, progress, part.remarks).run():
            part.rows += task_rows(result, arms, settings, seed)
            rows, claims = difference_rows(result, arms, settings, seed)
            part.rows += rows
            part.claims += claims
            store(part.arrays, result, arms, settings)
    return part


@dataclass
class _Network:
    name: str
    activations: Activations
    given: bool
    first: bool
    mlp: bool
    layers: list[dict[str, Probed]]


class _GroupProbes:
    """All tasks of one group of images in all networks; a layer's spectra are made once for all of them."""

    def __init__(
        self,
        arms: Arms,
        activations: dict[str, list[Activations]],
        group: Group,
        settings: ProbeConfig,
        seed: int,
        progress: Note,
        remarks: list[str],
    ) -> None:
        self.arms, self.group, self.settings, self.seed = arms, group, settings, seed
        self.progress, self.remarks = progress, remarks
        self.labels = tuple(layer.label for layer in arms.layers)
        self.networks = _networks(arms, activations)
        self.controls = {t.name: control_labels(t, group.tasks, settings.controls, seed) for t in group.tasks}
        self.nulls = {t.name: self._permutations(t) for t in group.tasks}
        self.blocks: tuple[int, ...] = ()
        self._said: set[str] = set()

    def run(self) -> list[TaskResult]:
        names = ", ".join(f"{task.name} ({len(task.classes)} classes)" for task in self.group.tasks)
        self.progress(
            f"probes: {names} in {len(self.networks)} networks, {len(self.labels)} layers, "
            f"{len(self.group.rows)} images"
        )
        for label in self.labels:
            inputs = [self._layer(network, label) for network in self.networks]
            if self.settings.mlp:
                self._mlp(label, inputs)
        return [self._result(task) for task in self.group.tasks]

    def _layer(self, network: _Network, label: str) -> Tensor:
        """Probe one layer of one network by all but the MLPs; what the MLP is to see is given back."""
        rows = network.activations.rows(label, self.settings.site)[self.group.rows]
        if not np.isfinite(rows).all():
            rows = np.zeros((len(rows), 1))
            self._remark(f"{network.name}: activations of {label} are not finite; probed as constant")
        x = coordinates(rows, self.settings.max_dimensions)
        folded = FoldedRows(x, self.group.folds)
        network.layers.append({task.name: self._linear(network, folded, task) for task in self.group.tasks})
        return mlp_inputs(x, self.settings.mlp_dimensions)

    def _linear(self, network: _Network, folded: FoldedRows, task: Task) -> Probed:
        settings, c = self.settings, len(task.classes)
        controls, _ = self.controls[task.name]
        nulls = self.nulls[task.name] if network.given and network.first else self.nulls[task.name][:0]
        asked = np.concatenate([task.values[None], *([controls] if network.given else []), nulls])
        found = nested_lda(folded, asked, c, settings.shrinkages)
        probed = Probed({"linear": found.correct[0]}, inner=found.inner[0])
        accuracy = found.accuracy[1:]
        if network.given:
            probed.controls, probed.null = accuracy[: len(controls)], accuracy[len(controls) :]
        if settings.description_length:
            self._code(probed, network, folded.x, task)
        if settings.logistic and (network.given or network.mlp):
            fitted = nested_logistic(
                folded.x.numpy(), task.values, self.group.folds, settings.logistic_penalties
            )
            probed.correct["logistic"] = fitted.correct
        return probed

    def _code(self, probed: Probed, network: _Network, x: Tensor, task: Task) -> None:
        nulls = self.nulls[task.name][: CODED_CONTROLS if network.given and network.first else 0]
        asked = np.concatenate([task.values[None], nulls])
        code = online_code(x, asked, len(task.classes), self.settings.shrinkages, self.seed)
        probed.bits = code.bits[0]
        probed.null_bits = float(code.bits[1:].mean()) if len(nulls) else None
        self.blocks = code.blocks
        known = np.array(code.blocks)
        probed.sent = code.sent[0][known - 1] / known

    def _mlp(self, label: str, inputs: Sequence[Tensor]) -> None:
        """MLPs of one layer in all networks that get one, task by task."""
        chosen = [i for i, network in enumerate(self.networks) if network.mlp]
        x = torch.stack([inputs[i] for i in chosen])
        s = self.settings
        shape = MLPShape(s.mlp_hidden, s.mlp_dimensions, s.mlp_steps, s.mlp_lr)
        for task in self.group.tasks:
            found = batched_mlp(x, task.values, self.group.folds, len(task.classes), shape, self.seed)
            for row, i in enumerate(chosen):
                probed = self.networks[i].layers[self.labels.index(label)][task.name]
                probed.correct["MLP"] = found.correct[row]
                probed.curves = {
                    "steps": found.steps,
                    "train": found.train_loss[row],
                    "inner": found.inner_loss[row],
                }

    def _permutations(self, task: Task) -> np.ndarray:
        """Permuted labels; tasks whose probes are expensive get fewer, which a remark tells."""
        s, n, c = self.settings, len(task.values), len(task.classes)
        r, grid = min(n, s.max_dimensions), len(s.shrinkages)
        pairs = s.folds * (s.folds - 1) / 2
        each = pairs * grid * c * r * (4 * n / s.folds + 3 * c)
        wanted = int(np.clip(ARITHMETIC / each, FEWEST_PERMUTATIONS, s.permutations))
        if wanted < s.permutations:
            self.remarks.append(
                f"{task.name}: {wanted} label permutations instead of {s.permutations}, as {c} classes are "
                f"many; no p-value against permuted labels is below {1 / (wanted + 1):.2g}"
            )
        return permuted(task.values, wanted, self.seed, f"permutations {task.name}")

    def _remark(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self.remarks.append(text)

    def _result(self, task: Task) -> TaskResult:
        networks: dict[str, list[list[Probed]]] = {}
        for network in self.networks:
            networks.setdefault(network.name, []).append([layer[task.name] for layer in network.layers])
        return TaskResult(task, self.labels, networks, self.controls[task.name][1], self.blocks)


def _networks(arms: Arms, activations: dict[str, list[Activations]]) -> list[_Network]:
    """Every network once: the given ones first, then the untrained ones."""
    found = [
        _Network(arm.name, one, True, i == 0, True, [])
        for arm in arms.given
        for i, one in enumerate(activations[arm.name])
    ]
    for name in dict.fromkeys(floor.name for floor in arms.floors.values()):
        found += [
            _Network(name, one, False, i == 0, i < MLP_FLOORS, [])
            for i, one in enumerate(activations.get(name, []))
        ]
    return found
