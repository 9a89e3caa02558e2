"""Where runs of the original codes are found, what they are called, and what they bring with them."""

import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from old_layouts import OldRun, write_apd_run, write_later_spd_run, write_spd_paper_run

from microtome.core.errors import CannotLoad
from microtome.data.loading import data_from_spec
from microtome.decomposition.component_model import ComponentModel, SPDRunInfo
from microtome.decomposition.result import load


def test_data_comes_with_it(tmp_path: Path) -> None:
    write_apd_run(tmp_path / "apd", "resid_mlp")
    write_later_spd_run(
        tmp_path / "later",
        config={
            "task_config": {
                "task_name": "tms",
                "feature_probability": 0.2,
                "data_generation_type": "exactly_two_active",
            }
        },
    )
    resid, tms = load(tmp_path / "apd"), load(tmp_path / "later")
    assert resid.data is not None and tms.data is not None
    batch = data_from_spec(resid.data).batch(500, torch.Generator().manual_seed(0), 2)
    assert batch.shape == (2, 500, 6) and batch.min() < 0 and (batch != 0).float().mean() < 0.03
    batch = data_from_spec(tms.data).batch(50, torch.Generator().manual_seed(0), 1)
    assert ((batch != 0).sum(-1) == 2).all() and batch.min() >= 0


def test_names_and_places(tmp_path: Path) -> None:
    run = write_spd_paper_run(tmp_path / "wandb" / "f63itpo1" / "files")
    write_spd_paper_run(tmp_path / "mine")
    assert load(run.folder).name == load(run.checkpoint).name == "f63itpo1"
    assert load(tmp_path / "mine").name == "mine"
    by_file = load(tmp_path / "mine" / "model_40000.pth")
    assert by_file.name == "model_40000" and by_file.source == tmp_path / "mine" / "model_40000.pth"
    assert load("mine", runs_root=tmp_path).name == "mine"


def test_the_last_step_of_a_folder(tmp_path: Path) -> None:
    write_spd_paper_run(tmp_path, step=900, planted=False)
    write_spd_paper_run(tmp_path, step=10000)
    assert SPDRunInfo.from_path(tmp_path).checkpoint_path.name == "model_10000.pth"
    early, late = load(tmp_path / "model_900.pth"), load(tmp_path)
    assert not torch.equal(early.factors["linear1"][0], late.factors["linear1"][0])


def test_targets_are_read_off_the_tensors_where_they_tell(tmp_path: Path) -> None:
    run = write_spd_paper_run(tmp_path / "paper", with_target=False, n_hidden_layers=1)
    same_output(run)
    run = write_apd_run(tmp_path / "apd", n_hidden_layers=1)
    (tmp_path / "apd" / "tms_train_config.yaml").unlink()
    same_output(run)


def test_from_weights_and_biases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = write_later_spd_run(tmp_path / "remote")

    class File:
        def __init__(self, path: Path) -> None:
            self.path, self.name = path, path.name

        def download(self, root: str, replace: bool) -> None:
            (Path(root) / self.name).write_bytes(self.path.read_bytes())

    files = [File(path) for path in written.folder.iterdir()]
    run = types.SimpleNamespace(files=lambda: files)
    api = types.SimpleNamespace(run=lambda address: run if address == "ent/proj/xh0qlbkj" else None)
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(Api=lambda: api))
    for address in ("wandb:ent/proj/runs/xh0qlbkj", "https://wandb.ai/ent/proj/runs/xh0qlbkj"):
        d = load(address, runs_root=tmp_path / "runs")
        assert d.name == "xh0qlbkj" and d.method == "spd"
    info = SPDRunInfo.from_path("wandb:ent/proj/xh0qlbkj", runs_root=tmp_path / "runs")
    assert info.name == "xh0qlbkj" and info.checkpoint_path.is_file()
    assert ComponentModel.from_run_info(info).module_to_c == {"linear1": 7, "linear2": 7}


