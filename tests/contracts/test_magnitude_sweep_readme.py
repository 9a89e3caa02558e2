"""What the original magnitude sweep's README tells its users to type, typed.

On runs of ours (SPD and APD) and on run folders as the three original codes wrote them. Only the size of the
pictures is made small.
"""

import json
import re
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from old_layouts import write_apd_run, write_later_spd_run, write_spd_paper_run
from PIL import Image

import microtome
from microtome.cli.main import main
from microtome.data.sparse_features import SparseFeatures
from microtome.decomposition import decompose as decompose_module
from microtome.magnitude import pictures
from microtome.magnitude.result import load
from microtome.targets.config import ResidMLPModelConfig
from microtome.targets.resid_mlp import ResidMLP

Captured, Patch = pytest.CaptureFixture[str], pytest.MonkeyPatch
SCRIPT = "spd/scripts/magnitude_sweep/magnitude_sweep.py"
CONFIG = "spd/scripts/magnitude_sweep/magnitude_sweep_config.yaml"
SHIPPED = {  # the file that the original repository has beside its script
    "model_path": "wandb:goodfire/spd/in10bwoo",
    "feature_idx": 0,
    "n_steps": 50,
    "max_magnitude": 1.5,
    "ci_threshold": 0.1,
    "pre_activation": False,
    "figsize_per_subplot": [2, 1.5],
    "dpi": 150,
    "device": "auto",
}
WANDB = "wandb:project/run-id"
FETCHED = Path("runs/downloads/project-run-id")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: Patch) -> Path:
    """An empty folder to work in; pictures of a tenth of their pixels."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pictures, "MAX_PIXELS", 900)
    monkeypatch.delenv("WANDB_ENTITY", raising=False)
    return tmp_path


@pytest.fixture(scope="module")
def decomposed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A residual MLP of ours, decomposed for a few steps."""
    config = ResidMLPModelConfig(n_features=6, d_embed=8, d_mlp=5, n_layers=2)
    target = ResidMLP(config).reset(1, embedding="random")
    data = SparseFeatures(1, 6, 0.3, "at_least_zero_active", (-1.0, 1.0))
    where = tmp_path_factory.mktemp("runs")
    settings = {"C": 7, "steps": 2, "batch_size": 16, "pictures": False}
    found = microtome.decompose(target, "spd", data=data, runs_root=where, **settings)
    assert found.run is not None
    return found.run.path


@pytest.fixture
def ours(decomposed: Path, here: Path) -> Path:
    """That decomposition, as the newest run in ``runs``."""
    return Path(shutil.copytree(decomposed, here / "runs" / decomposed.name))


@pytest.fixture
def undrawn(monkeypatch: Patch) -> None:
    """Pictures by name only: what they show has tests of its own."""
    monkeypatch.setattr(
        pictures, "draw", lambda folder, picture: (Path(folder) / f"{picture.name}.png").touch()
    )


@pytest.fixture
def fetched(here: Path) -> Path:
    """What ``wandb:project/run-id`` stands for, as if it had been downloaded before: 24 features."""
    write_later_spd_run(FETCHED, "resid_mlp", n_features=24, d_embed=26, d_mlp=24, C=25)
    return FETCHED


def grids(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.glob("unified_grid_*.png"))


def newest() -> Path:
    (run,) = [path for path in Path("runs").iterdir() if path.name.startswith("magnitude-")]
    return run


# -- Basic usage --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("undrawn")
def test_the_run_may_stand_without_its_flag(ours: Path) -> None:
    assert main(["magnitude", str(ours), "--n_steps", "7"]) == 0
    assert len(load(newest()).magnitudes) == 7


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    "words",
    [[SCRIPT, CONFIG], ["magnitude_sweep", CONFIG], ["magnitude", "magnitude-sweep-config"]],
    ids=["script", "old name", "ours"],
)
def test_basic_usage(ours: Path, words: list[str], capsys: Captured) -> None:
    assert main(words) == 0
    run = newest()
    assert re.fullmatch(
        rf"magnitude-{ours.name.removeprefix('decompose-')}-\d{{8}}_\d{{6}}_\d{{3}}", run.name
    )
    assert grids(run) == [
        f"unified_grid_feature_0_layers_{i}_{part}.png" for i in (0, 1) for part in ("mlp_in", "mlp_out")
    ]
    with np.load(run / "results" / "magnitude.npz") as stored:
        np.testing.assert_allclose(stored["magnitudes"], np.linspace(0, 1.5, 50))
    shown = capsys.readouterr().out
    assert "Responses:" in shown and "neurons" in shown and f"Wrote {run}" in shown


