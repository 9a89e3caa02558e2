import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from microtome.core.errors import Diverged, MicrotomeError
from microtome.core.runs import RunFolder
from microtome.core.tracking import NoTracker
from microtome.targets.loading import load_target
from microtome.targets.resid_mlp import ResidMLP
from microtome.targets.tms import TMS
from microtome.training.config import (
    ResidMLPModelConfig,
    ResidMLPTrainConfig,
    TMSModelConfig,
    TMSTrainConfig,
)
from microtome.training.fit_toy import resid_mlp_labels
from microtome.training.represented import feature_norms, found_polygon, interference, represented_features
from microtome.training.toy import fit_pentagons, fit_resid_mlp, fit_tms, train_resid_mlp, train_tms

SMALL_TMS = TMSTrainConfig(
    tms_model_config=TMSModelConfig(n_features=5, n_hidden=2, n_instances=3),
    batch_size=64,
    steps=40,
    lr=5e-3,
    print_freq=10,
    device="cpu",
)
SMALL_RESID = ResidMLPTrainConfig(
    resid_mlp_config=ResidMLPModelConfig(n_features=6, d_embed=12, d_mlp=4, n_instances=2),
    batch_size=64,
    steps=30,
    print_freq=10,
    device="cpu",
)


def regular(n: int, radius: float) -> TMS:
    angles = torch.arange(n) * 2 * math.pi / n
    target = TMS(TMSModelConfig(n_features=n, n_hidden=2))
    with torch.no_grad():
        target.linear1.weight.copy_(radius * torch.stack([angles.cos(), angles.sin()], -1))
    return target


def test_what_is_represented() -> None:
    pentagon = regular(5, 1.1)
    assert represented_features(pentagon).tolist() == [5] and found_polygon(pentagon).tolist() == [True]
    torch.testing.assert_close(feature_norms(pentagon), torch.full((1, 5), 1.1))
    assert interference(pentagon)[0, 0, 1].item() == pytest.approx(math.cos(2 * math.pi / 5), abs=1e-6)
    four = regular(5, 1.1)
    with torch.no_grad():
        four.linear1.weight[0, 2] *= 0.01
    assert represented_features(four).tolist() == [4] and found_polygon(four).tolist() == [False]
    crowded = regular(5, 1.1)
    with torch.no_grad():
        crowded.linear1.weight[0, 1] = crowded.linear1.weight[0, 0]
    assert represented_features(crowded).tolist() == [5] and found_polygon(crowded).tolist() == [False]


def test_the_pentagon_is_found() -> None:
    target = fit_pentagons(4, seed=0, steps=2500)
    assert target.n_instances == 4 and found_polygon(target).all()
    assert ((feature_norms(target) > 0.9) & (feature_norms(target) < 1.4)).all()


def test_too_few_pentagons_is_said() -> None:
    with pytest.raises(MicrotomeError, match=r"0 of 3 initialisations"):
        fit_pentagons(1, steps=1)


def test_identity_hidden_layer_stays() -> None:
    config = SMALL_TMS.model_copy(
        update={
            "tms_model_config": TMSModelConfig(n_features=5, n_hidden=2, n_hidden_layers=1, n_instances=2),
            "fixed_identity_hidden_layers": True,
        }
    )
    target, _ = fit_tms(config)
    assert torch.equal(target.linear("hidden_layers.0").weight, torch.eye(2).expand(2, 2, 2))


def test_same_seed_same_weights() -> None:
    first, losses = fit_tms(SMALL_TMS)
    again, same = fit_tms(SMALL_TMS)
    other, _ = fit_tms(SMALL_TMS.model_copy(update={"seed": 1}))
    assert torch.equal(first.linear1.weight, again.linear1.weight) and torch.equal(losses, same)
    assert not torch.equal(first.linear1.weight, other.linear1.weight)


def test_keep_the_best() -> None:
    _, losses = fit_tms(SMALL_TMS)
    config = TMSTrainConfig.from_mapping({**SMALL_TMS.as_dict(), "keep": 2})
    kept, best = fit_tms(config)
    assert kept.n_instances == 2
    assert best.tolist() == losses.sort().values[:2].tolist()


