"""What a built-in task is."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Task:
    """A network and how to train it. The probe is held-out data.

    ``loss()`` draws a batch and gives its loss; ``evaluate()`` gives the numbers that tell how it goes.
    ``train`` is all there is to train on, where that is not drawn without end;
    ``adamw`` holds what AdamW is told besides learning rate and weight decay.
    """

    name: str
    model: nn.Module
    probe: Tensor
    labels: Tensor
    loss: Callable[[], Tensor]
    evaluate: Callable[[], dict[str, float]]
    train: tuple[Tensor, Tensor] | None = None
    adamw: dict[str, Any] = field(default_factory=dict)
