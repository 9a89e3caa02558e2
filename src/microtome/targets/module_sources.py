"""Making image networks: from an architecture's description, and inferring that from a checkpoint."""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from microtome.core.errors import CannotLoad
from microtome.core.seeds import stream_seed
from microtome.targets.few_shot_convnet import FewShotConvNet, infer_few_shot
from microtome.targets.python_modules import is_call, make_module, parse_arguments, parse_call
from microtome.targets.same_different_nets import PLANS, SameDifferentNet, infer_same_different
from microtome.targets.vision_models import build_vision_model

FORMS = f"{', '.join(PLANS)}, few-shot-convnet(channels=64), or package.module:Class(width=64)"


def build(architecture: Mapping[str, Any]) -> nn.Module:
    """The module that an architecture dictionary describes, initialised by the global random state.

    ``{"kind": "few-shot-convnet", "channels": 64, ...}``, ``{"kind": "same-different", "name": "conv2lr"}``,
    ``{"kind": "python", "class": "package.module:Class", "arguments": {...}}``, ``{"kind": "hf", ...}``.
    Raises ``CannotLoad`` in one line for others, and for classes that cannot be made.
    """
    settings = {key: value for key, value in architecture.items() if key != "kind"}
    kind = architecture.get("kind")
    if kind == "python":
        return make_module(settings)
    if kind == "hf":
        return build_vision_model(settings)
    classes = {"few-shot-convnet": FewShotConvNet, "same-different": SameDifferentNet}
    if kind not in classes:
        raise CannotLoad(f"architecture kind {kind!r}: unknown; give {FORMS}")
    try:
        return classes[kind](**settings)
    except TypeError as error:
        raise CannotLoad(f"architecture {kind}: {error}") from None


def build_seeded(architecture: Mapping[str, Any], seed: int) -> nn.Module:
    """``build`` with random weights from ``seed``; every global random state stays as it was."""
    with seeded(seed):
        return build(architecture)


def can_be_built(architecture: Mapping[str, Any]) -> bool:
    """Whether ``build`` knows this kind; an exported network has no code that would make it again."""
    return architecture.get("kind") in ("python", "hf", "few-shot-convnet", "same-different")


def parse_architecture(text: str) -> dict[str, Any]:
    """What ``--architecture`` means: one of our networks by name, or a class. Raises ``CannotLoad``."""
    text = text.strip()
    if is_call(text):
        return parse_call(text)
    name, bracket, rest = text.partition("(")
    positional, named = parse_arguments(bracket + rest or "()", text)
    if positional:
        raise CannotLoad(f"{text}: name its arguments, as in {name}(image_size=64)")
    if name in PLANS:
        return {"kind": "same-different", "name": name, **named}
    if name == "few-shot-convnet":
        return {"kind": "few-shot-convnet", **named}
    raise CannotLoad(f"architecture {text!r}: unknown; give {FORMS}")


def infer_architecture(state: Mapping[str, Tensor], source: object) -> dict[str, Any]:
    """The architecture that names and shapes of a checkpoint leave no doubt about. Raises ``CannotLoad``."""
    found = infer_same_different(state) or infer_few_shot(state)
    if found is not None:
        return found
    names = list(state)
    shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    raise CannotLoad(
        f"{source}: its weights ({shown}) are of none of the networks known here;"
        " name its class with --architecture package.module:Class(argument=value)"
    )


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random numbers of torch (on the CPU), numpy and Python from ``seed`` inside, as before afterwards."""
    torch_state, numpy_state, python_state = torch.get_rng_state(), np.random.get_state(), random.getstate()
    start = stream_seed(seed, "weights")
    try:
        torch.default_generator.manual_seed(start)
        np.random.seed(start % 2**32)
        random.seed(start)
        yield
    finally:
        torch.set_rng_state(torch_state)
        np.random.set_state(numpy_state)
        random.setstate(python_state)