def test_another_network_with_the_module_itself(tmp_path: Path) -> None:
    torch.manual_seed(0)
    made = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    state = {f"target_model.{n}": t for n, t in made.state_dict().items()}
    v, u = torch.randn(4, 6), torch.randn(6, 5)
    state |= {"_components.0.V": v, "_components.0.U": u}
    state |= {"_ci_fns.0.layers.0.W": torch.randn(4, 6), "_ci_fns.0.layers.0.b": torch.randn(6)}
    run = write_later_spd_run(tmp_path, with_target=False, config={"task_config": {"task_name": "ih"}})
    torch.save(state, run.checkpoint)
    fresh = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    before = fresh[0].weight.clone()
    d = load(tmp_path, module=fresh)
    x = torch.randn(1, 7, 4)
    torch.testing.assert_close(d.target(x)[0], made(x[0]))
    expected = torch.nn.functional.linear((x[0] @ v @ u + made[0].bias).tanh(), made[2].weight, made[2].bias)
    torch.testing.assert_close(d.forward(x)[0], expected)
    assert torch.equal(fresh[0].weight, before), "the user's own module stays as it is"


def same_output(run: OldRun) -> None:
    """The loaded target is the planted one."""
    d, w = load(run.folder), run.planted[0].weights
    x = torch.randn(1, 7, 5)
    out = x[0] @ w["linear1"] @ w["hidden_layers.0"] @ w["linear2"] + run.planted[0].extra["b_final"]
    torch.testing.assert_close(d.target(x.expand(d.n_instances, 7, 5))[0], out.relu())


# -- files that are not what they should be: one line that says what to do


class Hostile:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch hostile",)


def spoil(run: OldRun, change: Callable[[dict[str, Any]], None]) -> None:
    state = torch.load(run.checkpoint, weights_only=True)
    change(state)
    torch.save(state, run.checkpoint)


def cut_off(run: OldRun) -> None:
    run.checkpoint.write_bytes(run.checkpoint.read_bytes()[:-300])


def with_nan(state: dict[str, Any]) -> None:
    state["components.linear2.B"][0, 0] = float("nan")


def one_function_for_all(state: dict[str, Any]) -> None:
    state["ci_fn._global_ci_fn.layers.0.W"] = torch.zeros(2, 2)


def another_gate(state: dict[str, Any]) -> None:
    for name in [n for n in state if n.startswith("gates.linear1")]:
        del state[name]
    state["gates.linear1.attention.W"] = torch.zeros(3, 3)


def too_few_gates(state: dict[str, Any]) -> None:
    for name in [n for n in state if n.startswith("gates.linear1")]:
        state[name] = state[name][:4]


