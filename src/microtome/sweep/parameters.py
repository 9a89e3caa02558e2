"""The parameters of a sweep: everything that W&B's sweep YAML lets one be."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from pydantic import model_validator

from microtome.core.config import Config
from microtome.core.config_keys import nearest
from microtome.core.errors import MicrotomeError, bad_value

Number = int | float

# Distribution -> the keys that shape it.
KEYS: dict[str, tuple[str, ...]] = {
    "constant": ("value",),
    "categorical": ("values", "probabilities"),
    "categorical_w_probabilities": ("values", "probabilities"),
    "int_uniform": ("min", "max"),
    "uniform": ("min", "max"),
    "q_uniform": ("min", "max", "q"),
    "log_uniform": ("min", "max"),
    "log_uniform_values": ("min", "max"),
    "q_log_uniform": ("min", "max", "q"),
    "q_log_uniform_values": ("min", "max", "q"),
    "inv_log_uniform": ("min", "max"),
    "inv_log_uniform_values": ("min", "max"),
    "normal": ("mu", "sigma"),
    "q_normal": ("mu", "sigma", "q"),
    "log_normal": ("mu", "sigma"),
    "q_log_normal": ("mu", "sigma", "q"),
    "beta": ("a", "b"),
    "q_beta": ("a", "b", "q"),
}
LOGARITHMIC = {name for name in KEYS if "log_" in name}

_EXPONENT = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")


class Parameter(Config):
    """One parameter: a value, a list of values, or a distribution and its shape."""

    distribution: str | None = None
    value: Any = None
    values: tuple[Any, ...] | None = None
    probabilities: tuple[float, ...] | None = None
    min: Number | None = None
    max: Number | None = None
    mu: Number | None = None
    sigma: Number | None = None
    q: Number | None = None
    a: Number | None = None
    b: Number | None = None

    @model_validator(mode="after")
    def _check(self) -> "Parameter":
        kind = self.kind
        if kind not in KEYS:
            near = nearest(kind, list(KEYS))
            mend = f"did you mean {near}?" if near else f"choose {', '.join(KEYS)}"
            raise bad_value("distribution", kind, "unknown distribution", mend)
        for name in self.model_fields_set - {"distribution", *KEYS[kind]}:
            raise bad_value(
                name, getattr(self, name), f"{kind} takes {', '.join(KEYS[kind])}", "leave it out"
            )
        for name in ("value", "values", "min", "max"):
            if name in KEYS[kind] and name not in self.model_fields_set:
                raise bad_value(name, None, f"{kind} needs {' and '.join(KEYS[kind][:2])}", "give it")
        if kind.startswith("categorical"):
            self._check_values()
        if "min" in KEYS[kind]:
            self._check_bounds(kind)
        for name in ("q", "sigma", "a", "b"):
            number = getattr(self, name)
            if number is not None and not number > 0:
                raise bad_value(name, number, "must be above 0", "give a positive number")
        return self

    def _check_values(self) -> None:
        if not self.values:
            raise bad_value("values", self.values, "holds nothing to choose from", "list at least one value")
        if self.probabilities is None:
            return
        if len(self.probabilities) != len(self.values):
            problem = f"{len(self.probabilities)} numbers for {len(self.values)} values"
            raise bad_value("probabilities", list(self.probabilities), problem, "give one for each value")
        if any(p < 0 for p in self.probabilities) or not math.isclose(
            sum(self.probabilities), 1, abs_tol=1e-6
        ):
            raise bad_value(
                "probabilities", list(self.probabilities), "must be a distribution", "make them sum to 1"
            )

    def _check_bounds(self, kind: str) -> None:
        low, high = cast("Number", self.min), cast("Number", self.max)
        if low > high:
            raise bad_value("max", high, f"below min={low}", "swap them")
        if kind == "int_uniform" and not (float(low).is_integer() and float(high).is_integer()):
            raise bad_value("min", low, "int_uniform wants whole numbers", "use uniform or q_uniform")
        if kind.endswith("_values") and low <= 0:
            raise bad_value("min", low, f"{kind} wants min above 0", "give a positive number")

    @property
    def kind(self) -> str:
        """The distribution; where none is given, W&B's choice: by value, values, or the bounds' type."""
        if self.distribution is not None:
            return self.distribution
        if self.values is not None:
            return "categorical"
        if "value" in self.model_fields_set:
            return "constant"
        if self.min is None and self.max is None:
            raise bad_value("distribution", None, "says nothing to try", "give value, values, or min and max")
        whole = isinstance(self.min, int) and isinstance(self.max, int)
        return "int_uniform" if whole else "uniform"

    @property
    def fixed(self) -> bool:
        """Whether every trial gets the same value."""
        return self.kind == "constant" or (self.values is not None and len(self.values) == 1)

    @property
    def logarithmic(self) -> bool:
        """Whether equal steps in it are equal factors."""
        return self.kind in LOGARITHMIC


@dataclass(frozen=True)
class Space:
    """Every parameter by its dotted name, and where each stands in the nested form."""

    parameters: dict[str, Parameter]
    paths: dict[str, tuple[str, ...]]

    def nested(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values in the shape that the file gave them: groups of parameters are mappings."""
        result: dict[str, Any] = {}
        for name, value in values.items():
            *parents, last = self.paths.get(name, (name,))
            holder = result
            for part in parents:
                holder = holder.setdefault(part, {})
            holder[last] = value
        return result


def parse_space(mapping: Any, source: str) -> Space:
    """Read the ``parameters`` section. Raises ``MicrotomeError`` naming parameter, key and value."""
    if not isinstance(mapping, Mapping) or not mapping:
        raise MicrotomeError(
            f"{source}: parameters={mapping!r}: names nothing to vary; give a mapping of names"
        )
    parameters: dict[str, Parameter] = {}
    paths: dict[str, tuple[str, ...]] = {}

    def visit(section: Mapping[Any, Any], path: tuple[str, ...]) -> None:
        for key, details in section.items():
            here = (*path, str(key))
            name = ".".join(here)
            if not isinstance(details, Mapping):
                mend = (
                    f"write `values: {details}`" if isinstance(details, list) else f"write `value: {details}`"
                )
                raise MicrotomeError(f"{source}: parameters.{name}={details!r}: not a mapping; {mend}")
            if set(details) == {"parameters"} and isinstance(details["parameters"], Mapping):
                visit(details["parameters"], here)
                continue
            if name in parameters:
                raise MicrotomeError(f"{source}: parameters.{name}: given twice; keep one of them")
            parameters[name] = Parameter.from_mapping(read_numbers(details), f"{source}: parameters.{name}")
            paths[name] = here

    visit(mapping, ())
    return Space(parameters, paths)


def read_numbers(value: Any) -> Any:
    """YAML reads ``5e-4`` as text; in a sweep it is a number."""
    if isinstance(value, Mapping):
        return {key: read_numbers(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [read_numbers(item) for item in value]
    if isinstance(value, str) and _EXPONENT.fullmatch(value.strip()):
        number = float(value)
        whole = number.is_integer() and abs(number) < 1e15 and "." not in value
        return int(number) if whole else number
    return value
