"""The tokens on which the strongest values act most, in words."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from microtome.data.text import tokenize
from microtome.gradients.layer_sums import LayerSums
from microtome.gradients.result import GradientResult, strongest

LISTED = 20  # values of a layer whose tokens are listed
BEFORE, AFTER = 12, 4  # tokens of context


def listed_tokens(
    result: GradientResult,
    sums: Mapping[int, LayerSums],
    texts: Sequence[str],
    tokenizer: Any,
    max_length: int,
) -> dict[int, list[dict[str, Any]]]:
    """For the strongest values of each layer: index, score, and the tokens with their attribution."""
    read: dict[int, np.ndarray] = {}
    found = {}
    for layer, of_layer in sums.items():
        scores = result.score(layer)
        found[layer] = [
            {
                "index": int(index),
                "score": float(scores[index]),
                "tokens": _tokens(of_layer, int(index), texts, tokenizer, max_length, read),
            }
            for index in strongest(scores, LISTED)
            if of_layer.top.k
        ]
    return found


def _tokens(
    sums: LayerSums,
    index: int,
    texts: Sequence[str],
    tokenizer: Any,
    max_length: int,
    read: dict[int, np.ndarray],
) -> list[dict[str, Any]]:
    rows = []
    for value, sample, position in zip(
        sums.top.values[index].tolist(),
        sums.top.samples[index].tolist(),
        sums.top.positions[index].tolist(),
        strict=True,
    ):
        if sample < 0:
            continue
        if sample not in read:
            text = texts[int(sample)]
            read[sample] = tokenize([text], tokenizer, max_length)[0]
        ids = read[sample]
        before, after = ids[max(position - BEFORE, 0) : position], ids[position + 1 : position + 1 + AFTER]
        rows.append(
            {
                "attribution": value,
                "sample": sample,
                "position": position,
                "before": tokenizer.decode(before.tolist()),
                "token": tokenizer.decode([int(ids[position])]),
                "after": tokenizer.decode(after.tolist()),
            }
        )
    return rows
