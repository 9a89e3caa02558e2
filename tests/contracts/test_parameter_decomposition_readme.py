"""What the original APD code's README tells its users to type, typed.

Step counts are made small by flags; names, files and the order of things are the README's.
"""

import importlib
import json
import re
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import yaml

import microtome
from microtome.cli.main import main
from microtome.cli.recipes import find_config
from microtome.decomposition import decompose as decompose_module

ROOT = Path(__file__).parents[2]
FOLDER = re.compile(
    r"tms_n-features40_n-hidden10_n-hidden-layers0_n-instances3_feat_prob0\.05_seed0_\d{8}_\d{6}_\d{3}"
)
Captured, Patch = pytest.CaptureFixture[str], pytest.MonkeyPatch
FEW = ["--steps", "3", "--batch_size", "64", "--quiet"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``python spd/experiments/tms/train_tms.py``: the run folder that it leaves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("here"))
        assert main(["spd/experiments/tms/train_tms.py", *FEW]) == 0
        (run,) = (Path.cwd() / "runs").iterdir()
        return run


# -- 1. Training the TMS model locally ---------------------------------------------------------------------


def test_training_leaves_the_documented_files(trained: Path) -> None:
    assert FOLDER.fullmatch(trained.name)
    state = torch.load(trained / "tms.pth", weights_only=True)
    assert {name: tuple(t.shape) for name, t in state.items()} == {
        "linear1.weight": (3, 40, 10),
        "b_final": (3, 40),
    }
    saved = yaml.safe_load((trained / "tms_train_config.yaml").read_text())
    documented = {
        "wandb_project": None,
        "feature_probability": 0.05,
        "batch_size": 64,
        "steps": 3,
        "seed": 0,
        "lr": 1e-3,
        "data_generation_type": "at_least_zero_active",
        "fixed_identity_hidden_layers": False,
        "fixed_random_hidden_layers": False,
    }
    assert {key: saved[key] for key in documented} == documented
    model = {"n_features": 40, "n_hidden": 10, "n_hidden_layers": 0, "n_instances": 3}
    assert {key: saved["tms_model_config"][key] for key in model} == model


def test_the_defaults_are_the_readmes() -> None:
    from microtome.compat.spd.experiments.tms.train_tms import TMSTrainConfig

    default = TMSTrainConfig()
    assert default == readme_config(steps=2000).model_copy(
        update={"tms_model_config": default.tms_model_config}
    )
    assert (default.batch_size, default.steps, default.lr) == (2048, 2000, 1e-3)


SNIPPET = """
config = TMSTrainConfig(
    wandb_project=None,  # Disables W&B logging
    tms_model_config=TMSModelConfig(
        n_features=40,
        n_hidden=10,
        n_hidden_layers=0,
        n_instances=3,
        device="cuda" if torch.cuda.is_available() else "cpu", # Or your preferred device
    ),
    feature_probability=0.05,
    batch_size=2048,
    steps=2000, # Note: for a well-trained model, prefer 20_000 or more
    seed=0,
    lr=1e-3,
    data_generation_type="at_least_zero_active",
    fixed_identity_hidden_layers=False,
    fixed_random_hidden_layers=False,
)
"""


def readme_config(steps: int):
    names: dict = {}
    imports = "from microtome.compat.spd.experiments.tms.train_tms import TMSModelConfig, TMSTrainConfig\n"
    code = SNIPPET.replace("steps=2000", f"steps={steps}")
    exec(imports + "import torch\n" + code, names)  # the README's own lines
    return names["config"]


def test_the_snippet_trains_as_a_library(tmp_path: Path) -> None:
    from microtome.compat.spd.experiments.tms.train_tms import run_train

    run = run_train(readme_config(steps=2), runs_root=tmp_path, show_progress=False)
    assert FOLDER.fullmatch(run.path.name)
    assert (run.path / "tms.pth").is_file()


# -- 2. Running APD locally --------------------------------------------------------------------------------


