"""The APD configuration: old files, defaults and one-line refusals."""

import subprocess
import sys
from importlib import resources

import pytest

from microtome.core.errors import MicrotomeError
from microtome.decomposition.apd_config import APDConfig

MINIMAL = {
    "batch_size": 100,
    "steps": 10,
    "print_freq": 1,
    "lr": 0.1,
    "C": 4,
    "topk": 1.0,
    "topk_recon_coeff": 1.0,
}


def test_defaults_are_the_originals() -> None:
    config = APDConfig.from_mapping(MINIMAL)
    assert (config.seed, config.batch_topk, config.exact_topk, config.param_match_coeff) == (
        0,
        True,
        False,
        1.0,
    )
    assert (config.lr_schedule, config.lr_warmup_pct, config.attribution_type) == (
        "constant",
        0.0,
        "gradient",
    )
    assert config.image_on_first_step and not config.unit_norm_matrices and not config.distil_from_target
    for name in ("out_recon", "act_recon", "schatten", "lp_sparsity"):
        assert getattr(config, f"{name}_coeff") is None
    assert config.attribution_model == "target"


def test_old_keys_are_carried_over_with_a_note() -> None:
    old = {
        **MINIMAL,
        "topk_act_recon_coeff": 2.0,
        "spd_type": "rank_penalty",
        "orthog_coeff": None,
        "hardcode_topk_mask_step": None,
        "pnorm_end": None,
        "topk_l2_coeff": None,
        "topk_param_attrib_coeff": None,
        "sparsity_warmup_pct": 0.0,
        "task_config": {
            "task_name": "tms",
            "k": 7,
            "feature_probability": 0.05,
            "train_bias": False,
            "bias_val": 0.0,
            "pretrained_model_path": "wandb:spd-tms/runs/si0zbfxf",
        },
    }
    del old["C"]
    notes: list[str] = []
    config = APDConfig.from_mapping(old, note=notes.append)
    assert config.C == 7 and config.act_recon_coeff == 2.0
    assert len(notes) == 9
    assert any("task_config.k" in note and "C" in note for note in notes)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"C": 0}, ["C=0"]),
        ({"topk": 5.0}, ["topk=5.0", "at most 4"]),
        ({"topk": 4.0, "distil_from_target": True}, ["topk=4.0", "at most 3"]),
        ({"C": 1, "topk": 0.5, "distil_from_target": True}, ["C=1", "at least 2"]),
        ({"topk": 1.5, "batch_topk": False}, ["topk=1.5", "whole number"]),
        ({"topk": 0.001}, ["topk=0.001", "batch_size"]),
        ({"topk": None}, ["topk=None"]),
        ({"topk": None, "lp_sparsity_coeff": 1.0, "pnorm": 0.9}, ["topk_recon_coeff", "needs topk"]),
        ({"lp_sparsity_coeff": 1.0}, ["pnorm", "needs it"]),
        ({"schatten_coeff": 1.0}, ["schatten_pnorm", "needs it"]),
        ({"exact_topk": True, "batch_topk": False}, ["exact_topk", "batch_topk: true"]),
        (
            {
                "topk": None,
                "topk_recon_coeff": None,
                "lp_sparsity_coeff": 1.0,
                "pnorm": 1.0,
                "exact_topk": True,
            },
            ["exact_topk"],
        ),
        ({"lr_schedule": "exponential"}, ["lr_exponential_halflife"]),
        ({"topk_recon_coeff": None, "param_match_coeff": None}, ["param_match_coeff"]),
        ({"lr_warmup_pct": 1.5}, ["lr_warmup_pct=1.5"]),
        ({"steps": 0}, ["steps=0"]),
        ({"attribution_type": "magic"}, ["attribution_type"]),
        (
            {"task_config": {"task_name": "tms", "feature_probability": 1.5, "pretrained_model_path": "x"}},
            ["feature_probability=1.5"],
        ),
        (
            {"task_config": {"task_name": "tms", "train_bias": True, "pretrained_model_path": "x"}},
            ["train_bias"],
        ),
    ],
)
def test_bad_values_are_refused_in_one_line(change: dict[str, object], words: list[str]) -> None:
    with pytest.raises(MicrotomeError) as caught:
        APDConfig.from_mapping({**MINIMAL, **change})
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_unknown_keys_come_with_the_nearest_known_one() -> None:
    with pytest.raises(MicrotomeError, match="schatten_coeff"):
        APDConfig.from_mapping({**MINIMAL, "schaten_coeff": 1.0})


def test_packaged_recipes_load() -> None:
    names = []
    for entry in resources.files("microtome.recipes").iterdir():
        if entry.name.endswith(".yaml") and ("apd" in entry.name or "topk" in entry.name):
            with resources.as_file(entry) as path:
                config = APDConfig.from_file(path)
            assert config.task_config is not None
            names.append(entry.name)
    assert "local_tms_topk_config.yaml" in names and "tms_5-2_apd.yaml" in names


def test_the_configuration_imports_no_torch() -> None:
    code = "import sys, microtome.decomposition.apd_config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