def test_tms_run_folder(tmp_path: Path) -> None:
    run = train_tms(SMALL_TMS, runs_root=tmp_path, show_progress=False)
    assert run.path.name.startswith(
        "tms_n-features5_n-hidden2_n-hidden-layers0_n-instances3_feat_prob0.05_seed0_20"
    )
    for name in ("tms.pth", "tms_train_config.yaml", "polygon.png", "cosine_similarity_distribution.png"):
        assert (run.path / name).stat().st_size > 0, name
    assert RunFolder.open(run.path).kind == "train-tms" and run.finished
    assert [row["step"] for row in run.metrics()] == [0, 10, 20, 30, 39]
    assert len(run.summary["final_loss"]) == len(run.summary["represented_features"]) == 3
    saved = TMSTrainConfig.from_file(run.path / "tms_train_config.yaml")
    assert saved == SMALL_TMS
    loaded = load_target("latest", runs_root=tmp_path)
    expected, _ = fit_tms(SMALL_TMS)
    x = torch.rand(3, 4, 5)
    assert torch.equal(loaded.target(x), expected(x))


def test_original_code_could_read_the_file(tmp_path: Path) -> None:
    run = train_tms(SMALL_TMS, runs_root=tmp_path, show_progress=False)
    state = torch.load(run.path / "tms.pth", weights_only=True)
    assert {name: tuple(value.shape) for name, value in state.items()} == {
        "b_final": (3, 5),
        "linear1.weight": (3, 5, 2),
    }


def test_resid_mlp_run_folder(tmp_path: Path) -> None:
    config = SMALL_RESID.model_copy(update={"use_trivial_label_coeffs": False})
    run = train_resid_mlp(config, runs_root=tmp_path, show_progress=False)
    assert "n-features6_d-resid12_d-mlp4_n-layers1" in run.path.name
    loaded = load_target(run.path)
    assert loaded.label_coeffs is not None and loaded.label_coeffs.shape == (6,)
    assert ((loaded.label_coeffs >= 1) & (loaded.label_coeffs <= 2)).all()
    expected, _ = fit_resid_mlp(config)
    x = torch.randn(2, 4, 6)
    torch.testing.assert_close(loaded.target(x), expected(x))


@pytest.mark.parametrize(
    "changes",
    [
        {"loss_type": "resid"},
        {"label_type": "abs", "importance_val": 0.9},
        {"fixed_random_embedding": False, "lr_warmup_pct": 0.2},
        {"synced_inputs": [[0, 1]], "lr_schedule": "exponential", "lr_exponential_halflife": 10},
    ],
)
def test_every_variant_learns(changes: dict) -> None:
    config = ResidMLPTrainConfig.from_mapping(
        {**SMALL_RESID.as_dict(), "steps": 150, "feature_probability": 0.3, "lr": 1e-2, **changes}
    )
    history = []
    _, final = fit_resid_mlp(config, lambda step, values: history.append(values["loss"]))
    assert final.shape == (2,) and final.mean().item() < 0.8 * history[0]


def test_labels_are_what_a_perfect_network_computes() -> None:
    # One neuron a feature, identity weights: relu(x) + x, which is the label.
    target = ResidMLP(ResidMLPModelConfig(n_features=3, d_embed=3, d_mlp=3), fixed_embedding=True)
    target.reset(0, embedding="identity")
    with torch.no_grad():
        target.linear("layers.0.mlp_in").weight.copy_(torch.eye(3))
        target.linear("layers.0.mlp_out").weight.copy_(torch.eye(3))
    x = torch.randn(1, 20, 3)
    labels = resid_mlp_labels(ResidMLPTrainConfig(resid_mlp_config=target.config))
    torch.testing.assert_close(target(x), labels(x))


def test_divergence_leaves_nothing_behind(tmp_path: Path) -> None:
    config = SMALL_TMS.model_copy(update={"lr": 1e30, "lr_schedule": "constant"})
    with pytest.raises(Diverged, match="step"):
        train_tms(config, runs_root=tmp_path / "runs", show_progress=False)
    assert not list(tmp_path.rglob("tms*"))


