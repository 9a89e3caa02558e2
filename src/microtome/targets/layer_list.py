"""Which layers: ``0-23``, ``0,5,10`` or ``0-5,10``."""

import re
from collections.abc import Sequence

from microtome.core.errors import bad_value

FORMS = "write a range such as 0-23, a list such as 0,5,10, or both: 0-5,10"
_PART = re.compile(r"(\d+)(?:-(\d+))?")


def parse_layers(text: str) -> list[int]:
    """The layers that a list of numbers and ranges names, each once, in the order written.

    Raises ``MicrotomeError`` for what is no such list.
    """
    layers: list[int] = []
    for part in text.replace(" ", "").split(","):
        match = _PART.fullmatch(part)
        if match is None:
            raise bad_value("layers", text, f"{part or text!r} is no layer and no range", FORMS)
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise bad_value("layers", text, f"{part!r} runs backwards", f"write {last}-{first}")
        if last - first > 100_000:
            raise bad_value("layers", text, f"{part!r} is longer than any model", FORMS)
        layers += range(first, last + 1)
    return list(dict.fromkeys(layers))


def choose_layers(text: str | None, n_layers: int) -> list[int]:
    """The layers to analyse of a model with ``n_layers``: those named; all for None or ``all``.

    Raises ``MicrotomeError`` for a layer that the model does not have, naming the range.
    """
    if text is None or text.strip() == "all":
        return list(range(n_layers))
    layers = parse_layers(text)
    beyond = [layer for layer in layers if layer >= n_layers]
    if beyond:
        raise bad_value(
            "layers",
            text,
            f"the model has {n_layers} layers, no layer {beyond[0]}",
            f"choose 0-{n_layers - 1}",
        )
    return layers


def layer_words(layers: Sequence[int]) -> str:
    """The shortest list of ranges that names these layers: ``0-5,10``."""
    parts: list[list[int]] = []
    for layer in layers:
        if parts and layer == parts[-1][-1] + 1:
            parts[-1].append(layer)
        else:
            parts.append([layer])
    return ",".join(f"{p[0]}-{p[-1]}" if len(p) > 1 else str(p[0]) for p in parts)
