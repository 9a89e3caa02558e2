"""Whole runs: killed, stopped, diverging, moved, on a full disk, on a module of one's own."""

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

import microtome
from microtome.cli.main import main
from microtome.core.errors import CannotLoad, Diverged, MicrotomeError
from microtome.core.runs import RunFolder
from microtome.core.tensor_files import write_torch
from microtome.data.loading import data_from_spec
from microtome.decomposition import decompose as decompose_module
from microtome.decomposition.config import config_from_mapping
from microtome.decomposition.decompose import resume, run_config
from microtome.decomposition.loop import Loop
from microtome.targets.config import TMSModelConfig
from microtome.targets.tms import TMS
from microtome.training.config import TMSTrainConfig

Captured, Patch = pytest.CaptureFixture[str], pytest.MonkeyPatch
Whole = Callable[[str], RunFolder]
STEPS, KILLED_AT, SAVED = 60, 37, 10
SETTINGS: dict[str, dict[str, Any]] = {
    "spd": {
        "C": 6,
        "lr_schedule": "cosine",
        "n_seeds": 2,
        "task_config": {"task_name": "tms", "feature_probability": 0.1},
    },
    "apd": {
        "C": 5,
        "m": 2,
        "topk": 0.5,
        "topk_recon_coeff": 1,
        "schatten_coeff": 0.7,
        "schatten_pnorm": 1,
        "unit_norm_matrices": True,
        "image_on_first_step": False,
        "lr_schedule": "linear",
        "lr_warmup_pct": 0.05,
    },
}
COMMON = {"steps": STEPS, "batch_size": 64, "print_freq": 7, "save_freq": SAVED, "lr": 3e-3}


@pytest.fixture(scope="module", autouse=True)
def without_pictures() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decompose_module, "draw_all", lambda run: [])
        yield


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TMS target on disk, as the training command leaves it."""
    path = tmp_path_factory.mktemp("target")
    model = TMSModelConfig(n_features=5, n_hidden=2, n_instances=2)
    write_torch(path / "tms.pth", TMS(model).reset(1).state_dict())
    TMSTrainConfig(tms_model_config=model, steps=1).to_file(path / "tms_train_config.yaml")
    return path


def settings(method: str, target: Path, **more: Any) -> dict[str, Any]:
    values = {**COMMON, **SETTINGS[method], "method": method, **more}
    if method == "spd":
        return {**values, "pretrained_model_path": str(target / "tms.pth")}
    task = {"task_name": "tms", "feature_probability": 0.1, "pretrained_model_path": str(target)}
    return {**values, "task_config": task}


def start(method: str, target: Path, out: Path, **more: Any) -> RunFolder:
    config = config_from_mapping(settings(method, target, **more))
    return run_config(config, out_dir=out, progress=False)


@pytest.fixture(scope="module")
def whole(target: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], RunFolder]:
    """By method: the run that nothing disturbed."""
    return cache(lambda method: start(method, target, tmp_path_factory.mktemp("whole") / method))


def write_yaml(path: Path, values: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(values))
    return path


def tensors(run: RunFolder) -> dict[str, Tensor]:
    found = run.latest_checkpoint()
    assert found is not None and found[0] == STEPS
    return found[1]


def assert_same_run(one: RunFolder, other: RunFolder) -> None:
    """Bit for bit: parameters, optimiser, random streams; and the same lines of metrics, each once."""
    mine, theirs = tensors(one), tensors(other)
    assert mine.keys() == theirs.keys()
    different = [name for name in mine if not torch.equal(mine[name], theirs[name])]
    assert different == []
    assert one.metrics() == other.metrics()
    logged = [row["step"] for row in one.metrics()]
    assert logged == sorted({1, STEPS, *range(7, STEPS, 7)})
    assert one.summary == other.summary
    assert one.finished


CHILD = """
import os, signal, sys
from microtome.cli.main import main
from microtome.decomposition.loop import Loop
one_step = Loop._one_step
def step(self):
    if self.step == {killed_at}:
        os.kill(os.getpid(), signal.SIGKILL)
    return one_step(self)
