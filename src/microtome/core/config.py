"""Frozen, strict configurations: a YAML file is the base, flags win, unknown keys are refused."""

import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar, get_args, get_origin

import pydantic
import yaml
from pydantic import BaseModel, ConfigDict, Field

from microtome.core.atomic import write_text
from microtome.core.config_keys import field_names, migrate, nearest, normalise, unknown_keys
from microtome.core.errors import MicrotomeError

Probability = Annotated[float, Field(ge=0, le=1)]
Note = Callable[[str], None]
ConfigType = TypeVar("ConfigType", bound="Config")

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


class Config(BaseModel):
    """Base of every configuration. Imports no torch, so that ``--help`` stays quick."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        protected_namespaces=(),
        use_attribute_docstrings=True,  # the string below a field is its help
    )

    # Old dotted key -> our dotted key, and old dotted key -> one line on what became of it.
    renamed: ClassVar[dict[str, str]] = {}
    retired: ClassVar[dict[str, str]] = {}

    @pydantic.model_validator(mode="before")
    @classmethod
    def _read_exponents(cls, values: Any) -> Any:
        # YAML reads `2e4` as text; where a whole number is wanted, it means 20000.
        if not isinstance(values, Mapping):
            return values
        return {name: cls._whole_number(name, value) for name, value in values.items()}

    @classmethod
    def _whole_number(cls, name: str, value: Any) -> Any:
        if not isinstance(value, str) or name not in cls.model_fields or not NUMBER.fullmatch(value.strip()):
            return value
        kinds = plain_kinds(cls.model_fields[name].annotation)
        if int in kinds and not kinds & {str, float} and float(value).is_integer():
            return int(float(value))
        return value

    @classmethod
    def from_mapping(
        cls: type[ConfigType], mapping: Mapping[str, Any], source: str = "config", note: Note | None = None
    ) -> ConfigType:
        """Build the configuration from plain values.

        Old keys are carried over to ours, each with a one-line ``note``. Raises ``MicrotomeError`` in one
        line for unknown keys (with the nearest known one) and for values out of range.
        """
        if not isinstance(mapping, Mapping):
            raise MicrotomeError(f"{source}: not a mapping of keys to values; write lines like `steps: 1000`")
        values = normalise(cls, mapping)
        values = migrate(cls, values, source, note or (lambda _: None))
        unknown = unknown_keys(cls, values)
        if unknown:
            raise MicrotomeError(f"{source}: " + "; ".join(unknown))
        try:
            return cls.model_validate(values)
        except pydantic.ValidationError as error:
            raise one_line_error(error, source, field_names(cls)) from error

    @classmethod
    def from_file(cls: type[ConfigType], path: str | Path, note: Note | None = None) -> ConfigType:
        """Read a YAML file; errors name the file."""
        return cls.from_mapping(read_yaml(path), source=str(path), note=note)

    def as_dict(self) -> dict[str, Any]:
        """Every field as plain values that YAML and JSON can hold."""
        return self.model_dump(mode="json")

    def as_yaml(self) -> str:
        """The configuration as YAML text that reads back the same."""
        values = self.as_dict()
        text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
        if any(sign in text for sign in "\x85\u2028\u2029"):  # YAML would read these as ends of lines
            text = yaml.safe_dump(values, sort_keys=False)
        return text

    def to_file(self, path: str | Path) -> None:
        """Write the configuration as YAML, atomically."""
        write_text(path, self.as_yaml())


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises ``MicrotomeError`` when there is no file, no YAML or no mapping."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise MicrotomeError(f"{path}: no such file; check the path of the configuration") from None
    except IsADirectoryError:
        raise MicrotomeError(f"{path}: a folder, not a YAML file; name the file inside it") from None
    except (OSError, UnicodeDecodeError) as error:
        raise MicrotomeError(f"{path}: cannot be read as text ({error}); give a YAML file") from None
    try:
        values = yaml.load(text, Loader=_StrictLoader)
    except yaml.YAMLError as error:
        raise MicrotomeError(f"{path}: not YAML ({_yaml_problem(error)}); mend that line") from None
    except (RecursionError, ValueError) as error:
        raise MicrotomeError(f"{path}: not YAML ({error}); mend the file") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise MicrotomeError(
            f"{path}: holds a {type(values).__name__}, not a mapping; write lines like `steps: 1000`"
        )
    return {str(key): value for key, value in values.items()}


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice instead of silently keeping the last one."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = str(key_node.value)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def _yaml_problem(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or " ".join(str(error).split())
    return f"line {mark.line + 1}: {problem}" if mark is not None else problem


def one_line_error(
    error: pydantic.ValidationError, source: str = "config", fields: Collection[str] | None = None
) -> MicrotomeError:
    """A pydantic error as one line: ``batch_size=-1: must be greater than 0; ...``.

    ``fields``: the names of all fields, to leave out what pydantic puts between them (which member of a
    union it tried).
    """
    parts = [_one_problem(details, fields) for details in error.errors(include_url=False)]
    prefix = "" if source == "config" else f"{source}: "
    return MicrotomeError(prefix + "; ".join(dict.fromkeys(parts)))


def _one_problem(details: Any, fields: Collection[str] | None) -> str:
    loc = details["loc"]
    field = ".".join(str(part) for part in loc if fields is None or isinstance(part, int) or part in fields)
    cause = details.get("ctx", {}).get("error")
    if isinstance(cause, MicrotomeError):
        return str(cause)  # already names the field and the value
    text = str(cause) if cause is not None else details["msg"]
    if details["type"] == "missing":
        return f"{field} is missing: give it a value"
    if details["type"] == "union_tag_invalid":
        return _unknown_tag(field, details["ctx"])
    text = re.sub(r"^Input should be ", "must be ", text)
    text = re.sub(r"a valid dictionary or (instance of \w+|object.*)", "a mapping of keys to values", text)
    text = " ".join(text.split())
    if not field:
        return text
    value = repr(details.get("input"))
    return f"{field}={value if len(value) <= 60 else value[:57] + '...'}: {text}"


def _unknown_tag(field: str, context: dict[str, Any]) -> str:
    """No member of a union is called so: ``losses.0.name='stochastic_recn': there is none; did you ...``."""
    tag, key = context["tag"], context["discriminator"].strip("'")
    known = [name.strip().strip("'") for name in context["expected_tags"].split(",")]
    near = nearest(tag, known)
    mend = f"did you mean {near}?" if near else f"known: {', '.join(known)}"
    return f"{field}.{key}={tag!r}: there is none of that name; {mend}"


def plain_kinds(annotation: Any) -> set[Any]:
    """The plain types that a union or annotated type is made of."""
    arguments = get_args(annotation)
    if get_origin(annotation) is Annotated:
        return plain_kinds(arguments[0])
    if not arguments:
        return {annotation}
    return set().union(*(plain_kinds(argument) for argument in arguments))