@pytest.mark.usefixtures("undrawn")
def test_the_shipped_configuration_runs_unchanged(fetched: Path, here: Path) -> None:
    (here / "shipped.yaml").write_text(yaml.safe_dump({**SHIPPED, "model_path": WANDB}))
    assert main([SCRIPT, "shipped.yaml"]) == 0
    assert len(grids(newest())) == 2


def test_the_packaged_recipe_is_the_shipped_one() -> None:
    from microtome.cli.recipes import find_config

    packaged = yaml.safe_load(find_config(CONFIG).read_text())
    assert packaged == {**SHIPPED, "model_path": "latest"}


# -- With custom parameters ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("dash", ["_", "-"])
def test_custom_parameters(fetched: Path, dash: str) -> None:
    flags = {"feature_idx": "5", "n_steps": "200", "max_magnitude": "3.0", "ci_threshold": "0.1"}
    words = [word for name, value in flags.items() for word in ("--" + name.replace("_", dash), value)]
    where = [f"--model{dash}path", WANDB, f"--output{dash}dir", "results/my_analysis"]
    assert main([SCRIPT, *where, *words]) == 0
    out = Path("results/my_analysis")
    assert grids(out) == [f"unified_grid_feature_5_layers_0_{part}.png" for part in ("mlp_in", "mlp_out")]
    written = yaml.safe_load((out / "config.yaml").read_text())
    assert (written["feature_idx"], written["n_steps"], written["max_magnitude"]) == (5, 200, 3.0)
    with np.load(out / "results" / "magnitude.npz") as stored:
        # What was planted: neuron 5 reads feature 5, and component 5 is on wherever it is not nearly 0.
        np.testing.assert_allclose(stored["pre/layers.0.mlp_in"][0, 0, :, 5], stored["magnitudes"], atol=1e-5)
        assert stored["lower/layers.0.mlp_in"][0, 0, 10:, 5].min() > 0.99
        assert np.delete(stored["lower/layers.0.mlp_in"][0, 0], 5, axis=1).max() < 0.1
    rows = json.loads((out / "summary.json").read_text())["active_components"]
    assert {(row["site"], row["component"], row["kind"]) for row in rows} == {
        ("layers.0.mlp_in", 5, "persistent"),
        ("layers.0.mlp_out", 5, "persistent"),
    }


def test_help_lists_every_documented_flag_with_its_default(capsys: Captured) -> None:
    assert main([SCRIPT, "--help"]) == 0
    shown = capsys.readouterr().out
    documented = {
        "model_path": "latest",
        "output_dir": "None",
        "device": "auto",
        "feature_idx": "0",
        "n_steps": "100",
        "max_magnitude": "2.0",
        "figsize_per_subplot": "2.0 1.5",
        "dpi": "150",
        "ci_threshold": "0.1",
        "pre_activation": "False",
        "summary_only": "False",
        "max_neurons": "None",
    }
    for name, default in documented.items():
        entry = shown[shown.index(f"--{name}") :]
        assert f"(default: {default})" in " ".join(entry.replace("│", " ").split())[:400], name


# -- Example workflows --------------------------------------------------------------------------------------


def test_high_resolution_analysis(fetched: Path) -> None:
    words = ["--n_steps", "500", "--dpi", "300", "--figsize_per_subplot", "24", "16"]
    assert main([SCRIPT, "--model_path", WANDB, *words]) == 0
    with Image.open(newest() / "unified_grid_feature_0_layers_0_mlp_in.png") as image:
        assert max(image.size) <= 900 and min(image.size) > 200


@pytest.mark.usefixtures("undrawn")
def test_multiple_features(fetched: Path) -> None:
    for feature in (0, 5, 10, 15, 20):
        words = ["--model_path", WANDB, "--feature_idx", str(feature), "--summary-only"]
        assert main([SCRIPT, *words, "--output_dir", f"loop/{feature}"]) == 0
    at_once = ["--features", "0,5,10,15,20", "--summary-only", "--output_dir", "at_once"]
    assert main(["magnitude", "--model_path", WANDB, *at_once]) == 0
    assert len(grids(Path("at_once"))) == 10
    with np.load("at_once/results/magnitude.npz") as together:
        for position, feature in enumerate((0, 5, 10, 15, 20)):
            with np.load(f"loop/{feature}/results/magnitude.npz") as alone:
                np.testing.assert_allclose(together["outputs"][:, [position]], alone["outputs"], atol=1e-6)


