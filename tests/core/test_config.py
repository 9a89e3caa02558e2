"""Configurations: what is refused, how it is said, and what old files become."""

from typing import Annotated, ClassVar, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, PositiveInt

from microtome.core.config import Config, Probability, read_yaml
from microtome.core.errors import MicrotomeError


class Model(Config):
    n_features: PositiveInt = 5
    share: Probability = 0.5


class Cat(Config):
    kind: Literal["cat"] = "cat"
    whiskers: int = 4


class Dog(Config):
    kind: Literal["dog"] = "dog"
    tail: int = 1


class Settings(Config):
    renamed: ClassVar[dict[str, str]] = {"model.k": "steps", "old_rate": "lr"}
    retired: ClassVar[dict[str, str]] = {"speed": "runs are always fast"}

    model: Model = Model()
    steps: PositiveInt = 10
    lr: float = 1e-3
    name: str | None = None
    limit: int | None = None
    pair: tuple[float, float] = (1.0, 2.0)
    pet: Annotated[Cat | Dog, Field(discriminator="kind")] | None = None


def refusal(mapping, source="a.yaml"):
    with pytest.raises(MicrotomeError) as caught:
        Settings.from_mapping(mapping, source=source)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_unknown_key_names_the_file_and_the_nearest_key():
    assert refusal({"stepz": 1}) == "a.yaml: unknown key stepz; did you mean steps?"


def test_unknown_nested_key_is_named_with_dots():
    assert "model.n_featurs; did you mean model.n_features?" in refusal({"model": {"n_featurs": 2}})


def test_key_of_another_place_is_pointed_to():
    assert "n_features; it belongs at model.n_features" in refusal({"n_features": 3})


def test_unknown_key_inside_a_union_is_judged_by_the_kind_that_the_values_name():
    assert "unknown key pet.tail" in refusal({"pet": {"kind": "cat", "tail": 2}})
    assert Settings.from_mapping({"pet": {"kind": "dog", "tail": 2}}).pet == Dog(tail=2)


def test_a_kind_that_is_not_there_is_told_with_the_nearest_one():
    assert refusal({"pet": {"kind": "catt"}}) == (
        "a.yaml: pet.kind='catt': there is none of that name; did you mean cat?"
    )
    assert refusal({"pet": {"kind": "x"}}).endswith("none of that name; known: cat, dog")


def test_several_bad_values_share_one_line():
    text = refusal({"steps": -1, "model": {"share": 2}, "lr": float("nan")})
    assert text.startswith("a.yaml: ")
    assert "steps=-1: must be greater than 0" in text
    assert "model.share=2: must be less than or equal to 1" in text
    assert "lr=nan: must be a finite number" in text


def test_not_a_mapping():
    assert "model=3: must be a mapping" in refusal({"model": 3})


@pytest.mark.parametrize(("text", "expected"), [("1e-3", 1e-3), ("5E-1", 0.5), ("3", 3.0)])
def test_exponents_without_a_dot_are_numbers(tmp_path, text, expected):
    file = tmp_path / "a.yaml"
    file.write_text(f"lr: {text}\nsteps: 2e4\nlimit: 1e1\nname: 1e3\n")
    settings = Settings.from_file(file)
    assert (settings.lr, settings.steps, settings.limit, settings.name) == (expected, 20000, 10, "1e3")


def test_half_a_step_is_refused():
    assert "steps=" in refusal({"steps": "1.5e0"})


def test_dashes_and_underscores_are_alike():
    assert Settings.from_mapping({"model": {"n-features": 7}, "old-rate": 0.5}) == Settings(
        model=Model(n_features=7), lr=0.5
    )


def test_old_keys_are_carried_over_with_a_note_each():
    notes: list[str] = []
    settings = Settings.from_mapping(
        {"model": {"k": 7}, "old_rate": 0.5, "speed": 3}, source="a.yaml", note=notes.append
    )
    assert settings == Settings(steps=7, lr=0.5)
    assert notes == [
        "a.yaml: speed is no longer used: runs are always fast",
        "a.yaml: model.k is now called steps",
        "a.yaml: old_rate is now called lr",
    ]


def test_old_and_new_key_that_disagree_are_refused():
    assert "old name of lr=0.1" in refusal({"old_rate": 0.5, "lr": 0.1})
    assert Settings.from_mapping({"old_rate": 0.5, "lr": None}).lr == 0.5


def test_the_mapping_that_was_given_stays_as_it_was():
    mapping = {"model": {"k": 7}, "speed": 3}
    Settings.from_mapping(mapping)
    assert mapping == {"model": {"k": 7}, "speed": 3}


def test_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Settings().steps = 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n- b\n", "holds a list, not a mapping"),
        ("just words", "holds a str, not a mapping"),
        ("a: [1, 2", "not YAML (line "),
        ("a: 1\nb: 2\na: 3\n", "key 'a' is given twice"),
        ("a: !!python/object/apply:os.system ['true']", "not YAML"),
    ],
)
def test_files_that_are_no_configuration(tmp_path, text, message):
    file = tmp_path / "a.yaml"
    file.write_text(text)
    with pytest.raises(MicrotomeError) as caught:
        read_yaml(file)
    assert message in str(caught.value)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_not_there_or_not_text(tmp_path):
    with pytest.raises(MicrotomeError, match="no such file"):
        read_yaml(tmp_path / "none.yaml")
    with pytest.raises(MicrotomeError, match="a folder"):
        read_yaml(tmp_path)
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(MicrotomeError, match="cannot be read as text"):
        read_yaml(tmp_path / "b.yaml")


def test_an_empty_file_is_all_defaults(tmp_path):
    (tmp_path / "a.yaml").write_text("# nothing\n")
    assert Settings.from_file(tmp_path / "a.yaml") == Settings()


finite = st.floats(allow_nan=False, allow_infinity=False)
settings = st.builds(
    Settings,
    model=st.builds(Model, n_features=st.integers(1, 10**9), share=st.floats(0, 1)),
    steps=st.integers(1, 10**12),
    lr=finite,
    name=st.none() | st.text(),
    limit=st.none() | st.integers(-(10**6), 10**6),
    pair=st.tuples(finite, finite),
    pet=st.none() | st.builds(Cat, whiskers=st.integers()) | st.builds(Dog),
)


@given(settings)
def test_what_is_written_reads_back_the_same(value):
    assert Settings.from_mapping(yaml.safe_load(value.as_yaml())) == value


def test_to_file_and_back(tmp_path):
    value = Settings(lr=1e-5, name="null", pet=Dog(tail=3))
    value.to_file(tmp_path / "a.yaml")
    assert Settings.from_file(tmp_path / "a.yaml") == value


class Choice(Config):
    keep: Literal["all"] | PositiveInt = "all"
    pet: Annotated[Cat | Dog, Field(discriminator="kind")] = Cat()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pet": {"kind": "dog", "tail": "long"}}, "pet.tail='long': must be"),
        ({"keep": 0}, "keep=0: must be 'all'; keep=0: must be greater than 0"),
        ({"pet": None}, "pet=None: must be a mapping of keys to values"),
        ({"pet": {"kind": "dog", "whiskers": 3}}, "unknown key pet.whiskers; known keys: kind, tail"),
    ],
)
def test_a_problem_is_told_under_the_name_that_the_user_wrote(values, message):
    with pytest.raises(MicrotomeError) as told:
        Choice.from_mapping(values)
    assert message in str(told.value)