Loop._one_step = step
sys.exit(main(["decompose", sys.argv[1], "--out_dir", sys.argv[2], "--quiet"]))
"""


@pytest.mark.parametrize("method", ["spd", "apd"])
def test_killed_and_resumed_is_the_same_run(method: str, target: Path, whole: Whole, tmp_path: Path) -> None:
    config = write_yaml(tmp_path / "config.yaml", settings(method, target))
    child = [sys.executable, "-c", CHILD.format(killed_at=KILLED_AT), str(config), str(tmp_path / "killed")]
    ended = subprocess.run(child, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()

    run = RunFolder.open(tmp_path / "killed")
    assert run.checkpoint_steps() == [20, 30] and not run.finished
    assert run.metrics()[-1]["step"] == 35  # beyond the checkpoint: dropped, and written again
    (run.path / "checkpoints" / ".step_40.safetensors.abc.partial").write_bytes(b"half")
    metrics = run.path / "metrics.jsonl"
    metrics.write_text(metrics.read_text() + '{"step": 36, "tot')
    assert main(["decompose", "--resume", str(run.path), "--quiet"]) == 0
    assert_same_run(run, whole(method))
    assert list(run.path.rglob("*.partial")) == []


def test_resuming_a_finished_run_only_evaluates_again(whole: Whole) -> None:
    run = whole("spd")
    before, metrics, summary = tensors(run), run.metrics(), run.summary
    again = resume(run.path, progress=False)
    assert all(torch.equal(before[name], tensor) for name, tensor in tensors(again).items())
    assert (again.metrics(), again.summary) == (metrics, summary)


def interrupt_at(step: int, monkeypatch: Patch) -> None:
    one_step = Loop._one_step

    def interrupted(self: Loop) -> dict[str, Tensor]:
        if self.step == step:
            signal.raise_signal(signal.SIGINT)
        return one_step(self)

    monkeypatch.setattr(Loop, "_one_step", interrupted)


@pytest.mark.parametrize("step", [23, STEPS - 1])
def test_ctrl_c_saves_and_says_how_to_go_on(
    step: int,
    target: Path,
    whole: Whole,
    tmp_path: Path,
    monkeypatch: Patch,
    capsys: Captured,
) -> None:
    config = write_yaml(tmp_path / "config.yaml", settings("spd", target))
    with monkeypatch.context() as patch:
        interrupt_at(step, patch)
        out = tmp_path / "stopped"
        assert main(["decompose", str(config), "--out_dir", str(out), "--quiet"]) == 130
    run = RunFolder.open(out)
    message = capsys.readouterr().err.strip()
    assert message.endswith(f"carry on with `microtome decompose --resume {out}`")
    assert "\n" not in message and str(step + 1) in message
    assert run.checkpoint_steps()[-1] == step + 1  # the step under way is finished first
    assert main(["decompose", "--resume", str(out), "--quiet"]) == 0
    assert_same_run(run, whole("spd"))
    assert (run.path / f"model_{STEPS}.pth").is_file()
    assert main(["decompose", "--resume", str(out), "--quiet"]) == 0
    assert "finished already" in capsys.readouterr().out


def test_ctrl_c_while_evaluating_says_how_to_go_on(
    target: Path, tmp_path: Path, monkeypatch: Patch, capsys: Captured
) -> None:
    config = write_yaml(tmp_path / "config.yaml", settings("spd", target, steps=5))
    with monkeypatch.context() as patch:
        patch.setattr(decompose_module, "draw_all", lambda run: signal.raise_signal(signal.SIGINT))
        assert main(["decompose", str(config), "--out_dir", str(tmp_path / "run"), "--quiet"]) == 130
    assert f"--resume {tmp_path / 'run'}" in capsys.readouterr().err
    assert resume(tmp_path / "run", progress=False).finished


@pytest.mark.parametrize("method", ["spd", "apd"])
def test_a_diverging_loss_stops_the_run_and_keeps_the_last_good_checkpoint(
    method: str, target: Path, tmp_path: Path, capsys: Captured
) -> None:
    values = settings(method, target, lr=1e25, lr_schedule="constant", lr_warmup_pct=0, save_freq=1)
    config = write_yaml(tmp_path / "config.yaml", values)
    assert main(["decompose", str(config), "--out_dir", str(tmp_path / "run"), "--quiet"]) == 2
    message = capsys.readouterr().err.strip()
    assert "\n" not in message
    losses = "faithfulness|recon|importance_minimality|param_match|schatten"
    assert re.search(rf"({losses}).*not finite (at|after) step \d+; use a smaller lr", message), message
    assert f"--resume {tmp_path / 'run'}" in message
    kept = microtome.load(tmp_path / "run")
    assert all(torch.isfinite(tensor).all() for tensor in kept.parameters.values())


def test_weights_that_turned_nan_are_never_saved(target: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    """The loss of a step may be finite and its update not."""
    one_step = Loop._one_step

    def poisoned(self: Loop) -> dict[str, Tensor]:
        losses = one_step(self)
        if self.step == 19:
            next(iter(self.method.parameters.values())).data[0, 0, 0] = torch.nan
        return losses

    monkeypatch.setattr(Loop, "_one_step", poisoned)
    with pytest.raises(Diverged, match=r"components.linear1.V: not finite after step 20"):
        start("spd", target, tmp_path / "run")
    assert RunFolder.open(tmp_path / "run").checkpoint_steps() == [0, 10]


def test_a_moved_run_loads_and_goes_on_without_its_target(
    target: Path, whole: Whole, tmp_path: Path, monkeypatch: Patch
) -> None:
    mine = tmp_path / "target"
    shutil.copytree(target, mine)
    with monkeypatch.context() as patch:
        interrupt_at(30, patch)
        with pytest.raises(KeyboardInterrupt):
            start("apd", mine, tmp_path / "run")
    shutil.rmtree(mine)
    moved = tmp_path / "elsewhere" / "renamed"
    moved.parent.mkdir()
    (tmp_path / "run").rename(moved)
    d = microtome.load(moved)
    x = torch.rand(2, 3, 5)
    loaded = microtome.load_target(target)
    torch.testing.assert_close(d.target(x), loaded.target(x))
    assert_same_run(resume(moved, progress=False), whole("apd"))


def test_a_cut_off_checkpoint_is_passed_over_for_the_one_before(target: Path, tmp_path: Path) -> None:
    run = start("spd", target, tmp_path / "run", steps=20)
    newest, before = (run.path / "checkpoints" / f"step_{n}.safetensors" for n in (20, 10))
    newest.write_bytes(newest.read_bytes()[:500])
    assert torch.isfinite(microtome.load(run.path).component_weights("linear1")).all()
    before.write_bytes(b"")
    with pytest.raises(CannotLoad, match=r"step_10.safetensors: truncated") as error:
        microtome.load(run.path)
    assert "\n" not in str(error.value)


def test_a_folder_that_holds_something_is_refused(target: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    start("spd", target, out, steps=2)
    before = sorted(file.name for file in out.iterdir())
    with pytest.raises(MicrotomeError, match="already holds a run"):
        start("spd", target, out, steps=2)
    assert sorted(file.name for file in out.iterdir()) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(MicrotomeError, match="already holds files"):
        start("spd", target, tmp_path / "mine")
    (tmp_path / "file").write_text("")
    with pytest.raises(MicrotomeError, match="is a file"):
        start("spd", target, tmp_path / "file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_told(target: Path, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(MicrotomeError, match="cannot be written"):
        start("spd", target, tmp_path / "locked" / "run")


def fill_disk(monkeypatch: Patch, after: int) -> None:
    """The disk takes ``after`` more files and no byte beyond."""
    replace, left = os.replace, [after]

    def full(source: Any, goal: Any, **more: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device", str(goal))
        replace(source, goal, **more)

    monkeypatch.setattr(os, "replace", full)


@pytest.mark.parametrize("files", [0, 1, 3, 5])
def test_a_disk_that_is_full_at_the_start_leaves_nothing(
    files: int,
    target: Path,
    tmp_path: Path,
    monkeypatch: Patch,
    capsys: Captured,
) -> None:
    config = write_yaml(tmp_path / "config.yaml", settings("spd", target))
    out = tmp_path / "new" / "run"
    with monkeypatch.context() as patch:
        fill_disk(patch, files)
        assert main(["decompose", str(config), "--out_dir", str(out), "--quiet"]) == 2
    message = capsys.readouterr().err.strip()
    assert "the disk is full" in message and "\n" not in message
    assert not out.exists()


def test_a_disk_that_fills_up_keeps_the_last_checkpoint(
    target: Path, whole: Whole, tmp_path: Path, monkeypatch: Patch
) -> None:
    with monkeypatch.context() as patch:
        fill_disk(patch, 10)  # five files of the start, step 0, and two steps with a model file each
        with pytest.raises(MicrotomeError, match="the disk is full"):
            start("spd", target, tmp_path / "run")
    run = RunFolder.open(tmp_path / "run")
    assert run.checkpoint_steps()[-1] == 20
    assert list(run.path.rglob("*.partial")) == []
    assert_same_run(resume(run.path, progress=False), whole("spd"))


# -- a module of one's own ---------------------------------------------------------------------------------


class Classifier(nn.Module):
    """Twenty lines of somebody's own code."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 12)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.dropout(torch.relu(self.inner(x))))