@pytest.mark.usefixtures("undrawn")
def test_sensitivity_analysis(fetched: Path) -> None:
    words = ["--max_magnitude", "5.0", "--n_steps", "1000", "--ci_threshold", "0.01", "--max-neurons", "3"]
    assert main([SCRIPT, "--model_path", WANDB, *words]) == 0
    with np.load(newest() / "results" / "magnitude.npz") as stored:
        assert stored["magnitudes"].shape == (1000,) and stored["magnitudes"][-1] == 5.0


@pytest.mark.usefixtures("undrawn")
def test_the_example_script_drives_the_same_flags(ours: Path) -> None:
    """The flags that the original's example script passes on, its two-value figure size among them."""
    words = [
        "--output-dir",
        "results/example",
        "--feature-idx",
        "0",
        "--n-steps",
        "20",
        "--max-magnitude",
        "3.0",
    ]
    words += [
        "--max-neurons",
        "30",
        "--ci-threshold",
        "0.05",
        "--dpi",
        "200",
        "--figsize-per-subplot",
        "3",
        "2",
    ]
    assert main(["magnitude_sweep", *words, "--pre_activation"]) == 0
    assert len(grids(Path("results/example"))) == 4


# -- Old run folders, and a run without gates ---------------------------------------------------------------

LAYOUTS: dict[str, Callable[[Path], object]] = {
    "APD": lambda folder: write_apd_run(folder, "resid_mlp"),
    "SPD paper": lambda folder: write_spd_paper_run(folder, "resid_mlp"),
    "later SPD": lambda folder: write_later_spd_run(folder, "resid_mlp", ci_fn_type="shared_mlp"),
    "later SPD, TMS": lambda folder: write_later_spd_run(folder, "tms", ci_fn_type="vector_mlp"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_runs_of_the_original_codes(layout: str, here: Path, capsys: Captured) -> None:
    LAYOUTS[layout](here / "run-id")
    before = sorted(path.name for path in (here / "run-id").iterdir())
    assert main([SCRIPT, "--model_path", "run-id", "--feature_idx", "2"]) == 0
    assert sorted(path.name for path in (here / "run-id").iterdir()) == before
    assert len(grids(newest())) == 2
    told = capsys.readouterr()
    assert newest().name.startswith("magnitude-run-id-")
    if layout == "APD":
        (line,) = [line for line in told.err.splitlines() if "left out" in line]
        assert "left out causal importances, gate outputs, gate inputs" in line
    else:
        rows = json.loads((newest() / "summary.json").read_text())["active_components"]
        assert {row["component"] for row in rows} == {2}


@pytest.mark.usefixtures("undrawn")
def test_an_apd_run_of_ours(here: Path, monkeypatch: Patch, capsys: Captured) -> None:
    monkeypatch.setattr(decompose_module, "draw_all", lambda run: [])
    torch.manual_seed(0)
    target = ResidMLP(ResidMLPModelConfig(n_features=4, d_embed=5, d_mlp=3, n_layers=1)).reset(1)
    data = SparseFeatures(1, 4, 0.3, "at_least_zero_active", (-1.0, 1.0))
    settings = {"C": 4, "m": 1, "topk": 1.0, "topk_recon_coeff": 1.0, "print_freq": 1, "lr": 1e-3}
    task = {"task_name": "residual_mlp", "feature_probability": 0.3, "pretrained_model_path": "x"}
    microtome.decompose(
        target,
        "apd",
        data=data,
        steps=1,
        batch_size=8,
        task_config=task,
        image_on_first_step=False,
        **settings,
    )
    assert main(["magnitude"]) == 0
    assert "No gates in this decomposition (apd)" in capsys.readouterr().err
    assert len(grids(newest())) == 2


# -- Troubleshooting: one line, exit code 2, nothing left behind --------------------------------------------


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--feature_idx", "6"], r"feature_idx=6: the network has 6 inputs; choose 0 to 5"),
        (["--feature_idx", "-1"], r"feature_idx=-1"),
        (["--n_steps", "1"], r"n_steps=1: must be greater than or equal to 2"),
        (["--model_path", "no/such/run"], r"no/such/run: no such"),
        (["--model_path", "notes.txt"], r"notes.txt"),
        (["--model_path", "target"], r"target"),
        (["--model_path", "lm.yaml"], r"lm.yaml"),
        (["--model_path", "wandb:"], r"wandb:"),
        (["--ci_threshold", "2"], r"ci_threshold=2"),
        (["--figsize_per_subplot", "24"], r"figsize_per_subplot"),
        (["--max_neuron", "3"], r"--max_neuron: unknown flag; did you mean --max_neurons\?"),
        (["no_such.yaml"], r"no_such.yaml: neither a file nor a recipe"),
        (["--features", "0,1,x"], r"features='0,1,x'"),
        (["--device", "gpu"], r"device='gpu'"),
    ],
)
def test_what_goes_wrong_is_one_line(
    ours: Path, here: Path, words: list[str], told: str, capsys: Captured
) -> None:
    (here / "notes.txt").write_text("no model")
    (here / "lm.yaml").write_text(yaml.safe_dump({"task_config": {"task_name": "lm"}}))
    target = here / "target"
    target.mkdir()
    (target / "resid_mlp.pth").write_bytes(b"")
    before = sorted(path for path in here.rglob("*"))
    assert main([SCRIPT, *words]) == 2
    message = capsys.readouterr().err.strip()
    assert message.startswith("microtome: ") and "\n" not in message, message
    assert re.search(told, message), message
    assert sorted(path for path in here.rglob("*")) == before


