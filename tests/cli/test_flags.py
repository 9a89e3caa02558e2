"""Flags read against a configuration."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, PositiveInt

from microtome.cli.flags import all_flags, build, merge, parse
from microtome.cli.help import command_help, kind_name
from microtome.core.config import Config
from microtome.core.errors import MicrotomeError


class Inner(Config):
    width: int = 3
    """How wide."""
    deep: bool = False


class Square(Config):
    kind: Literal["square"] = "square"
    side: float = 1.0


class Circle(Config):
    kind: Literal["circle"] = "circle"
    radius: float = 1.0


class Settings(Config):
    renamed: ClassVar[dict[str, str]] = {"inner.k": "steps"}

    steps: PositiveInt
    """How many steps."""
    lr: float = 0.1
    name: str | None = None
    switch: bool = True
    size: tuple[float, float] = (1.0, 2.0)
    sizes: list[int] = Field(default_factory=lambda: [1])
    groups: list[list[int]] | None = None
    mode: Literal["all"] | PositiveInt = "all"
    inner: Inner = Inner(width=9)
    shape: Annotated[Square | Circle, Field(discriminator="kind")] | None = None
    anything: dict[str, Any] = Field(default_factory=dict)


class Options(Config):
    out_dir: Path | None = None
    quiet: bool = False


def values(*words):
    return parse(words, Settings, Options).values


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--steps 3", {"steps": 3}),
        ("--steps=3 --lr=-1e-3", {"steps": 3, "lr": -1e-3}),
        ("--lr -.5", {"lr": -0.5}),
        ("--switch", {"switch": True}),
        ("--switch false --steps 1", {"switch": False, "steps": 1}),
        ("--no-switch", {"switch": False}),
        ("--no_inner.deep", {"inner.deep": False}),
        ("--inner.deep", {"inner.deep": True}),
        ("--size 24 16", {"size": [24, 16]}),
        ("--sizes 1 2 3 --steps 2", {"sizes": [1, 2, 3], "steps": 2}),
        ("--sizes 4", {"sizes": [4]}),
        ("--sizes 4,5", {"sizes": [4, 5]}),
        ("--sizes [4,5]", {"sizes": [4, 5]}),
        ("--groups [[0,1],[2]]", {"groups": [[0, 1], [2]]}),
        ("--groups none", {"groups": None}),
        ("--name none", {"name": None}),
        ("--name 12", {"name": "12"}),
        ("--mode all", {"mode": "all"}),
        ("--mode 2", {"mode": "2"}),
        ("--shape.radius 2 --shape.kind circle", {"shape.radius": 2, "shape.kind": "circle"}),
        ("--inner.k 7", {"inner.k": 7}),
        ("--anything.x 1", {"anything.x": 1}),
    ],
)
def test_values(words, expected):
    assert values(*words.split()) == expected


def test_words_are_told_apart():
    parsed = parse(["a.yaml", "--out-dir", "x", "--quiet", "b", "--help", "--", "--c"], Settings, Options)
    assert parsed.positional == ["a.yaml", "b", "--c"]
    assert parsed.options == {"out_dir": "x", "quiet": True}
    assert parsed.help


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--stepz 3", "--stepz: unknown flag; did you mean --steps?"),
        ("--width 3", "--width: unknown flag; it is --inner.width"),
        ("--inner.widht 3", "did you mean --inner.width?"),
        ("--no-steps", "--no-steps: unknown flag"),
        ("--zzzzzz", "--help lists the flags"),
        ("--steps", "--steps: needs a value"),
        ("--size --steps 3", "--size: needs a value"),
        ("-s 3", "flags begin with two dashes"),
    ],
)
def test_refusals(words, message):
    with pytest.raises(MicrotomeError) as caught:
        values(*words.split())
    assert message in str(caught.value)


def test_flags_on_top_of_a_partial_file():
    config = build(
        Settings, {"lr": 0.5, "inner": {"deep": True}}, values("--steps", "4", "--mode", "2"), "a.yaml"
    )
    assert config == Settings(steps=4, lr=0.5, mode=2, inner=Inner(deep=True))
    assert build(Settings, {}, values("--steps", "4", "--inner.deep"), "a.yaml").inner == Inner(
        width=9, deep=True
    )
    old = build(Settings, {}, values("--inner.k", "7", "--lr", "1e-2"), "a.yaml")
    assert (old.steps, old.lr) == (7, 0.01)


def test_a_flag_into_something_that_has_no_fields():
    with pytest.raises(MicrotomeError, match="inner=3: holds no fields"):
        merge(Settings, {"inner": 3}, {"inner.width": 1})


def test_the_base_stays_as_it_was():
    base = {"inner": {"deep": True}}
    merge(Settings, base, {"inner.width": 1, "lr": 2.0})
    assert base == {"inner": {"deep": True}}


def test_all_flags():
    names = all_flags(Settings, Options)
    assert names[:3] == ["out_dir", "quiet", "steps"]
    assert {"inner.width", "shape.kind", "shape.side", "shape.radius"} <= set(names)
    assert len(names) == len(set(names))


def test_help_page():
    page = command_help("microtome x", "Does x.", Options, {"configuration": Settings})
    assert "--steps INT" in page
    assert "How many steps. (required)" in page
    assert "--[no_]switch" in page
    assert "How wide. (default: 9)" in page
    assert "--shape.kind {square,circle}" in page
    assert page.count("--shape.kind") == 1
    assert "--size FLOAT FLOAT" in page
    assert "(default: 1.0 2.0)" in page
    assert all(len(line) <= 110 for line in page.splitlines())


@pytest.mark.parametrize(
    ("annotation", "name"),
    [
        (int | None, "INT"),
        (list[str], "TEXT ..."),
        (tuple[int, ...], "INT ..."),
        (list[list[int]] | None, "[[..],..]"),
        (Literal["a", "b"], "{a,b}"),
        (bool, ""),
    ],
)
def test_kind_names(annotation, name):
    assert kind_name(annotation) == name


@given(
    st.integers(1, 10**9),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.lists(st.integers(-99, 99), min_size=2, max_size=4),
)
def test_any_numbers_typed_as_flags_come_back(steps, lr, switch, sizes):
    words = ["--steps", str(steps), f"--lr={lr!r}", "--switch" if switch else "--no-switch", "--sizes"]
    config = build(Settings, {}, values(*words, *map(str, sizes)), "flags")
    assert (config.steps, config.lr, config.switch, config.sizes) == (steps, lr, switch, sizes)