SHORT: dict[str, Any] = {"steps": 30, "batch_size": 32, "C": 6, "lr": 1e-2, "print_freq": 10}


def rows(n: int = 50) -> Tensor:
    return torch.rand(n, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("loss", ["kl", "mse"])
def test_my_own_module(loss: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, x = Classifier(), rows()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    module.head.bias.grad = torch.full((3,), 7.0)
    result = microtome.decompose(
        module, data=x, sites=["inner", "he*"], output_loss_type=loss, out_dir=tmp_path / "run", **SHORT
    )
    assert module.training and all(p.requires_grad for p in module.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert module.inner.weight.grad is None and torch.equal(module.head.bias.grad, torch.full((3,), 7.0))
    assert list(result.sites) == ["inner", "head"]
    assert "forward" not in vars(module.inner)

    again = microtome.load(tmp_path / "run", module=Classifier())
    torch.testing.assert_close(again.forward(x[None]), result.forward(x[None]))
    torch.testing.assert_close(again.target(x[None])[0], module.eval()(x))
    found = result.causal_importances(x[None])
    assert found is not None and found["inner"].lower.shape == (1, len(x), 6)
    rows_logged = result.run.metrics() if result.run is not None else []
    assert rows_logged[-1]["faithfulness"][0] < rows_logged[0]["faithfulness"][0]


def test_the_kl_loss_is_that_of_the_softmax(tmp_path: Path) -> None:
    """One step's ``recon`` under fixed masks, worked out from logits in float64."""
    module, x = Classifier().eval(), rows()
    result = microtome.decompose(
        module, data=x, output_loss_type="kl", out_dir=tmp_path / "run", **{**SHORT, "steps": 2}
    )
    found = result.causal_importances(x[None])
    assert found is not None and result.run is not None
    out = result.forward(x[None], {name: ci.lower for name, ci in found.items()})[0].double()
    wanted = module(x).detach().double()
    p = torch.softmax(wanted, -1)
    expected = (p * (p.log() - torch.log_softmax(out, -1))).sum(-1).mean()
    from microtome.decomposition.losses.reconstruction import reconstruction_loss

    got = reconstruction_loss(out[None], wanted[None], torch.ones(1, len(x)).double(), len(x), "kl")
    torch.testing.assert_close(got[0], expected)


def test_apd_of_my_own_module(tmp_path: Path) -> None:
    module, x = Classifier(), rows()
    result = microtome.decompose(
        module,
        "apd",
        data=x,
        sites=["inner"],
        topk=2,
        m=2,
        topk_recon_coeff=1,
        out_dir=tmp_path / "r",
        **SHORT,
    )
    assert list(result.sites) == ["inner"] and result.method == "apd"
    assert result.component_weights("inner").shape == (1, 6, 8, 12)
    torch.testing.assert_close(
        microtome.load(tmp_path / "r", module=Classifier()).forward(x[None]), result.forward(x[None])
    )


def test_a_configuration_tells_its_own_method(target: Path, tmp_path: Path) -> None:
    config = config_from_mapping(settings("apd", target, steps=2))
    result = microtome.decompose(target, config=config, out_dir=tmp_path / "run")
    assert result.method == "apd"


def test_a_run_on_my_own_data_resumes_when_they_are_given_again(tmp_path: Path, monkeypatch: Patch) -> None:
    module = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    whole = microtome.decompose(module, data=rows(), out_dir=tmp_path / "whole", **SHORT)
    with monkeypatch.context() as patch:
        interrupt_at(12, patch)
        with pytest.raises(KeyboardInterrupt):
            microtome.decompose(module, data=rows(), out_dir=tmp_path / "run", **SHORT)
    with pytest.raises(MicrotomeError, match=r"given in memory .* pass them again"):
        resume(tmp_path / "run", progress=False)
    from microtome.data.images import ArrayData

    resume(tmp_path / "run", progress=False, data=ArrayData(rows()))
    again = microtome.load(tmp_path / "run")
    assert all(torch.equal(whole.parameters[name], tensor) for name, tensor in again.parameters.items())


def test_seeds_side_by_side_start_as_they_would_alone(target: Path, tmp_path: Path) -> None:
    together = microtome.load(start("spd", target, tmp_path / "a", steps=1, seed=4, n_seeds=3).path)
    assert together.n_instances == 6  # two instances of the target, three seeds each
    first = RunFolder.open(tmp_path / "a").path / "checkpoints" / "step_0.safetensors"
    from microtome.core.tensor_files import read_safetensors

    many, _ = read_safetensors(first)
    start("spd", target, tmp_path / "b", steps=1, seed=6, n_seeds=1, instances=[0])
    alone, _ = read_safetensors(tmp_path / "b" / "checkpoints" / "step_0.safetensors")
    assert torch.equal(many["components.linear1.V"][2], alone["components.linear1.V"][0])
    assert torch.equal(many["gates.linear2.w_in"][2], alone["gates.linear2.w_in"][0])
    assert not torch.equal(many["components.linear1.V"][1], many["components.linear1.V"][2])
    torch.testing.assert_close(many["target/linear1.weight"][2], many["target/linear1.weight"][0])


# -- bad input ---------------------------------------------------------------------------------------------


def bad_file(folder: Path, kind: str) -> Path:
    folder.mkdir(exist_ok=True)
    TMSTrainConfig(tms_model_config=TMSModelConfig(n_features=5, n_hidden=2)).to_file(
        folder / "tms_train_config.yaml"
    )
    path = folder / "tms.pth"
    state = TMS(TMSModelConfig(n_features=5, n_hidden=2)).reset(0).state_dict()
    if kind == "nan":
        state["linear1.weight"][0, 0, 0] = torch.nan
    if kind == "pickle":
        torch.save({"model": Path("a pickle that would run code")}, path)
        return path
    torch.save(state, path)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:300])
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("nan", "linear1.weight holds NaN"),
        ("pickle", "pickle"),
        ("truncated", "truncated"),
        ("missing", "no such"),
    ],
)
def test_a_target_that_cannot_be_used(
    kind: str, message: str, target: Path, tmp_path: Path, capsys: Captured
) -> None:
    path = bad_file(tmp_path / "bad", kind) if kind != "missing" else tmp_path / "nothing" / "tms.pth"
    config = write_yaml(tmp_path / "c.yaml", settings("spd", target) | {"pretrained_model_path": str(path)})
    told(["decompose", str(config)], message, tmp_path, capsys)


