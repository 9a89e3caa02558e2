"""The documented measurement functions under one name, to which others can be added."""

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from microtome.core.errors import bad_value
from microtome.measures import activations as _activations
from microtome.measures import attention as _attention
from microtome.measures import weight_change as _weight_change
from microtome.measures.plain_arrays import as_numpy


class MeasurementTools:
    """Measures of numpy arrays and torch tensors alike; works where torch is not installed.

    ``MeasurementTools.register`` adds one of your own, which is then a method of every instance.
    """

    registered: ClassVar[dict[str, Callable[..., Any]]] = {}

    @staticmethod
    def _to_numpy(data: Any) -> np.ndarray:
        return as_numpy(data)

    @staticmethod
    def attention_entropy(attention_weights: Any, kind: _attention.Kind = "auto") -> float:
        """Mean entropy in nats. Rows that sum to 1 are taken as probabilities, others as scores."""
        return _attention.attention_entropy(attention_weights, kind)

    @staticmethod
    def attention_specialization(attention_weights: Any, kind: _attention.Kind = "auto") -> dict[str, float]:
        """``mean_entropy``, ``min_entropy``, ``max_entropy``, ``entropy_std``, ``specialization_index``."""
        return _attention.attention_specialization(attention_weights, kind)

    @staticmethod
    def cosine_similarity(a: Any, b: Any) -> float:
        """Of two arrays taken as flat vectors; 0 when one is all 0."""
        return _weight_change.cosine_similarity(a, b)

    @staticmethod
    def weight_change_magnitude(weights_before: Any, weights_after: Any) -> dict[str, float]:
        """``l2_norm``, ``relative_change``, ``max_change``, ``mean_change``, ``cosine_similarity``."""
        return _weight_change.weight_change_magnitude(weights_before, weights_after)

    @staticmethod
    def activation_sparsity(activations: Any, threshold: float = 0.1, relative: bool = False) -> float:
        """Share of activations of at most ``threshold`` (``relative``: times their root mean square)."""
        return _activations.activation_sparsity(activations, threshold, relative)

    @staticmethod
    def activation_selectivity(activations: Any, labels: Any) -> np.ndarray:
        """Mean activation of each feature for each class ``[F, classes]``; NaN for an absent class."""
        return _activations.activation_selectivity(activations, labels)

    @classmethod
    def register(cls, function: Callable[..., Any], name: str | None = None) -> Callable[..., Any]:
        """Add a measurement under its own name (a decorator). Raises ``MicrotomeError`` for a taken name."""
        return register(cls, function, name)


def register(tools: Any, function: Callable[..., Any], name: str | None) -> Callable[..., Any]:
    """Make a plain function a static method of ``tools``; one that was registered may be replaced."""
    plain = function.__func__ if isinstance(function, staticmethod) else function
    name = name or plain.__name__
    if not name.isidentifier() or name.startswith("_") or name == "register":
        raise bad_value("name", name, "cannot be a method's name", "choose a plain word")
    if hasattr(tools, name) and name not in tools.registered:
        raise bad_value("name", name, "there already", "choose another name")
    tools.registered[name] = plain
    setattr(tools, name, staticmethod(plain))
    return plain