def test_a_wandb_run_that_cannot_be_had_is_one_line(here: Path, monkeypatch: Patch, capsys: Captured) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert main([SCRIPT, "--model_path", "wandb:your-project/run-id"]) == 2
    message = capsys.readouterr().err.strip()
    assert "\n" not in message and "pip install 'microtome[wandb]'" in message
    assert not Path("runs").exists()


@pytest.mark.usefixtures("undrawn")
def test_a_threshold_that_leaves_nothing_draws_the_rest_and_says_so(ours: Path, capsys: Captured) -> None:
    assert main([SCRIPT, "--ci_threshold", "1.0"]) == 0
    assert len(grids(newest())) == 4
    assert "no causal importance exceeds 1" in capsys.readouterr().err


# -- Our additions, old modules -----------------------------------------------------------------------------


@pytest.mark.usefixtures("undrawn")
def test_a_finished_sweep_is_drawn_again(ours: Path, capsys: Captured) -> None:
    assert main(["magnitude", "--features", "0,3", "--output_dir", "out", "--two-sided"]) == 0
    arrays = (Path("out") / "results" / "magnitude.npz").read_bytes()
    capsys.readouterr()
    assert main(["magnitude", "--redraw", "out", "--summary-only", "--ci_threshold", "0.9"]) == 0
    assert "Wrote out/unified_grid_feature_3_layers_1_mlp_out.png" in capsys.readouterr().out
    assert (Path("out") / "results" / "magnitude.npz").read_bytes() == arrays
    for words in (["--n_steps", "3"], ["magnitude_sweep_config"], ["--model_path", "latest"]):
        assert main(["magnitude", "--redraw", "out", *words]) == 2
    assert main(["magnitude", "--redraw", str(ours)]) == 2
    assert "a decompose-spd run" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["importance"],
        ["causal_importance_sweep", "--n_steps", "5"],
        [
            "spd/scripts/causal_importance_sweep/causal_importance_sweep.py",
            "spd/scripts/causal_importance_sweep/causal_importance_sweep_config.yaml",
        ],
    ],
)
def test_the_related_script(ours: Path, words: list[str], capsys: Captured) -> None:
    assert main([*words, "--output_dir", "out", "--features", "0,4"]) == 0
    sites = [f"layers_{i}_{part}" for i in (0, 1) for part in ("mlp_in", "mlp_out")]
    assert sorted(path.stem for path in Path("out").glob("*.png")) == sorted(
        f"{site}_{what}" for site in sites for what in ("causal_importance_sweep", "onsets")
    )
    assert "of 7 components turn" in capsys.readouterr().out
    assert main(["importance", "--redraw", "out", "--dpi", "40"]) == 0


@pytest.mark.parametrize("script", ["magnitude_sweep", "causal_importance_sweep"])
def test_old_scripts_run_as_modules(script: str, monkeypatch: Patch, capsys: Captured) -> None:
    name = f"microtome.compat.spd.scripts.{script}.{script}"
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "argv", ["script.py", "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(name, run_name="__main__")
    assert ended.value.code == 0
    assert (
        f"usage: microtome {'magnitude' if script == 'magnitude_sweep' else 'importance'}"
        in capsys.readouterr().out
    )


def test_the_page_about_a_sweep_shows_its_pictures(ours: Path) -> None:
    assert main(["magnitude", "--output_dir", "out", "--summary-only"]) == 0
    assert main(["view", "out"]) == 0
    assert (Path("out") / "report.html").read_text().count("data:image/png;base64") >= 4