@pytest.mark.parametrize(
    ("method", "flags", "message"),
    [
        ("spd", ["--C", "0"], "C=0"),
        ("apd", ["--C", "-3"], "C=-3"),
        ("apd", ["--topk", "6"], "topk=6.0: only 5 components"),
        ("apd", ["--topk", "0"], "topk=0"),
        ("spd", ["--task_config.feature_probability", "1.5"], "feature_probability=1.5"),
        ("apd", ["--task_config.feature_probability", "-0.1"], "feature_probability=-0.1"),
        ("spd", ["--stepz", "5"], "did you mean --steps"),
        ("spd", ["--lr", "nan"], "lr="),
        ("spd", ["--lr_schedule", "exponential"], "lr_exponential_halflife=None"),
        ("spd", ["--instances", "7"], "instances=7: the target has 2"),
        ("apd", ["--n_instances", "3"], "n_instances=3: the target has 2"),
        ("spd", ["--target_module_patterns", "linear9"], "matches no site; sites: linear1, linear2"),
        ("spd", ["--method", "spt"], "did you mean spd"),
        ("spd", ["--device", "abacus"], "abacus"),
    ],
)
def test_a_value_that_cannot_be(
    method: str,
    flags: list[str],
    message: str,
    target: Path,
    tmp_path: Path,
    capsys: Captured,
) -> None:
    config = write_yaml(tmp_path / "c.yaml", settings(method, target))
    told(["decompose", str(config), *flags], message, tmp_path, capsys)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- steps\n- 5\n", "not a mapping"),
        ("steps: [1\n", "not YAML"),
        ("method: spd\nstepz: 5\n", "did you mean steps"),
        ("method: spd\nC: many\n", "C='many'"),
        ("method: spd\ntask_config: {task_name: tmz}\n", "tmz"),
        ("steps: 5\nsteps: 6\n", "given twice"),
    ],
)
def test_a_file_that_cannot_be(text: str, message: str, tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "c.yaml").write_text(text)
    told(["decompose", str(tmp_path / "c.yaml")], message, tmp_path, capsys)


