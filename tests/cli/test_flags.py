"""Flags read against a configuration."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, PositiveInt

from microtome.cli.flags import build, fields_of, parse
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


class Options(Config):
    out_dir: Path | None = None
    quiet: bool = False


def values(*words):
    return parse(words, "x [CONFIG.yaml]", "Does x.", Options, Settings).values


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--steps 3", {"steps": 3}),
        ("--steps=3 --lr=-1e-3", {"steps": 3, "lr": "-1e-3"}),
        ("--lr -.5", {"lr": "-.5"}),
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
    ],
)
def test_values(words, expected):
    assert values(*words.split()) == expected


def test_words_are_told_apart():
    parsed = parse(["a.yaml", "--out-dir", "x", "--quiet", "b"], "x", "", Options, Settings)
    assert parsed.positional == ["a.yaml", "b"]
    assert parsed.options == Options(out_dir=Path("x"), quiet=True)
    assert parsed.values == {}
    assert parse([], "x", "", Options, Settings).options == Options()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--stepz 3", "--stepz: unknown flag; did you mean --steps?"),
        ("--width 3", "--width: unknown flag; did you mean --inner.width?"),
        ("--inner.widht 3", "did you mean --inner.width?"),
        ("--no-steps", "--no-steps: unknown flag"),
        ("--zzzzzz", "--help lists the flags"),
        ("--steps", "Missing value for argument '--steps'"),
        ("--size 1 --steps 3", "Missing value for argument '--size'"),
        ("--sizes --steps 3", "--sizes: needs a value"),
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
    old = build(Settings, {"inner": {"k": 7}}, values("--lr", "1e-2"), "a.yaml")
    assert (old.steps, old.lr) == (7, 0.01)
    numbers = build(Settings, {}, values("--steps", "2e4", "--lr", "-.5"), "a.yaml")
    assert (numbers.steps, numbers.lr) == (20_000, -0.5)


def test_a_flag_into_something_that_has_no_fields():
    with pytest.raises(MicrotomeError, match="inner=3: holds no fields"):
        build(Settings, {"inner": 3}, {"inner.width": 1}, "a.yaml")


def test_the_base_stays_as_it_was():
    base = {"inner": {"deep": True}, "shape": {"side": 1}, "steps": 1}
    build(Settings, base, {"inner.width": 1, "lr": 2.0, "shape.kind": "square"}, "a.yaml")
    assert base == {"inner": {"deep": True}, "shape": {"side": 1}, "steps": 1}


def test_a_union_of_configurations_is_one_set_of_flags():
    names = list(fields_of(Options, Settings))
    assert names[:3] == ["out_dir", "quiet", "steps"]
    assert [name for name in names if name.startswith("shape")] == [
        "shape.kind",
        "shape.side",
        "shape.radius",
    ]


def test_help_page(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as end:
        values("--help")
    assert end.value.code == 0
    page = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "usage: microtome x [CONFIG.yaml]" in page
    assert "--steps INT How many steps. (required)" in page
    assert "--inner.width INT How wide. (default: 9)" in page
    assert "--shape.kind {square,circle}" in page
    assert "--size FLOAT FLOAT (default: 1.0 2.0)" in page


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
