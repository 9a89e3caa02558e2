"""The sweep file: what is read, and what a wrong one says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microtome.core.errors import MicrotomeError
from microtome.sweep.parameters import KEYS, Parameter, parse_space, read_numbers
from microtome.sweep.spec import read_spec
from microtome.sweep.sweep_params import experiment_grids, is_sweep_params


def spec(**changes):
    return {"program": "x.py", "method": "grid", "parameters": {"lr": {"values": [1, 2]}}} | changes


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ({"value": None}, "constant"),
        ({"values": [1]}, "categorical"),
        ({"min": 1, "max": 3}, "int_uniform"),
        ({"min": 1, "max": 3.0}, "uniform"),
        ({"min": 1.0, "max": 3}, "uniform"),
        ({"distribution": "normal"}, "normal"),
        ({"distribution": "q_beta"}, "q_beta"),
    ],
)
def test_the_distribution_that_is_meant_when_none_is_named(given, kind):
    assert Parameter.from_mapping(given).kind == kind


EXAMPLES = {
    "value": st.integers(),
    "values": st.lists(st.integers(), min_size=1),
    "min": st.floats(0.1, 1),
    "max": st.floats(1, 9),
    **dict.fromkeys(("mu", "sigma", "q", "a", "b"), st.floats(0.1, 9)),
}


@given(st.data(), st.sampled_from(sorted(set(KEYS) - {"int_uniform"})))
def test_every_distribution_with_its_own_keys_is_read_and_with_a_foreign_one_refused(data, kind):
    own = {k: data.draw(EXAMPLES[k]) for k in KEYS[kind] if k != "probabilities"}
    parameter = Parameter.from_mapping({"distribution": kind, **own})
    assert parameter.kind == kind
    foreign = data.draw(st.sampled_from(sorted(set(EXAMPLES) - set(KEYS[kind]))))
    with pytest.raises(MicrotomeError, match=rf"{foreign}=.*{kind} takes"):
        Parameter.from_mapping({"distribution": kind, **own, foreign: data.draw(EXAMPLES[foreign])})


names = st.from_regex(r"[a-z]{1,5}", fullmatch=True)
trees = st.recursive(
    st.builds(lambda v: {"value": v}, st.integers()),
    lambda inner: st.builds(
        lambda d: {"parameters": d}, st.dictionaries(names, inner, min_size=1, max_size=3)
    ),
    max_leaves=6,
)


@given(st.dictionaries(names, trees, min_size=1, max_size=3))
def test_nested_parameters_become_dotted_and_nested_again(tree):
    def plain(node):
        inside = node.get("parameters")
        return node["value"] if inside is None else {key: plain(value) for key, value in inside.items()}

    space = parse_space(tree, "s")
    values = {name: parameter.value for name, parameter in space.parameters.items()}
    assert space.nested(values) == {key: plain(value) for key, value in tree.items()}
    assert all(name == ".".join(path) for name, path in space.paths.items())


def test_dotted_names_stay_as_they_are():
    space = parse_space({"task_config.p": {"value": 1}}, "s")
    assert space.nested({"task_config.p": 1}) == {"task_config.p": 1}


def test_yaml_exponents_without_a_point_are_numbers():
    assert read_numbers({"values": ["5e-4", "1e0", "2E4", "e5", "1e", "v1"]}) == {
        "values": [5e-4, 1, 20000, "e5", "1e", "v1"]
    }


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"method": "gird"}, r"method='gird': must be 'grid', 'random' or 'bayes'"),
        (
            {"parameters": {"lr": {"distribution": "log_unifrom", "min": 1, "max": 2}}},
            r"parameters\.lr: .*log_uniform\?",
        ),
        ({"parameters": {"lr": {"min": 3, "max": 2}}}, r"parameters\.lr: max=2: below min=3; swap them"),
        ({"parameters": {"lr": {"min": 3}}}, r"parameters\.lr: max=None: uniform needs min and max; give it"),
        ({"parameters": {"lr": {"mx": 3}}}, r"parameters\.lr: unknown key mx; did you mean max"),
        ({"parameters": {"lr": [1, 2]}}, r"parameters\.lr=\[1, 2\]: not a mapping; write `values: \[1, 2\]`"),
        (
            {"parameters": {"a": {"parameters": {"b": 3}}}},
            r"parameters\.a\.b=3: not a mapping; write `value: 3`",
        ),
        ({"parameters": {"lr": {"values": []}}}, r"parameters\.lr: values=\(\): holds nothing"),
        ({"parameters": {"lr": {}}}, r"parameters\.lr: .*give value, values, or min and max"),
        ({"parameters": {}}, r"parameters=\{\}: names nothing to vary"),
        (
            {"parameters": {"lr": {"values": [1, 2], "probabilities": [0.5, 0.6]}}},
            r"parameters\.lr: probabilities=\[0.5, 0.6\]: .*sum to 1",
        ),
        (
            {"parameters": {"q": {"distribution": "log_uniform_values", "min": 0, "max": 1}}},
            r"min=0: .*above 0",
        ),
        ({"method": "bayes"}, r"metric=None: method bayes needs one"),
        ({"metric": {"name": "a", "goal": "more"}}, r"metric\.goal='more': must be 'minimize' or 'maximize'"),
        (
            {"metric": {"name": "a"}, "early_terminate": {"type": "hyperband"}},
            r"min_iter=None: hyperband needs",
        ),
        ({"metric": {"name": "a"}, "early_terminate": {"max_iter": 9}}, r"s=None: max_iter needs it"),
        ({"program": ""}, r"program='': nothing to run"),
        ({"job": "me/it"}, r"job='me/it': runs on W&B Launch only"),
        ({"parametres": {}}, r"unknown key parametres; did you mean parameters"),
    ],
)
def test_a_wrong_file_is_one_line_that_names_the_place(changes, line):
    with pytest.raises(MicrotomeError, match=line) as caught:
        read_spec(spec(**changes), "sweep.yaml")
    assert str(caught.value).startswith("sweep.yaml: ")
    assert "\n" not in str(caught.value)


def test_what_only_the_server_needs_is_read_and_dropped_with_a_note():
    notes = []
    read = read_spec(
        spec(project="p", entity="e", description="d", controller={"type": "local"}), "s", notes.append
    )
    assert read.project == "p"
    assert len(notes) == 1 and "controller" in notes[0]


# -- the later form, with sections

SECTIONS = {
    "global": {
        "seed": {"values": [0, 1]},
        "task_config": {"feature_probability": {"values": [0.05]}},
        "loss_metric_configs": [
            {
                "classname": "ImportanceMinimalityLoss",
                "coeff": {"values": ["1e-3", "3e-3"]},
                "pnorm": {"values": [2.0]},
            }
        ],
    },
    "tms_5-2": {
        "seed": {"values": [5]},
        "loss_metric_configs": [{"classname": "ImportanceMinimalityLoss", "coeff": {"values": [0.1]}}],
    },
    "resid_mlp1": {"C": {"values": [100]}},
}


def test_sections_are_laid_over_global_and_losses_get_our_names():
    assert is_sweep_params(SECTIONS)
    grids = experiment_grids(SECTIONS, (), "s.yaml")
    assert grids == {
        "tms_5-2": {
            "seed": [5],
            "task_config.feature_probability": [0.05],
            "importance_minimality_coeff": [0.1],
            "pnorm": [2.0],
        },
        "resid_mlp1": {
            "seed": [0, 1],
            "task_config.feature_probability": [0.05],
            "importance_minimality_coeff": [1e-3, 3e-3],
            "pnorm": [2.0],
            "C": [100],
        },
    }
    assert list(experiment_grids(SECTIONS, ("tms_40-10",), "s")) == ["tms_40-10"]  # global alone


@pytest.mark.parametrize(
    ("mapping", "chosen", "line"),
    [
        ({"global": {"seed": {"values": [0]}}}, (), r"only a global section; say which with --experiments"),
        (
            {"tms_5-2": {"seed": {"values": [0]}}},
            ("tms_5_2",),
            r"--experiments tms_5_2: .*did you mean tms_5-2",
        ),
        ({"tms_5-2": {"seed": 3}}, (), r"tms_5-2: seed=3: not a list of values"),
        ({"tms_5-2": {"seed": {"values": 3}}}, (), r"seed.values=3: give a list"),
        ({"a": {"loss_metric_configs": [{"coeff": {"values": [1]}}]}}, (), r"has no classname"),
        ({"a": None}, (), r"a: no values to try"),
    ],
)
def test_wrong_sections_are_one_line(mapping, chosen, line):
    assert is_sweep_params(mapping)
    with pytest.raises(MicrotomeError, match=line):
        experiment_grids(mapping, chosen, "s.yaml")


def test_an_ordinary_sweep_file_has_no_sections():
    assert not is_sweep_params(spec())
    assert not is_sweep_params({"method": "grid"})