def told(words: list[str], message: str, tmp_path: Path, capsys: Captured) -> None:
    """Exit code 2, one line that holds ``message``, and no run folder."""
    assert main([*words, "--runs_root", str(tmp_path / "runs"), "--quiet"]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error, error
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data": None}, "data=None"),
        ({"sites": ["layers.*"]}, "matches no site; there are: inner, head"),
        ({"data": torch.full((4, 8), torch.nan)}, "NaN"),
        ({"data": torch.rand(0, 8)}, "no rows"),
        ({"method": "sdp"}, "method='sdp'"),
        ({"coefficients": 3}, "coefficients"),
    ],
)
def test_a_call_that_cannot_be(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(MicrotomeError, match=re.escape(message)) as error:
        microtome.decompose(
            Classifier(), **{"data": rows(), "out_dir": tmp_path / "run", **SHORT, **settings}
        )
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_module_with_nan_is_refused(tmp_path: Path) -> None:
    module = Classifier()
    module.inner.weight.data[0, 0] = torch.nan
    with pytest.raises(MicrotomeError, match="hold NaN or infinity"):
        microtome.decompose(module, data=rows(), out_dir=tmp_path / "run", **SHORT)
    assert not (tmp_path / "run").exists()


def test_the_task_has_to_fit_the_target(target: Path, tmp_path: Path) -> None:
    with pytest.raises(MicrotomeError, match="of another kind; use tms"):
        start("spd", target, tmp_path / "run", task_config={"task_name": "residual_mlp"})


def test_the_runs_inputs_are_those_of_the_task(target: Path, tmp_path: Path) -> None:
    d = microtome.load(start("spd", target, tmp_path / "run", steps=1).path)
    assert d.data is not None and d.data["feature_probability"] == 0.1
    assert data_from_spec(d.data).spec() == d.data