SPOILED: list[tuple[Any, Callable[[OldRun], object], str]] = [
    (write_spd_paper_run, cut_off, "truncated or not a torch file"),
    (write_spd_paper_run, lambda r: r.checkpoint.write_bytes(b"\x80\x02"), "truncated or not a torch file"),
    (
        write_spd_paper_run,
        lambda r: torch.save({"a": Hostile()}, r.checkpoint),
        "carries code or objects, refused",
    ),
    (write_spd_paper_run, lambda r: torch.save([1, 2], r.checkpoint), "holds a list, not named tensors"),
    (
        write_apd_run,
        lambda r: (r.folder / "tms.pth").unlink(),
        r"put the target .*tms\.pth or resid_mlp\.pth.* in ",
    ),
    (
        write_apd_run,
        lambda r: (r.folder / "final_config.yaml").unlink(),
        r"no final_config\.yaml beside it; copy",
    ),
    (
        write_spd_paper_run,
        lambda r: spoil(r, with_nan),
        r"U \(or B\) of linear2 holds NaN",
    ),
    (
        write_later_spd_run,
        lambda r: spoil(r, one_function_for_all),
        "the gates of all sites: .* of an unknown kind",
    ),
    (
        write_spd_paper_run,
        lambda r: spoil(r, another_gate),
        r"gates of linear1: .*unknown kind.*attention\.W",
    ),
    (write_spd_paper_run, lambda r: spoil(r, too_few_gates), "a function for 4 components, but there are 7"),
    (
        write_spd_paper_run,
        lambda r: spoil(r, lambda s: s.pop("components.linear1.A")),
        r"linear1 has no V \(or A\)",
    ),
    (
        write_later_spd_run,
        lambda r: spoil(
            r,
            lambda s: s.update(
                {
                    "_components.fc.V": torch.zeros(2, 3),
                    "_components.fc.U": torch.zeros(3, 2),
                    "_ci_fns.fc.layers.0.W": torch.zeros(2, 3),
                    "_ci_fns.fc.layers.0.b": torch.zeros(3),
                }
            ),
        ),
        "decomposes fc, which its target lacks",
    ),
    (
        write_later_spd_run,
        lambda r: spoil(r, lambda s: s.update({"_components.linear1.V": torch.zeros(4, 7)})),
        "do not make up linear1",
    ),
    (
        write_spd_paper_run,
        lambda r: torch.save(
            {
                "model.fc.weight": torch.zeros(3, 3),
                "components.fc.A": torch.zeros(3, 2),
                "components.fc.B": torch.zeros(2, 3),
                "gates.fc.weight": torch.zeros(2),
                "gates.fc.bias": torch.zeros(2),
            },
            r.checkpoint,
        ),
        r"neither a TMS nor a residual MLP.*module=\.\.\.",
    ),
    (write_spd_paper_run, lambda r: (r.folder / "final_config.yaml").write_text("lr: [fast"), "not YAML"),
    (
        write_apd_run,
        lambda r: write_apd_run(r.folder, n_instances=3, step=5, with_target=False) and r.checkpoint.unlink(),
        "its target has 2 instances",
    ),
]


@pytest.mark.parametrize(("write", "change", "said"), SPOILED)
def test_what_is_wrong_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Any, change: Any, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    change(write(tmp_path / "run"))
    with pytest.raises(Exception, match=said) as caught:
        load(tmp_path / "run")
    assert isinstance(caught.value, ValueError) and "\n" not in str(caught.value)
    assert str(tmp_path / "run") in str(caught.value)
    assert not (tmp_path / "hostile").exists()


def test_a_target_is_not_a_decomposition(tmp_path: Path) -> None:
    run = write_spd_paper_run(tmp_path, "resid_mlp")
    renamed = tmp_path / "weights.pth"
    renamed.write_bytes((tmp_path / "resid_mlp.pth").read_bytes())
    for path in (tmp_path / "resid_mlp.pth", renamed):
        with pytest.raises(CannotLoad, match=r"a trained target.*model_<step>\.pth"):
            load(path)
    with pytest.raises(CannotLoad, match="a trained target"):
        SPDRunInfo.from_path(tmp_path / "resid_mlp.pth")
    assert load(run.checkpoint).method == "spd"


def test_a_residual_mlp_needs_its_training_configuration(tmp_path: Path) -> None:
    write_spd_paper_run(tmp_path, "resid_mlp", with_target=False)
    with pytest.raises(CannotLoad, match=r"activation function; put the resid_mlp_train_config\.yaml .* in "):
        load(tmp_path)


def test_inserted_identity_sites_are_left_out(tmp_path: Path) -> None:
    run = write_later_spd_run(tmp_path, "resid_mlp", ci_fn_type="shared_mlp", planted=False)
    key = "layers-0-mlp_in.pre_identity".replace(".", "-")
    extra = {f"_components.{key}.V": torch.zeros(9, 2), f"_components.{key}.U": torch.zeros(2, 9)}
    extra |= {f"_ci_fns.{key}.layers.0.W": torch.zeros(9, 2), f"_ci_fns.{key}.layers.0.b": torch.zeros(2)}
    spoil(run, lambda state: state.update(extra))
    d = load(tmp_path)
    assert list(d.sites) == ["layers.0.mlp_in", "layers.0.mlp_out"]
    assert any("pre_identity" in note and "left out" in note for note in d.notes)
