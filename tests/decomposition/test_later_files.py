"""Files of the later SPD code parse as ours and run unchanged."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import later_files
import pytest
import yaml

from microtome.cli.main import main
from microtome.core.errors import MicrotomeError
from microtome.core.runs import RunFolder
from microtome.decomposition.config import config_from_mapping
from microtome.decomposition.loss_configs import (
    AdamAscent,
    ImportanceMinimality,
    PersistentPGDRecon,
    RepeatAcrossBatch,
    SignAscent,
)
from microtome.decomposition.spd_config import SPDConfig, SPDLanguageTask

Values = dict[str, Any]
SHORT = "--steps 2 --batch_size 8 --eval_batch_size 4 --n_eval_steps 2 --device cpu --quiet"


def read(values: Values) -> tuple[SPDConfig, list[str]]:
    notes: list[str] = []
    config = config_from_mapping(yaml.safe_load(yaml.safe_dump(values)), "their.yaml", notes.append)
    assert isinstance(config, SPDConfig)
    return config, notes


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("targets")
    small = "--steps 1 --batch_size 4 --device cpu --quiet"
    words = {
        "tms": f"{small} --tms_model_config.n_features 5 --tms_model_config.n_hidden 2"
        " --tms_model_config.n_instances 1",
        "resid-mlp": f"{small} --resid_mlp_config.n_features 6 --resid_mlp_config.d_embed 8"
        " --resid_mlp_config.d_mlp 4 --resid_mlp_config.n_layers 2",
        "induction": f"{small} --ih_model_config.vocab_size 8 --ih_model_config.seq_len 12"
        " --ih_model_config.d_model 8 --period 3 6",
    }
    for subject, flags in words.items():
        assert main(["train", subject, *flags.split(), "--out_dir", str(root / subject)]) == 0
    return {subject: root / subject for subject in words}


@pytest.mark.parametrize(
    ("write", "subject", "labels"),
    [
        (later_files.gates_and_coefficients, "tms", ["stochastic_recon", "unmasked_recon"]),
        (later_files.metrics_by_class, "tms", ["stochastic_recon_subset", "ci_masked_recon_layerwise"]),
        (later_files.list_of_losses, "tms", ["stochastic_recon_layerwise"]),
        (later_files.two_exponents, "tms", ["importance_minimality", "stochastic_recon"]),
        (
            later_files.adversaries,
            "tms",
            ["pgd_recon", "pgd_recon_subset", "pgd_recon_layerwise", "persistent_pgd_recon_2"],
        ),
        (later_files.one_function_for_all_sites, "resid-mlp", ["stochastic_recon"]),
        (later_files.two_layers, "resid-mlp", ["stochastic_recon_subset", "pgd_recon_subset"]),
        (later_files.induction, "induction", ["ci_masked_recon", "stochastic_recon_layerwise"]),
    ],
)
def test_a_toys_file_runs_unchanged(
    write: Callable[[], Values], subject: str, labels: list[str], targets: dict[str, Path], tmp_path: Path
) -> None:
    file = tmp_path / "their.yaml"
    file.write_text(yaml.safe_dump(write() | {"pretrained_model_path": str(targets[subject])}))
    assert main(["decompose", str(file), *SHORT.split(), "--out_dir", str(tmp_path / "run")]) == 0
    run = RunFolder.open(tmp_path / "run")
    assert run.finished
    row = run.metrics()[-1]
    assert all(label in row for label in labels), list(row)
    assert SPDConfig.from_mapping(run.config).as_dict() == run.config


def test_each_renamed_and_retired_key_is_told() -> None:
    for write, told in (
        (
            later_files.gates_and_coefficients,
            ["gate_type is now called ci_fn_type", "metrics_fns is no longer", "figures_fns is no longer"],
        ),
        (
            later_files.metrics_by_class,
            ["ci_recon_coeff is now called recon_coeff", "eval_metrics is now called metrics", "list losses"],
        ),
        (
            later_files.two_exponents,
            ["lr_schedule: its parts", "train_log_freq is now", "eval_metric_configs is now"],
        ),
        (
            later_files.language_model,
            [
                "pretrained_model_name is now called pretrained_model_name_hf",
                "task_config.max_seq_len is now called task_config.context_length",
                "ci_config is now",
                "StochasticAttnPatternsReconLoss is left out",
            ],
        ),
    ):
        _, notes = read(write())
        assert len(notes) == len(set(notes)) and all(note.startswith("their.yaml: ") for note in notes)
        for part in told:
            assert any(part in note for note in notes), (part, notes)


def test_values_are_theirs() -> None:
    config, _ = read(later_files.adversaries())
    assert config.subcomponents(["linear1", "linear2"]) == {"linear1": 8, "linear2": 6}
    assert config.importance_function.hidden_dims == (4, 4) and config.sigmoid_type == "leaky_hard"
    assert config.use_delta_component and config.grad_clip_norm_components == 0.01
    assert config.learning_rate("ci_fns", 0) == 1e-3
    assert config.learning_rate("components", config.steps - 1) == pytest.approx(1e-4)
    adam, sign = (
        loss
        for loss in config.losses or ()
        if isinstance(loss, PersistentPGDRecon) and loss.coeff == 0.5 and loss.scope.type != "single_source"
    )
    assert isinstance(adam.optimizer, AdamAscent) and adam.optimizer.beta1 == 0.5
    assert adam.optimizer.lr_schedule is not None and adam.optimizer.lr_schedule.warmup_pct == 0.025
    assert isinstance(sign.optimizer, SignAscent) and sign.scope == RepeatAcrossBatch(n_sources=4)
    assert sign.sites == "subset" and adam.sites == "all"


def test_losses_of_the_paper_stay_coefficients() -> None:
    """So that sweeps over them work and seeds share one program."""
    config, _ = read(later_files.list_of_losses())
    assert config.losses is None and config.importance_minimality_coeff == 3e-3
    assert (config.faithfulness_coeff, config.stochastic_recon_coeff) == (None, 1.0)
    assert config.C == 8 and config.n_ci_mlp_neurons == 4 and config.ci_fn_hidden_dims is None


def test_text_of_a_language_model() -> None:
    config, _ = read(later_files.language_model())
    task = config.task_config
    assert isinstance(task, SPDLanguageTask)
    assert (task.dataset, task.context_length, task.streaming) == ("SimpleStories/SimpleStories", 512, True)
    assert config.pretrained_model_name_hf == "openai-community/gpt2" and config.autocast_bf16
    assert [metric.label for metric in config.metrics] == [
        "ci_l0",
        "ce_and_kl",
        "stochastic_recon_subset_ce_and_kl",
    ]


def test_our_own_files_keep_our_defaults() -> None:
    config, notes = read(
        {
            "method": "spd",
            "use_delta_component": True,
            "module_info": [{"module_pattern": "a*", "C": 3}, {"module_pattern": "*", "C": 4}],
        }
    )
    assert notes == [] and config.sigmoid_type == "paper" and config.ci_fn_type == "mlp"
    assert config.subcomponents(["ab", "b"]) == {"ab": 3, "b": 4} and config.site_patterns == ("a*", "*")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"loss_metric_configs": [{"classname": "StochasticReconLos", "coeff": 1}]}, "StochasticReconLoss"),
        ({"lr_schedule": {"start_val": 1e-3, "fn_type": "step"}}, "constant, linear or cosine"),
        ({"losses": [{"name": "pgd_recon", "steps": 3}]}, "unknown key losses.steps"),
        (
            {"losses": [{"name": "stochastic_recon", "coeff": 1}], "recon_coeff": 2.0},
            "losses takes the place",
        ),
        ({"gradient_accumulation_steps": 3, "batch_size": 4}, "does not divide batch_size=4"),
        ({"ci_config": {"mode": "layerwise", "fn_type": "tree"}}, "ci_fn_type='tree'"),
        (
            {"ci_config": {"mode": "global", "fn_type": "global_reverse_residual", "d_resid_ci_fn": 8}},
            "use global_shared_mlp",
        ),
        ({"ci_fn_mode": "global"}, "use shared_mlp"),
    ],
)
def test_what_cannot_be_is_one_line(change: Values, line: str) -> None:
    with pytest.raises(MicrotomeError, match=line) as caught:
        read({"method": "spd", **change})
    assert "\n" not in str(caught.value)


def test_a_list_of_losses_on_the_command_line(targets: dict[str, Path], tmp_path: Path) -> None:
    words = ["decompose", "--pretrained_model_path", str(targets["tms"]), "--task_config.task_name", "tms"]
    words += ["--C", "6", *SHORT.split(), "--out_dir", str(tmp_path / "run")]
    given = "[{name: stochastic_recon, coeff: 1, sites: subset}, {name: importance_minimality, coeff: 1e-3}]"
    assert main([*words, "--losses", given]) == 0
    losses = SPDConfig.from_mapping(RunFolder.open(tmp_path / "run").config).all_losses
    assert list(losses) == ["stochastic_recon_subset", "importance_minimality"]


@pytest.mark.parametrize("given", ["stochastic_recon", "{name: stochastic_recon}", "[stochastic_recon]"])
def test_what_is_no_list_of_losses_is_told_with_the_mend(
    given: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["decompose", "--losses", given, "--out_dir", str(tmp_path / "run")]) == 2
    told = capsys.readouterr().err
    assert "YAML list" in told and "[{key: value}" in told


def test_coefficients_of_a_list_are_set_by_their_flags(
    targets: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """So that sweeps over the paper's coefficients work on files with other losses beside them."""
    file = tmp_path / "their.yaml"
    file.write_text(yaml.safe_dump(later_files.two_layers()))
    words = ["decompose", str(file), "--pretrained_model_path", str(targets["resid-mlp"]), *SHORT.split()]
    flags = ["--importance_minimality_coeff", "0.003", "--pnorm", "1.5"]
    assert main([*words, *flags, "--out_dir", str(tmp_path / "run")]) == 0
    losses = SPDConfig.from_mapping(RunFolder.open(tmp_path / "run").config).all_losses
    minimality = losses["importance_minimality"]
    assert isinstance(minimality, ImportanceMinimality)
    assert (minimality.coeff, minimality.pnorm) == (0.003, 1.5) and losses["pgd_recon_subset"].coeff == 2.0
    assert main([*words, "--recon_coeff", "1", "--out_dir", str(tmp_path / "other")]) == 2
    assert "losses takes the place of it" in capsys.readouterr().err
