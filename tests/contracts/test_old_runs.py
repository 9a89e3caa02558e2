"""Runs of the original codes open wherever a run of ours does: in Python and on the command line."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from old_layouts import OldRun, write_apd_run, write_later_spd_run, write_spd_paper_run

import microtome
from microtome.decomposition.apd_config import APDConfig
from microtome.decomposition.component_model import ComponentModel, SPDRunInfo
from microtome.decomposition.spd_config import SPDConfig

LAYOUTS: dict[str, Callable[[Path], OldRun]] = {
    "APD, TMS": lambda folder: write_apd_run(folder),
    "APD, residual MLP": lambda folder: write_apd_run(folder, "resid_mlp"),
    "SPD paper, TMS": lambda folder: write_spd_paper_run(folder),
    "SPD paper, residual MLP": lambda folder: write_spd_paper_run(folder, "resid_mlp"),
    "later SPD, mlp": lambda folder: write_later_spd_run(folder, ci_fn_type="mlp"),
    "later SPD, vector_mlp": lambda folder: write_later_spd_run(folder, "resid_mlp", ci_fn_type="vector_mlp"),
    "later SPD, shared_mlp": lambda folder: write_later_spd_run(
        folder, "resid_mlp", ci_fn_type="shared_mlp", n_layers=2, nested_ci_config=True, spelling="ci_fn"
    ),
}


@pytest.fixture(params=LAYOUTS, scope="module")
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> OldRun:
    return LAYOUTS[request.param](tmp_path_factory.mktemp("old") / "some-run")


def test_in_python(run: OldRun) -> None:
    apd = run.checkpoint.name.startswith("spd_model")
    for path in (run.folder, run.checkpoint):
        d = microtome.load(path)
        assert list(d.sites) == list(run.planted[0].weights)
        assert d.run is None and d.source == run.checkpoint and d.name in ("some-run", run.checkpoint.stem)
        n = next(iter(run.planted[0].extra.values())).shape[0]
        x = torch.rand(d.n_instances, 5, n)
        torch.testing.assert_close(d.forward(x), d.target(x))
        assert (d.causal_importances(x) is None) == apd
        info = SPDRunInfo.from_path(path)
        assert (
            isinstance(info.config, APDConfig if apd else SPDConfig)
            and info.checkpoint_path == run.checkpoint
        )
        assert info.original["steps"] == info.config.steps
        for model in (ComponentModel.from_pretrained(path), ComponentModel.from_run_info(info)):
            torch.testing.assert_close(model(x[0]), d.target(x)[0])
            for name, layer in model.components.items():
                torch.testing.assert_close(layer.weight.T, run.planted[0].weights[name])


@pytest.mark.parametrize("layout", ["APD, TMS", "SPD paper, residual MLP", "later SPD, shared_mlp"])
def test_on_the_command_line(layout: str, tmp_path: Path) -> None:
    run = LAYOUTS[layout](tmp_path / "some-run")
    before = {path.name: path.read_bytes() for path in run.folder.iterdir()}
    words = [
        sys.executable,
        "-m",
        "microtome",
        "magnitude",
        "--model_path",
        str(run.folder),
        "--n_steps",
        "9",
    ]
    done = subprocess.run(
        [*words, "--max_magnitude", "1.5", "--dpi", "40", "--output_dir", "out"],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first = next(iter(run.planted[0].weights)).replace(".", "_")
    assert (tmp_path / "out" / f"unified_grid_feature_0_{first}.png").stat().st_size > 1000
    with np.load(tmp_path / "out" / "results" / "magnitude.npz", allow_pickle=False) as arrays:
        assert arrays["magnitudes"].tolist() == pytest.approx(np.linspace(0, 1.5, 9).tolist())
        if not run.checkpoint.name.startswith("spd_model"):
            importance = arrays[f"lower/{next(iter(run.planted[0].weights))}"]
            # What was planted: component 0 opens for feature 0, no other does.
            assert importance[0, 0, -1, 0] == pytest.approx(1.0)
            assert np.abs(importance[0, 0, :, 1:]).max() < 1e-4
    assert {path.name: path.read_bytes() for path in run.folder.iterdir()} == before


PAGE = (Path(__file__).parents[2] / "docs" / "file-formats.md").read_text(encoding="utf-8")
PATTERNS = (
    (re.compile(r"^(model|target_model)\..*"), r"\1.<target tensor>"),
    (re.compile(r"^((?:_ci_fns|gates|_components|components)\.)[^.]+"), r"\1<site>"),
    (re.compile(r"layers\.\d+"), "layers.<i>"),
    (re.compile(r"^(ci_fn\._ci_fns\.).*"), r"\1"),
)


def test_the_page_names_every_tensor_and_file(run: OldRun) -> None:
    for key in torch.load(run.checkpoint, weights_only=True):
        for pattern, short in PATTERNS:
            key = pattern.sub(short, key)
        last = key.rsplit(".", 1)[-1]
        assert f"`{key}" in PAGE or (f"`.{last}`" in PAGE and key.rsplit(".", 1)[0] in PAGE), key
    for file in run.folder.iterdir():
        name = re.sub(r"\d+", "<step>", file.name)
        assert name in PAGE, name