def test_the_placeholder_left_as_it_is_gets_one_line(
    tmp_path: Path, monkeypatch: Patch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    script = "spd/experiments/tms/tms_decomposition.py"
    assert main([script, "spd/experiments/tms/local_tms_topk_config.yaml"]) == 2
    message = capsys.readouterr().err.strip()
    assert "\n" not in message
    assert "./out/tms_model_placeholder/tms.pth" in message and "pretrained_model_path" in message
    assert "train tms" in message
    assert list(tmp_path.iterdir()) == []


def test_apd_with_the_path_written_in(trained: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    """Step 2 of the README: edit the placeholder, run, find checkpoints and plots in a timestamped folder."""
    monkeypatch.chdir(tmp_path)
    text = find_config("local_tms_topk_config").read_text()
    assert text.count("./out/tms_model_placeholder/tms.pth") == 1
    edited = tmp_path / "local_tms_topk_config.yaml"
    edited.write_text(text.replace("./out/tms_model_placeholder/tms.pth", str(trained / "tms.pth")))
    few = ["--steps", "2", "--batch_size", "64", "--save_freq", "1", "--image_on_first_step", "false"]
    few += ["--C", "5", "--m", "2", "--n_instances", "1", "--quiet"]
    assert main(["spd/experiments/tms/tms_decomposition.py", edited.name, *few]) == 0

    (run,) = (tmp_path / "runs").iterdir()
    assert re.search(r"\d{8}_\d{6}_\d{3}$", run.name)
    assert sorted(file.name for file in run.glob("spd_model_*.pth")) == ["spd_model_1.pth", "spd_model_2.pth"]
    shapes = {n: tuple(t.shape) for n, t in torch.load(run / "spd_model_2.pth", weights_only=True).items()}
    assert shapes == {"b_final": (1, 40), "linear1.A": (1, 5, 40, 2), "linear1.B": (1, 5, 2, 10)}
    assert (run / "tms.pth").is_file() and (run / "tms_train_config.yaml").is_file()
    plots = {file.name for file in (run / "plots").glob("*.png")}
    assert {"component_weights.png", "subnetwork_attributions.png", "loss_curves.png"} <= plots
    final = yaml.safe_load((run / "final_config.yaml").read_text())
    given = yaml.safe_load(edited.read_text())
    changed = {"steps", "batch_size", "save_freq", "C", "m"}
    for key in given.keys() - changed - {"task_config", "lr"}:  # YAML reads 1e-3 as text
        assert final[key] == given[key], key
    assert final["lr"] == 1e-3
    assert {k: final["task_config"][k] for k in given["task_config"]} == given["task_config"]


@pytest.fixture()
def without_pictures(monkeypatch: Patch) -> None:
    monkeypatch.setattr(decompose_module, "draw_all", lambda run: [])


@pytest.mark.usefixtures("without_pictures")
def test_latest_spares_the_editing(trained: Path, tmp_path: Path) -> None:
    words = ["local_tms_topk_config", "--task_config.pretrained_model_path", "latest", "--steps", "1"]
    words += ["--batch_size", "16", "--C", "3", "--m", "1", "--image_on_first_step", "false", "--quiet"]
    where = ["--runs_root", str(trained.parent), "--out_dir", str(tmp_path / "run")]
    assert main(["decompose", *words, *where]) == 0
    assert microtome.load(tmp_path / "run").n_instances == 3


OLD_APD = {
    "topk": 1,
    "batch_size": 32,
    "steps": 1,
    "print_freq": 1,
    "lr": 1e-3,
    "topk_recon_coeff": 1,
    "topk_act_recon_coeff": 0.5,
    "image_on_first_step": False,
    "spd_type": "rank_one",
    "hardcode_topk_mask_step": None,
    "topk_l2_coeff": None,
    "topk_param_attrib_coeff": None,
    "orthog_coeff": None,
    "sparsity_warmup_pct": 0.0,
    "pnorm_end": None,
}


@pytest.mark.usefixtures("without_pictures")
def test_renamed_and_retired_keys_are_taken_with_a_note(
    trained: Path, tmp_path: Path, capsys: Captured
) -> None:
    task = {"task_name": "tms", "k": 4, "bias_val": 0.0, "pretrained_model_path": str(trained / "tms.pth")}
    (tmp_path / "old.yaml").write_text(yaml.safe_dump({**OLD_APD, "task_config": task}))
    words = ["tms_decomposition", str(tmp_path / "old.yaml"), "--out_dir", str(tmp_path / "run"), "--quiet"]
    assert main(words) == 0
    notes = capsys.readouterr().err
    for key in ("topk_act_recon_coeff", "spd_type", "topk_l2_coeff", "orthog_coeff", "pnorm_end"):
        assert key in notes
    final = yaml.safe_load((tmp_path / "run" / "final_config.yaml").read_text())
    assert (final["C"], final["act_recon_coeff"]) == (4, 0.5)
    assert "k" not in final["task_config"]


OLD_SPD = {
    "C": 4,
    "batch_size": 32,
    "embedding_recon_coeff": None,
    "faithfulness_coeff": 1.0,
    "image_freq": None,
    "image_on_first_step": False,
    "importance_minimality_coeff": 0.003,
    "is_embed_unembed_recon": False,
    "log_ce_losses": False,
    "lr": 0.001,
    "lr_exponential_halflife": None,
    "lr_schedule": "cosine",
    "lr_warmup_pct": 0.0,
    "n_ci_mlp_neurons": 16,
    "n_eval_steps": 1,
    "n_mask_samples": 1,
    "out_recon_coeff": None,
    "output_loss_type": "mse",
    "pnorm": 1.0,
    "pretrained_model_class": "spd.experiments.tms.models.TMSModel",
    "pretrained_model_name_hf": None,
    "pretrained_model_output_attr": None,
    "print_freq": 1,
    "recon_coeff": None,
    "recon_layerwise_coeff": None,
    "save_freq": None,
    "schatten_coeff": None,
    "seed": 0,
    "steps": 1,
    "stochastic_recon_coeff": 1.0,
    "stochastic_recon_layerwise_coeff": 1.0,
    "target_module_patterns": ["linear1", "linear2"],
    "task_config": {
        "task_name": "tms",
        "feature_probability": 0.05,
        "data_generation_type": "at_least_zero_active",
    },
    "tokenizer_name": None,
    "wandb_project": None,
    "wandb_run_name": None,
    "wandb_run_name_prefix": "",
}


@pytest.mark.usefixtures("without_pictures")
def test_a_configuration_of_the_spd_papers_code_runs_unchanged(tmp_path: Path) -> None:
    """On a target file in that code's layout: ``nn.Linear`` weights, no instances."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(2, 5, generator=generator)
    state = {"linear1.weight": weight, "linear2.weight": weight.T, "linear2.bias": torch.zeros(5)}
    torch.save(state, tmp_path / "tms.pth")
    model = {"n_features": 5, "n_hidden": 2, "n_hidden_layers": 0, "tied_weights": True, "device": "cpu"}
    train = {"tms_model_config": model, "feature_probability": 0.05, "wandb_project": None}
    (tmp_path / "tms_train_config.yaml").write_text(yaml.safe_dump(train))
    old = {**OLD_SPD, "pretrained_model_path": str(tmp_path / "tms.pth")}
    (tmp_path / "old.yaml").write_text(yaml.safe_dump(old))
    words = ["tms_decomposition", str(tmp_path / "old.yaml"), "--out_dir", str(tmp_path / "run"), "--quiet"]
    assert main(words) == 0
    result = microtome.load(tmp_path / "run")
    torch.testing.assert_close(result.sites["linear1"].weight[0], weight.T)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["components"] == {
        "linear1": 4,
        "linear2": 4,
    }


@pytest.mark.usefixtures("without_pictures")
def test_residual_mlps_by_their_script_names(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.chdir(tmp_path)
    small = [f"--resid_mlp_config.{k}={v}" for k, v in (("n_features", 6), ("d_embed", 8), ("d_mlp", 4))]
    assert main(["spd/experiments/resid_mlp/train_resid_mlp.py", *small, *FEW]) == 0
    (run,) = (tmp_path / "runs").iterdir()
    for name in ("resid_mlp.pth", "resid_mlp_train_config.yaml", "label_coeffs.json"):
        assert (run / name).is_file()
    task = {"task_name": "residual_mlp", "pretrained_model_path": str(run / "resid_mlp.pth")}
    config = {**OLD_APD, "C": 4, "task_config": task}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    script = "spd/experiments/resid_mlp/resid_mlp_decomposition.py"
    assert main([script, "c.yaml", "--out_dir", "apd", "--quiet"]) == 0
    assert (tmp_path / "apd" / "spd_model_1.pth").is_file()
    assert (tmp_path / "apd" / "resid_mlp.pth").is_file()


# -- Module names, make -------------------------------------------------------------------------------------

OLD_NAMES = [
    ("experiments.tms.train_tms", "TMSTrainConfig", "microtome.training.config.TMSTrainConfig"),
    ("experiments.tms.train_tms", "TMSModelConfig", "microtome.targets.config.TMSModelConfig"),
    ("experiments.tms.train_tms", "run_train", "microtome.training.toy.train_tms"),
    ("experiments.tms.models", "TMSModel", "microtome.targets.tms.TMS"),
    ("experiments.resid_mlp.train_resid_mlp", "ResidMLPTrainConfig", "microtome.training.config.ResidMLPTrainConfig"),  # noqa: E501
    ("experiments.resid_mlp.train_resid_mlp", "run_train", "microtome.training.toy.train_resid_mlp"),
    ("experiments.resid_mlp.models", "ResidualMLPModel", "microtome.targets.resid_mlp.ResidMLP"),
    ("experiments.resid_mlp.models", "ResidMLP", "microtome.targets.resid_mlp.ResidMLP"),
    ("run_spd", "Config", "microtome.decomposition.apd_config.APDConfig"),
    ("run_spd", "optimize", "microtome.decomposition.decompose.run_config"),
    ("configs", "Config", "microtome.decomposition.spd_config.SPDConfig"),
    ("models.component_model", "ComponentModel", "microtome.decomposition.component_model.ComponentModel"),
    ("models.component_model", "SPDRunInfo", "microtome.decomposition.run_info.SPDRunInfo"),
    ("models.components", "make_mask_infos", "microtome.decomposition.component_model.make_mask_infos"),
    ("utils.data_utils", "SparseFeatureDataset", "microtome.data.sparse_features.SparseFeatures"),
]  # fmt: skip


@pytest.mark.parametrize(("module", "name", "ours"), OLD_NAMES)
def test_old_modules_hand_out_ours(module: str, name: str, ours: str) -> None:
    found = getattr(importlib.import_module(f"microtome.compat.spd.{module}"), name)
    where, _, what = ours.rpartition(".")
    assert found is getattr(importlib.import_module(where), what)


@pytest.mark.parametrize(
    ("script", "words", "shown"),
    [
        ("experiments.tms.train_tms", ["--help"], "usage: microtome train tms"),
        ("experiments.tms.tms_decomposition", ["--help"], "usage: microtome decompose"),
        ("experiments.resid_mlp.train_resid_mlp", ["--help"], "usage: microtome train resid-mlp"),
        ("experiments.resid_mlp.resid_mlp_decomposition", ["--help"], "usage: microtome decompose"),
    ],
)
def test_old_scripts_run_as_modules(
    script: str, words: Sequence[str], shown: str, monkeypatch: Patch, capsys: Captured
) -> None:
    name = f"microtome.compat.spd.{script}"
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "argv", ["script.py", *words])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(name, run_name="__main__")
    assert ended.value.code == 0
    assert shown in capsys.readouterr().out


def test_the_make_targets_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    assert {"install-dev", "install", "check", "type", "format", "test", "test-all"} <= targets
