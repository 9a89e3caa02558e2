"""Everything a user can get wrong about a decomposition: one line, exit code 2, nothing left behind."""

from pathlib import Path

import pytest
import torch
from small_runs import (
    Captured,
    settings,
    start,
    write_yaml,
)

from microtome.cli.main import main
from microtome.core.errors import MicrotomeError
from microtome.core.runs import RunFolder
from microtome.targets.config import TMSModelConfig
from microtome.targets.tms import TMS
from microtome.training.config import TMSTrainConfig

pytestmark = pytest.mark.usefixtures("without_pictures")


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
        ("spd", ["--method", "spt"], "method='spt'"),
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


def test_the_task_has_to_fit_the_target(target: Path, tmp_path: Path) -> None:
    with pytest.raises(MicrotomeError, match="of another kind; use tms"):
        start("spd", target, tmp_path / "run", task_config={"task_name": "residual_mlp"})


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("C: 6", "C: 7", "undo the changes to config.yaml"),
        ("n_ci_mlp_neurons: 16", "n_ci_mlp_neurons: 8", "undo the changes to config.yaml"),
        ("steps: 60", "steps: 20", "steps=20: the run is at step 60 already"),
    ],
)
def test_resuming_after_the_configuration_was_edited(
    old: str, new: str, message: str, target: Path, tmp_path: Path, capsys: Captured
) -> None:
    run = start("spd", target, tmp_path / "run")
    (run.path / "summary.json").unlink()
    config = run.path / "config.yaml"
    text = config.read_text()
    assert f"\n{old}\n" in text
    config.write_text(text.replace(f"\n{old}\n", f"\n{new}\n"))
    assert main(["decompose", "--resume", str(run.path)]) == 2
    assert message in capsys.readouterr().err


def test_latest_is_the_newest_target_of_the_task(target: Path, tmp_path: Path, capsys: Captured) -> None:
    tms = TMSTrainConfig(tms_model_config=TMSModelConfig(n_features=5, n_hidden=2))
    for started, kind in enumerate(("train-tms", "train-digits")):
        run = RunFolder.create(tmp_path / "runs" / kind, tms, kind=kind)
        environment = run.environment | {"started": f"2026-01-0{started + 1}T00:00:00+00:00"}
        run.save_json("environment.json", environment)
    for name in ("tms.pth", "tms_train_config.yaml"):
        (tmp_path / "runs" / "train-tms" / name).write_bytes((target / name).read_bytes())
    values = settings("spd", target) | {"pretrained_model_path": "latest", "steps": 1}
    config = write_yaml(tmp_path / "c.yaml", values)
    command = ["decompose", str(config), "--runs_root", str(tmp_path / "runs"), "--quiet"]
    assert main(command) == 0
    assert f"latest is {tmp_path / 'runs' / 'train-tms'}" in capsys.readouterr().err
