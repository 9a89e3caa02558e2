"""docs/file-formats.md names everything that a run leaves behind."""

import re
from pathlib import Path
from typing import Any

import pytest

import microtome
from microtome.core.runs import RunFolder
from microtome.data.sparse_features import SparseFeatures
from microtome.decomposition import decompose as decompose_module
from microtome.targets.config import MLPModelConfig, ResidMLPModelConfig, TMSModelConfig
from microtome.targets.mlp import MLP
from microtome.targets.network import Target
from microtome.targets.resid_mlp import ResidMLP
from microtome.targets.tms import TMS

PAGE = (Path(__file__).parents[2] / "docs" / "file-formats.md").read_text()
SITES = re.compile(r"(linear\d|hidden_layers\.\d|layers\.\d+(\.mlp_in|\.mlp_out)?)(?=$|[./])")
SHORT: dict[str, Any] = {"steps": 1, "batch_size": 16, "print_freq": 1, "C": 7, "lr": 1e-3}


def target(kind: str) -> tuple[Target, Any]:
    if kind == "tms":
        return TMS(TMSModelConfig(n_features=5, n_hidden=2)).reset(0), SparseFeatures(1, 5, 0.5)
    if kind == "resid_mlp":
        config = ResidMLPModelConfig(n_features=5, d_embed=6, d_mlp=4)
        return ResidMLP(config).reset(0), SparseFeatures(1, 5, 0.5)
    from microtome.data.images import digits

    return MLP(MLPModelConfig(sizes=(64, 8, 10))).reset(0), digits().train


@pytest.mark.parametrize(
    ("method", "kind"), [("spd", "tms"), ("spd", "resid_mlp"), ("spd", "digits"), ("apd", "tms")]
)
def test_the_page_names_what_a_run_leaves(
    method: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decompose_module, "draw_all", lambda run: [])
    network, data = target(kind)
    more = {"topk": 1, "topk_recon_coeff": 1, "image_on_first_step": False} if method == "apd" else {}
    run = microtome.decompose(network, method, data=data, out_dir=tmp_path / "run", **SHORT, **more).run
    assert run is not None
    for name in names_in(run):
        assert name in PAGE, name


def names_in(run: RunFolder) -> set[str]:
    """Files, summary keys, array names and tensor names, sites written as ``<site>``."""
    files = {re.sub(r"_\d+\.", "_<step>.", file.name) for file in run.path.iterdir() if file.is_file()}
    found = run.latest_checkpoint()
    assert found is not None
    arrays = {
        SITES.sub("<site>", name)
        for file in (run.path / "results").glob("*.npz")
        for name in run.load_arrays(file.stem)
    }
    results = {file.name for file in (run.path / "results").iterdir()}
    own = {n for n in found[1] if not n.startswith(("target/", "optimizer/", "random/"))}
    tensors = {SITES.sub("<site>", name) for name in own}
    # Gates are listed in one row, by the end of their names.
    gates = {f".{name.rpartition('.')[2]}" for name in tensors if name.startswith("gates.")} - {".w_in"}
    streams = {name for name in found[1] if name.startswith("random/")}
    losses = {name for name in run.metrics()[0] if "/" not in name}
    known_by_field = losses & {name.removesuffix("_coeff") for name in run.config}
    tensors = {name for name in tensors if not name.startswith("gates.")} | gates | streams
    return files | results | arrays | tensors | set(run.summary) | set(found[2]) | losses - known_by_field
