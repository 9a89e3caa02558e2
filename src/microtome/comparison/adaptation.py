"""Before and after adaptation: how far each layer moves, and what the networks get right afterwards."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from microtome.comparison.activations import Activations
from microtome.comparison.arms import Arm, Arms, MatchedLayer
from microtome.comparison.config import CompareConfig
from microtome.comparison.gram import Gram, cka_input_values
from microtome.comparison.image_order import canonical_order
from microtome.comparison.part import Claim, Part, Row
from microtome.comparison.statistics import Measured, difference_claims, paired_interval
from microtome.core.errors import Diverged, bad_value
from microtome.core.seeds import generator
from microtome.data.labelled_images import LabelledImages
from microtome.targets.image_network import weights_digest
from microtome.training.adaptation import adapt, few_shot_accuracy

ANALYSIS = "adaptation"
MOST_WAYS = 5
Collected = Mapping[str, Sequence[Activations]]


def adapted_arm(arm: Arm, support: LabelledImages, config: CompareConfig, device: str) -> Arm:
    """The arm's networks after ``adapt_steps`` of gradient descent on ``support``, all by one rule.

    The rule: the network's last layer is replaced by one of zeros (``adapt_head: fresh``), and every weight
    learns at ``adapt_lr``. Raises ``MicrotomeError`` when that diverges.
    """
    labels = next(iter(support.labels.values()))
    present, y = np.unique(labels.values, return_inverse=True)
    changed = []
    for network in arm.networks:
        x = support.inputs(mean=network.mean, std=network.std).to(device)
        try:
            module = adapt(
                network.module.to(device),
                x,
                torch.as_tensor(y).to(device),
                steps=config.adapt_steps,
                lr=config.adapt_lr,
                n_classes=len(present),
                head=config.adapt_head,
            )
        except Diverged:
            raise bad_value("adapt_lr", config.adapt_lr, f"{network.name} diverged", "lower it") from None
        changed.append(
            replace(network, module=module, name=f"{network.name}, adapted", digest=weights_digest(module))
        )
    return replace(arm, networks=tuple(changed))


def analyse_adaptation(
    arms: Arms, before: Collected, after: Collected, images: LabelledImages, config: CompareConfig
) -> Part:
    """How alike each layer is before and after (debiased CKA), and few-shot accuracy of every network.

    Low similarity means that the layer learned rapidly, similarity near 1 that its features were reused
    (Raghu et al., 2020). Claims set the arms against each other, beside untrained networks.
    """
    part = Part(ANALYSIS)
    everyone = (*arms.given, *{floor.name: floor for floor in arms.floors.values()}.values())
    change = {
        arm.name: _similarity(arms.layers, before[arm.name], after[arm.name], images, config)
        for arm in everyone
    }
    right = _accuracies(everyone, images, config)
    for arm in everyone:
        floor = arms.floors.get(arm.name)
        for i, layer in enumerate(arms.layers):
            values = change[arm.name][:, i]
            control = float(change[floor.name][:, i].mean()) if floor else None
            part.rows.append(_row("CKA before ~ after", values, arm, layer.label, control, "before"))
        floor_accuracy = float(right[floor.name].mean()) if floor else None
        if right:
            part.rows.append(_row(_words(images, config), right[arm.name], arm, "", floor_accuracy, ""))
    for a, b in arms.pairs:
        part.claims += _claims(arms, a, b, change, right, images, config)
    part.arrays = {
        "arms": np.array([arm.name for arm in everyone]),
        "layers": np.array([layer.label for layer in arms.layers]),
        **{f"similarity/{i}": change[arm.name].mean(2) for i, arm in enumerate(everyone)},
        **({f"accuracy/{i}": right[arm.name] for i, arm in enumerate(everyone)} if right else {}),
    }
    part.remarks.append(
        f"adaptation: {config.adapt_steps} steps at {config.adapt_lr} on {config.support} images a class,"
        f" head {config.adapt_head}, the same for all networks"
    )
    return part


def _similarity(
    layers: Sequence[MatchedLayer],
    before: Sequence[Activations],
    after: Sequence[Activations],
    images: LabelledImages,
    config: CompareConfig,
) -> np.ndarray:
    """Input values of the similarity of each layer to itself, ``[seeds, layers, inputs]``."""
    chosen = canonical_order(images)[: config.similarity.images]
    found = []
    for one, other in zip(before, after, strict=True):
        rows = []
        for layer in layers:
            units = np.stack([Gram(each.rows(layer.label)[chosen]).unit for each in (one, other)])
            rows.append(cka_input_values(units, np.array([[0, 1]]))[0])
        found.append(rows)
    return np.array(found)


def _accuracies(arms: Sequence[Arm], images: LabelledImages, config: CompareConfig) -> dict[str, np.ndarray]:
    """Few-shot accuracy of every network on the same episodes, ``[seeds, episodes]``; none for few images."""
    name, labels = next(iter(images.labels.items()))
    counts = np.bincount(labels.values)
    counts = counts[counts > 0]
    queries = min(15, int(counts.min()) - config.support)
    if queries < 1:
        return {}
    found = {}
    for arm in arms:
        found[arm.name] = np.array(
            [
                few_shot_accuracy(
                    network,
                    images,
                    name,
                    ways=min(MOST_WAYS, len(counts)),
                    shots=config.support,
                    queries=queries,
                    episodes=config.adapt_episodes,
                    steps=config.adapt_steps,
                    lr=config.adapt_lr,
                    head=config.adapt_head,
                    generator=generator(config.seed, "cpu", "episodes"),
                )
                for network in arm.networks
            ]
        )
    return found


def _words(images: LabelledImages, config: CompareConfig) -> str:
    ways = min(MOST_WAYS, len(np.unique(next(iter(images.labels.values())).values)))
    return f"{ways}-way {config.support}-shot accuracy"


def _row(statistic: str, values: np.ndarray, arm: Arm, layer: str, floor: float | None, stage: str) -> Row:
    value, low, high = paired_interval(values, np.zeros_like(values))
    return Row(
        ANALYSIS,
        statistic,
        value,
        layer=layer,
        arm=arm.name,
        stage=stage,
        low=low,
        high=high,
        floor=floor,
        n=values.shape[1],
        seeds=len(values),
    )


def _claims(
    arms: Arms,
    a: Arm,
    b: Arm,
    change: Mapping[str, np.ndarray],
    right: Mapping[str, np.ndarray],
    images: LabelledImages,
    config: CompareConfig,
) -> list[Claim]:
    floors = [arms.floors[arm.name].name for arm in (a, b)]

    def measured(about: str, layer: str, of: Mapping[str, np.ndarray]) -> Measured:
        floor_a = of[floors[0]].mean(1)
        floor_b = floor_a if floors[0] == floors[1] else of[floors[1]].mean(1)
        return Measured(about, layer, of[a.name], of[b.name], floor_a, floor_b)

    layers = [
        measured(
            f"how much {layer.label} stays itself under adaptation (CKA before and after)",
            layer.label,
            {name: values[:, i] for name, values in change.items()},
        )
        for i, layer in enumerate(arms.layers)
    ]
    claims = difference_claims(ANALYSIS, a.name, b.name, layers)
    if right:
        claims += difference_claims(ANALYSIS, a.name, b.name, [measured(_words(images, config), "", right)])
    return claims
