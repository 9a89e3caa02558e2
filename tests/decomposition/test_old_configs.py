"""final_config.yaml of the original codes as our configurations."""

import pytest
from old_configs import apd_config, later_config, paper_config

from microtome.core.errors import MicrotomeError
from microtome.decomposition.apd_config import APDConfig, APDTMSTask
from microtome.decomposition.loss_configs import ImportanceMinimality, PGDRecon
from microtome.decomposition.old_runs.configs import OldConfig, read_old_config
from microtome.decomposition.spd_config import SPDConfig, SPDResidMLPTask

FILE = "final_config.yaml"


def spd(found: OldConfig) -> SPDConfig:
    assert isinstance(found.config, SPDConfig)
    return found.config


def test_every_field_of_the_apd_code() -> None:
    original = apd_config("tms", 9, 3, 20000)
    found = read_old_config(original, FILE)
    assert isinstance(found.config, APDConfig) and found.notes == ()
    ours = found.config.as_dict()
    for key, value in original.items():
        if key != "task_config":
            assert ours[key] == value, key
    assert isinstance(found.config.task_config, APDTMSTask)
    assert found.config.task_config.pretrained_model_path.endswith("/out/run/tms.pth")


def test_old_keys_of_the_apd_code_become_notes() -> None:
    original = apd_config("tms", 9, 3, 20000) | {"topk_act_recon_coeff": 2.0, "spd_type": "rank_penalty"}
    del original["act_recon_coeff"]
    original["task_config"] = {**original["task_config"], "handcoded": False}
    found = read_old_config(original, FILE)
    assert found.config.act_recon_coeff == 2.0  # pyright: ignore
    assert len(found.notes) == 3 and all(note.startswith(FILE) for note in found.notes)
    assert any("task_config.handcoded: False" in note for note in found.notes)


def test_every_field_of_the_papers_code() -> None:
    original = paper_config("resid_mlp", 9, 16, 30000, [])
    found = read_old_config(original, FILE)
    assert found.notes == () and found.sigmoid_type == "paper" and found.ci_fn_type is None
    ours = spd(found).as_dict()
    for key, value in original.items():
        if key != "task_config":
            assert ours[key] == value, key
    assert isinstance(spd(found).task_config, SPDResidMLPTask)


def test_gates_without_neurons_were_null_once() -> None:
    original = paper_config("tms", 9, 16, 10, ["linear1"]) | {"n_gate_hidden_neurons": None}
    del original["n_ci_mlp_neurons"]
    assert spd(read_old_config(original, FILE)).n_ci_mlp_neurons == 0


@pytest.mark.parametrize("nested", [False, True])
def test_the_later_code(nested: bool) -> None:
    sites = {"linear1": 9, "linear2": 9}
    original = later_config("tms", sites, "mlp", (12,), "hard", 10000, nested)
    found = read_old_config(original, FILE)
    config = spd(found)
    assert (config.C, config.n_ci_mlp_neurons, config.target_module_patterns) == (
        9,
        12,
        ("linear1", "linear2"),
    )
    assert (config.lr, config.lr_schedule, config.lr_warmup_pct) == (0.002, "cosine_half", 0.0)
    losses = config.all_losses
    assert list(losses) == [
        "importance_minimality",
        "stochastic_recon_layerwise",
        "stochastic_recon",
        "pgd_recon_subset",
    ]
    minimality, pgd = losses["importance_minimality"], losses["pgd_recon_subset"]
    assert isinstance(minimality, ImportanceMinimality) and isinstance(pgd, PGDRecon)
    assert (minimality.coeff, minimality.beta) == (0.003, 0.5)
    assert [minimality.p_at(fraction) for fraction in (0.0, 0.5, 1.0)] == [2.0, 1.5, 1.0]
    assert (pgd.coeff, pgd.step_size, pgd.n_steps, pgd.mask_scope) == (2.0, 1.0, 1, "shared_across_batch")
    assert config.use_delta_component and config.faithfulness_warmup_steps == 200
    assert [metric.label for metric in config.metrics] == ["ci_histograms", "identity_ci_error", "ci_l0"]
    assert (config.steps, config.batch_size, config.print_freq) == (10000, 4096, 100)
    assert (found.sigmoid_type, found.ci_fn_type) == ("hard", "mlp") and config.sigmoid_type == "hard"
    said = "\n".join(found.notes)
    for part in ("train_log_freq is now called print_freq", "loss_metric_configs is now called losses"):
        assert part in said
    assert found.original == original


def test_the_later_code_before_its_list_of_losses() -> None:
    original = paper_config("tms", 9, 16, 10, ["linear1"]) | {
        "gate_type": "vector_mlp",
        "gate_hidden_dims": [8],
        "sigmoid_type": "leaky_hard",
        "lr_schedule": "cosine",
    }
    del original["n_ci_mlp_neurons"]
    found = read_old_config(original, FILE)
    assert (found.ci_fn_type, found.sigmoid_type) == ("vector_mlp", "leaky_hard")
    assert spd(found).importance_minimality_coeff == 0.003 and spd(found).lr_schedule == "cosine"


def test_other_losses_and_tasks_are_no_reason_to_refuse() -> None:
    original = later_config("tms", {"linear1": 9}, "shared_mlp", (), "leaky_hard", 10, False) | {
        "task_config": {"task_name": "memory", "vocab_size": 3},
        "is_embed_unembed_recon": True,
        "loss_metric_configs": [
            {"classname": "FaithfulnessLoss", "coeff": 0.5},
            {"classname": "CIMaskedReconLoss", "coeff": 0.25},
            {"classname": "UnmaskedReconLoss", "coeff": None},
            {"classname": "NeuronSparsityLoss", "coeff": 1.0},
        ],
    }
    found = read_old_config(original, FILE)
    assert (spd(found).faithfulness_coeff, spd(found).recon_coeff) == (0.5, 0.25)
    assert spd(found).importance_minimality_coeff == 0.0 and spd(found).out_recon_coeff == 0.0
    said = "\n".join(found.notes)
    assert (
        "'task_name': 'memory'" in said and "NeuronSparsityLoss" in said and "is_embed_unembed_recon" in said
    )


def test_values_that_cannot_be_are_one_line() -> None:
    original = paper_config("tms", 9, 16, 10, ["linear1"]) | {"lr": "fast"}
    with pytest.raises(MicrotomeError, match=r"final_config\.yaml: lr='fast'") as caught:
        read_old_config(original, FILE)
    assert "\n" not in str(caught.value)
