"""Which layers of a module are sites: by name patterns, those that share a weight as one."""

import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from microtome.core.errors import MicrotomeError, bad_value
from microtome.targets.site_kinds import SUPPORTED, base_class, input_width, kind_of, obstacle

PRE_IDENTITY = ".pre_identity"
_WILDCARDS = re.compile(r"[*?\[]")


class NotASite(MicrotomeError):
    """A layer whose class can be decomposed, but that cannot where it stands; ``layers`` names them."""

    def __init__(self, message: str, layers: Sequence[str]) -> None:
        super().__init__(message)
        self.layers = list(layers)


def matching_layers(module: nn.Module, patterns: Sequence[str]) -> dict[str, str]:
    """Every distinct matching layer's name to its site's: the first matching layer with the same weight.

    Raises MicrotomeError for a pattern that matches nothing, and for one that names exactly what cannot be
    decomposed; a wildcard passes such layers by.
    """
    layers = decomposable(module)
    for pattern in patterns:
        check_pattern(module, layers, pattern)
    names: dict[str, str] = {}
    seen: set[int] = set()
    first_with_weight: dict[Any, str] = {}
    for name, layer in layers.items():
        if id(layer) in seen or not any(fnmatchcase(name, pattern) for pattern in patterns):
            continue
        seen.add(id(layer))
        memory = _memory(layer)
        names[name] = name if memory is None else first_with_weight.setdefault(memory, name)
    return names


def transposed_layers(module: nn.Module, names: Mapping[str, str]) -> dict[str, str]:
    """Sites whose weight is, in the same memory, the transpose of an earlier site's."""
    tied: dict[str, str] = {}
    first: dict[Any, str] = {}
    for name in dict.fromkeys(names.values()):
        memory = _memory(module.get_submodule(name))
        if memory is None:
            continue
        place, shape, stride = memory
        transposed = (place, shape[::-1], stride[::-1])
        if transposed != memory and transposed in first:
            tied[name] = first[transposed]
        first.setdefault(memory, name)
    return tied


def identity_widths(module: nn.Module, patterns: Sequence[str]) -> dict[str, int]:
    """Modules at whose input an identity is inserted, and how wide it is.

    A wildcard finds linear layers, an exact name any module whose input width can be told.
    Raises MicrotomeError.
    """
    layers = {n: x for n, x in decomposable(module).items() if input_width(x) is not None}
    widths: dict[str, int] = {}
    for pattern in patterns:
        names = [name for name in layers if fnmatchcase(name, pattern)]
        if not names:
            names = [pattern]
            if _WILDCARDS.search(pattern) or not _has(module, pattern):
                raise bad_value("identities", pattern, "matches no layer", f"there are: {listed(layers)}")
        for name in names:
            width = input_width(module.get_submodule(name))
            if width is None:
                kind = type(module.get_submodule(name)).__name__
                raise bad_value(
                    "identities",
                    name,
                    f"layer of type {kind}, whose input width is not known",
                    "name a linear layer",
                )
            widths[name] = width
    return widths


def decomposable(module: nn.Module) -> dict[str, nn.Module]:
    """Layers of a kind that can be decomposed, under every name they have."""
    found: dict[str, nn.Module] = {}
    passed_by: list[str] = []
    for name, layer in module.named_modules(remove_duplicate=False):
        if isinstance(layer, nn.MultiheadAttention):  # reads the weights itself, calls no layer of its own
            passed_by.append(f"{name}." if name else "")
        if kind_of(layer) is not None and not any(name.startswith(prefix) for prefix in passed_by):
            found[name] = layer
    return found


def check_pattern(module: nn.Module, layers: Mapping[str, Any], pattern: str) -> None:
    """Raises MicrotomeError in one line for a pattern that chooses no site."""
    if any(fnmatchcase(name, pattern) for name in layers):
        return
    field = "target_module_patterns"
    if not _WILDCARDS.search(pattern) and pattern and _has(module, pattern):
        layer = module.get_submodule(pattern)
        reason = obstacle(layer) if base_class(layer) is not None else None
        inside = (
            "" if reason is not None or not _in_attention(module, pattern) else " inside MultiheadAttention"
        )
        what = f"layer of type {type(layer).__name__}{inside}" + ("" if reason is None else f" with {reason}")
        raise bad_value(field, pattern, f"{what}, which cannot be decomposed", f"kinds that can: {SUPPORTED}")
    shown = listed(layers) if layers else f"none, as it has no layer of the kinds {SUPPORTED}"
    raise bad_value(field, pattern, "matches no site", f"there are: {shown}")


def without(
    names: Mapping[str, str], tied: Mapping[str, str], dropped: Iterable[str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Layers' sites and ties less some layers; a site of several goes to the next that shares it."""
    gone = set(dropped)
    left = {own: site for own, site in names.items() if own not in gone}
    heirs: dict[str, str] = {}
    for own, site in left.items():
        if site in gone:
            heirs.setdefault(site, own)
    left = {own: heirs.get(site, site) for own, site in left.items()}
    ties = {heirs.get(one, one): heirs.get(other, other) for one, other in tied.items()}
    kept = set(left.values())
    return left, {one: other for one, other in ties.items() if one in kept and other in kept}


def listed(names: Iterable[str]) -> str:
    """Names with commas, layers that differ in one number only as one: ``h.{0-11}.mlp``."""
    groups: dict[str, list[int]] = {}
    for name in names:
        number = re.search(r"(?<=\.)\d+(?=\.)|^\d+(?=\.)", name)
        key = name if number is None else f"{name[: number.start()]}\0{name[number.end() :]}"
        groups.setdefault(key, []).extend([] if number is None else [int(number.group())])
    shown = []
    for key, numbers in groups.items():
        if len(numbers) > 1 and numbers == list(range(numbers[0], numbers[-1] + 1)):
            shown.append(key.replace("\0", f"{{{numbers[0]}-{numbers[-1]}}}"))
        elif numbers:
            shown += [key.replace("\0", str(n)) for n in numbers]
        else:
            shown.append(key)
    return ", ".join(shown)


def _memory(layer: nn.Module) -> tuple[Any, tuple[int, ...], tuple[int, ...]] | None:
    """Where the matrix lies and how; None when it is computed anew at every use, as by weight_norm."""
    weight = layer._parameters.get("weight")
    kind = kind_of(layer)
    if weight is None or kind is None:
        return None
    matrix: Tensor = kind.matrix(layer)
    place = matrix.data_ptr() or id(weight)  # no address on the meta device
    return place, tuple(matrix.shape), matrix.stride()


def _in_attention(module: nn.Module, name: str) -> bool:
    parents = [name.rsplit(".", i)[0] for i in range(1, name.count(".") + 1)]
    return any(isinstance(module.get_submodule(parent), nn.MultiheadAttention) for parent in parents)


def _has(module: nn.Module, name: str) -> bool:
    try:
        module.get_submodule(name)
    except AttributeError:
        return False
    return True