def test_occupied_folder_is_refused_and_kept(tmp_path: Path) -> None:
    run = train_tms(SMALL_TMS, out_dir=tmp_path / "mine", show_progress=False)
    before = (run.path / "tms.pth").read_bytes()
    with pytest.raises(MicrotomeError, match="already holds"):
        train_tms(SMALL_TMS, out_dir=tmp_path / "mine", show_progress=False)
    assert (run.path / "tms.pth").read_bytes() == before


def test_the_defaults_are_the_documented_local_run() -> None:
    config = TMSTrainConfig()
    model = config.tms_model_config
    assert (model.n_features, model.n_hidden, model.n_hidden_layers, model.n_instances) == (40, 10, 0, 3)
    assert (config.feature_probability, config.batch_size, config.steps, config.seed, config.lr) == (
        0.05,
        2048,
        2000,
        0,
        1e-3,
    )
    assert config.data_generation_type == "at_least_zero_active" and config.wandb_project is None


def test_old_file_is_read_unchanged(tmp_path: Path) -> None:
    old = {
        "wandb_project": None,
        "tms_model_config": {
            "n_features": 5,
            "n_hidden": 2,
            "n_hidden_layers": 1,
            "tied_weights": True,
            "device": "cpu",
        },
        "feature_probability": 0.05,
        "batch_size": 8,
        "steps": 3,
        "seed": 0,
        "lr": "1e-3",
        "data_generation_type": "at_least_zero_active",
        "fixed_identity_hidden_layers": True,
        "fixed_random_hidden_layers": False,
        "synced_inputs": None,
    }
    (tmp_path / "old.yaml").write_text(yaml.safe_dump(old))
    config = TMSTrainConfig.from_file(tmp_path / "old.yaml")
    assert config.lr == 1e-3 and config.tms_model_config.n_instances == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"feature_probability": 1.2}, "feature_probability=1.2"),
        ({"keep": 4}, "keep=4"),
        ({"fixed_identity_hidden_layers": True, "fixed_random_hidden_layers": True}, "set at most one"),
        ({"synced_inputs": [[0, 1], [1]]}, "synced_inputs"),
        ({"synced_inputs": [[0, 7]]}, "synced_inputs"),
        ({"stepz": 5}, "did you mean steps"),
    ],
)
def test_bad_tms_configuration(changes: dict, message: str) -> None:
    with pytest.raises(MicrotomeError, match=message) as caught:
        TMSTrainConfig.from_mapping({**SMALL_TMS.as_dict(), **changes})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fixed_identity_embedding": True, "fixed_random_embedding": False}, "make them equal"),
        ({"fixed_identity_embedding": True, "fixed_random_embedding": True}, "set at most one"),
        ({"loss_type": "resid", "importance_val": 0.5}, "importance_val"),
        ({"data_generation_type": "exactly_nine_active"}, "data_generation_type"),
    ],
)
def test_bad_resid_configuration(changes: dict, message: str) -> None:
    with pytest.raises(MicrotomeError, match=message):
        ResidMLPTrainConfig.from_mapping({**SMALL_RESID.as_dict(), **changes})


def test_configurations_import_no_torch() -> None:
    code = "import sys, microtome.training.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_pictures_are_tracked_at_the_last_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B drops what is logged for an earlier step than the last."""
    seen: list[int] = []

    class Steps(NoTracker):
        def log(self, step: int, values: object) -> None:
            seen.append(step)

        def image(self, step: int, name: str, path: Path) -> None:
            seen.append(step)

    monkeypatch.setattr("microtome.training.run.open_tracker", lambda *_: Steps())
    train_tms(SMALL_TMS, out_dir=tmp_path / "run", show_progress=False)
    assert seen == sorted(seen) and seen[-1] == SMALL_TMS.steps - 1 and seen.count(seen[-1]) > 2


@pytest.mark.filterwarnings("error")
def test_inputs_that_are_all_zero_draw_without_a_warning(tmp_path: Path) -> None:
    config = SMALL_TMS.model_copy(update={"feature_probability": 0.0, "steps": 2})
    assert train_tms(config, out_dir=tmp_path / "run", show_progress=False).finished
