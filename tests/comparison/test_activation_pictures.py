"""Documented pictures and texts are there, with the arms' own names of layers, for any number of layers."""

import re

import numpy as np
from small_comparisons import compare, digit_images, network

from microtome.comparison.activation_plots import (
    cka_heatmap,
    draw,
    joint_pca,
    similarity_by_layer,
    statistics_by_layer,
)
from microtome.comparison.part import Part, Row


def test_documented_names_and_texts(tmp_path):
    floors = [network(20 + i) for i in range(3)]
    _, _, parts = compare([network(1)], [network(2)], floors, tmp_path, digit_images(40), quick=True)
    pictures = {name: figure for part in parts for name, figure in draw(part)}
    for arm in ("a", "b"):
        for layer in ("conv1", "conv2", "fc1", "fc2"):
            assert f"activation_analysis/{arm}/pca_activations_{layer}.png" in pictures
            assert f"activation_analysis/{arm}/act_stats_{layer}.png" in pictures
            text = parts[0].texts[f"activation_analysis/{arm}/act_summary_{layer}.txt"]
            assert text.startswith(f"Layer: {layer}\nMean activation: ")
            assert len(re.findall(r"Sparsity \(fraction of zeros\): 0\.\d{6}\n", text)) == (
                1 if layer == "fc2" else 2
            )
    assert {"similarity/cka_a_b.png", "similarity/by_layer_a_b.png"} <= set(pictures)
    for name, figure in pictures.items():
        figure.savefig(tmp_path / name.replace("/", "_"), dpi=40)


def many_layers(n):
    """What the analyses of networks of ``n`` layers give, made up."""
    draws = np.random.default_rng(0)
    labels = [f"encoder.layers.{i}.mlp.fc1" for i in range(n)]
    part = Part("similarity")
    part.arrays |= {"layers": np.array(labels), "arms": np.array(["meta", "baseline"])}
    part.arrays |= {f"cka{what}/meta/baseline": draws.random((n, n)) * size for what, size in
                    (("", 1), (" error", 0.02), (" null", 0.1))}  # fmt: skip
    for label in labels:
        part.rows.append(
            Row("similarity", "debiased CKA", draws.random(), label, "meta", "baseline", floor=0.5)
        )
        for arm in ("meta", "baseline"):
            part.arrays[f"joint pca/{arm}/{label}"] = draws.normal(size=(30, 2))
            part.arrays[f"joint pca share/{arm}/{label}"] = np.array([0.3, 0.2])
            part.arrays[f"effective dimension/{arm}/{label}"] = draws.random(2)
            part.arrays[f"effective dimension floor/{arm}/{label}"] = draws.random(4)
            part.arrays[f"effective dimension interval/{arm}/{label}"] = np.array([0.5, 0.4, 0.6])
    return part


def test_names_of_sixty_layers_do_not_overlap(tmp_path):
    part = many_layers(60)
    figures = {
        "cka": cka_heatmap(part, "meta", "baseline"),
        "curves": similarity_by_layer(part, "meta", "baseline"),
        "statistics": statistics_by_layer(part),
        "joint": joint_pca(many_layers(9)),
    }
    for name, figure in figures.items():
        figure.savefig(tmp_path / f"{name}.png", dpi=60)
    boxes = [text.get_window_extent() for text in figures["cka"].axes[0].yaxis.get_ticklabels()]
    assert len(boxes) > 10
    assert all(not a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[i + 1 :])
