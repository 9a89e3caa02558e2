"""Command lines against ones written by hand."""

import json

import pytest

from microtome.cli.programs import OurPrograms
from microtome.core.errors import MicrotomeError
from microtome.sweep.command import argument_lists, build_template, fill
from microtome.sweep.parameters import parse_space

VALUES = {"lr": 0.1, "flag": True, "off": False, "sizes": [4, 5], "none": None, "name": "a b"}


def template(program="train.py", command=None, folder=None):
    return build_template(program, command, OurPrograms(), folder, folder)


@pytest.fixture
def here(tmp_path):
    (tmp_path / "train.py").touch()
    return tmp_path


def words(here, command, values=VALUES, parameters=None):
    space = parse_space(parameters or {name: {"value": value} for name, value in values.items()}, "s")
    return fill(template(command=command, folder=here), values, space, here / "0.json")


@pytest.mark.parametrize(
    ("macro", "expected"),
    [
        ("args", ["--lr=0.1", "--flag=True", "--off=False", "--sizes=[4, 5]", "--none=None", "--name=a b"]),
        (
            "args_no_equals",
            [
                "--lr",
                "0.1",
                "--flag",
                "True",
                "--off",
                "False",
                "--sizes",
                "[4, 5]",
                "--none",
                "None",
                "--name",
                "a b",
            ],
        ),
        ("args_no_hyphens", ["lr=0.1", "flag=True", "off=False", "sizes=[4, 5]", "none=None", "name=a b"]),
        ("args_no_boolean_flags", ["--lr=0.1", "--flag", "--sizes=[4, 5]", "--none=None", "--name=a b"]),
        (
            "args_json",
            ['{"lr": 0.1, "flag": true, "off": false, "sizes": [4, 5], "none": null, "name": "a b"}'],
        ),
    ],
)
def test_argument_macros(here, macro, expected):
    assert argument_lists(VALUES)[macro] == expected
    assert words(here, ["run", f"${{{macro}}}"]) == ["run", *expected]


def test_the_default_command_and_the_other_macros(here, monkeypatch):
    assert words(here, None, {"lr": 1}) == ["/usr/bin/env", "${interpreter}", "train.py", "--lr=1"]
    assert words(here, ["${args_json_file}"], {}, {"lr": {"value": 1}}) == [str(here / "0.json")]
    monkeypatch.setenv("WHERE", "there")
    monkeypatch.delenv("NOWHERE", raising=False)
    command = ["--to=${envvar:WHERE}/${envvar:NOWHERE}", 3]
    assert words(here, command, {}, {"lr": {"value": 1}}) == ["--to=there/NOWHERE", "3"]


def test_nested_parameters_reach_other_programs_as_one_flag(here):
    nested = {"opt": {"parameters": {"lr": {"value": 1}, "b": {"value": 2}}}, "n": {"value": 3}}
    values = {"opt.lr": 1, "opt.b": 2, "n": 3}
    assert words(here, ["${args}"], values, nested) == ["--opt={'lr': 1, 'b': 2}", "--n=3"]
    (text,) = words(here, ["${args_json}"], values, nested)
    assert json.loads(text) == {"opt": {"lr": 1, "b": 2}, "n": 3}


@pytest.mark.parametrize(
    ("program", "command", "expected"),
    [
        (
            "spd/experiments/tms/tms_decomposition.py",
            ["${env}", "${interpreter}", "${program}", "spd/experiments/tms/tms_5-2_config.yaml", "${args}"],
            ["/usr/bin/env", "${interpreter}", "-m", "microtome", "decompose", "tms_5-2.yaml"],
        ),
        (
            "microtome train tms",
            ["${env}", "CUDA_VISIBLE_DEVICES=0", "python", "-u", "${program}", "--steps=5"],
            [
                "/usr/bin/env",
                "CUDA_VISIBLE_DEVICES=0",
                "${interpreter}",
                "-m",
                "microtome",
                "train",
                "tms",
                "--steps=5",
            ],
        ),
        (
            "",
            ["python", "spd/experiments/resid_mlp/resid_mlp_decomposition.py", "resid_mlp1.yaml"],
            ["${interpreter}", "-m", "microtome", "decompose", "resid_mlp1.yaml"],
        ),
        (
            "",
            ["microtome", "decompose", "tms_5-2"],
            ["${interpreter}", "-m", "microtome", "decompose", "tms_5-2"],
        ),
        ("train_tms", None, ["/usr/bin/env", "${interpreter}", "-m", "microtome", "train", "tms"]),
    ],
)
def test_old_programs_are_our_commands(here, program, command, expected):
    space = parse_space({"lr": {"value": 1}}, "s")
    made = template(program, command, here)
    found = fill(made, {"lr": 1}, space, here / "0.json")
    assert [word.split("/")[-1] if word.endswith(".yaml") else word for word in found] == expected
    assert all(path.is_absolute() and path.is_file() for path in made.configs)


def test_a_configuration_is_looked_for_beside_and_above_the_sweep_file(tmp_path, monkeypatch):
    deep = tmp_path / "spd" / "experiments" / "tms"
    deep.mkdir(parents=True)
    (deep / "my_config.yaml").write_text("C: 5\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for text in ("spd/experiments/tms/my_config.yaml", "my_config.yaml"):
        made = build_template("decompose", ["${program}", text], OurPrograms(), deep, elsewhere)
        assert made.configs == (deep / "my_config.yaml",)


def test_a_script_beside_the_sweep_file_is_found(here, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    assert build_template("train.py", None, OurPrograms(), here, elsewhere).program == (
        str(here / "train.py"),
    )


@pytest.mark.parametrize(
    ("program", "command", "line"),
    [
        ("trian.py", None, r"program='trian.py': no such file"),
        ("train.py", ["${argz}"], r"command: \$\{argz\}: unknown macro; did you mean \$\{args\}"),
        ("decompose", ["${program}", "nothing.yaml"], r"nothing.yaml: neither a file nor a recipe"),
    ],
)
def test_a_wrong_command_is_one_line(here, program, command, line):
    with pytest.raises(MicrotomeError, match=line):
        template(program, command, here)
