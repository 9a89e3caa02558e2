"""Several configurations as one program: the same losses and gradients as alone, and complete runs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import SAVED, STEPS, interrupt_at, settings, tensors
from torch import Tensor

from microtome.core.errors import MicrotomeError
from microtome.core.runs import RunFolder
from microtome.decomposition import together as together_module
from microtome.decomposition.config import DecompositionConfig, config_from_mapping
from microtome.decomposition.jobs import Job, build_method, load_job
from microtome.decomposition.result import load
from microtome.decomposition.spd import SPD
from microtome.decomposition.together import run_together, together_key

DIFFERENT: dict[str, list[dict[str, Any]]] = {
    "spd": [
        {"seed": 0},
        {"seed": 5, "importance_minimality_coeff": 0.1},
        {"seed": 5, "importance_minimality_coeff": 0.0001, "stochastic_recon_coeff": 3.0},
    ],
    "apd": [
        {"seed": 0},
        {"seed": 1, "topk": 0.8},
        {"seed": 1, "topk": 0.8, "schatten_coeff": 2.0},
    ],
}


def several(method: str, target: Path, **more: Any) -> list[DecompositionConfig]:
    return [config_from_mapping(settings(method, target, **more, **one)) for one in DIFFERENT[method]]


def joined(configs: list[DecompositionConfig]) -> Job:
    base = load_job(configs[0])
    every = list(range(base.target.n_instances)) * len(configs)
    return Job(configs[0], base.target.select(every), base.data, base.train_config, tuple(configs))


@pytest.mark.parametrize(
    ("method", "extra"),
    [
        ("spd", {}),
        ("apd", {}),
        ("apd", {"attribution_type": "activation"}),
        ("apd", {"batch_topk": False, "topk": 1}),
    ],
)
def test_a_step_of_one_program_is_a_step_of_each(method: str, extra: dict[str, Any], target: Path) -> None:
    different = [one | ({"topk": 2} if extra.get("batch_topk") is False and "topk" in one else {})
                 for one in DIFFERENT[method]]  # fmt: skip
    configs = [config_from_mapping(settings(method, target, **extra | one)) for one in different]
    job = joined(configs)
    n = job.target.n_instances
    x = job.data.batch(64, torch.Generator().manual_seed(3), n_instances=n)
    numbers = torch.Generator().manual_seed(4)
    draws: list[Tensor] = []

    def fresh(ci: Tensor) -> Tensor:
        draws.append(torch.rand(ci.shape, generator=numbers))
        return draws[-1]

    together = build_method(job)
    if isinstance(together, SPD):
        together.draw = fresh
        together._compacts = False
    losses = together.compute(x, 0)
    each = n // len(configs)
    for i, part in enumerate(job.parts()):
        mine = slice(i * each, (i + 1) * each)
        alone = build_method(part)
        if isinstance(alone, SPD):
            again = iter(draws)
            alone.draw = lambda ci, again=again, mine=mine: next(again)[mine]
            alone._compacts = False
        expected = alone.compute(x[mine], 0)
        assert expected.keys() == losses.keys()
        for name, value in expected.items():
            torch.testing.assert_close(losses[name][mine], value, rtol=1e-5, atol=1e-7)
        for name, parameter in alone.parameters.items():
            torch.testing.assert_close(together.parameters[name][mine], parameter, rtol=0, atol=0)
            assert parameter.grad is not None
            grad = together.parameters[name].grad
            assert grad is not None
            torch.testing.assert_close(grad[mine], parameter.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("method", ["spd", "apd"])
def test_every_configuration_ends_as_a_complete_run(method: str, target: Path, tmp_path: Path) -> None:
    configs = several(method, target, pictures=False)
    folders = [tmp_path / f"trial-{i}" for i in range(len(configs))]
    runs = run_together(configs, folders, progress=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == [folder.name for folder in folders]
    seen = []
    for run, config in zip(runs, configs, strict=True):
        assert run.finished and run.config == config.as_dict()
        found = load(run.path)
        assert found.n_instances == load_job(config).target.n_instances
        assert all(len(row["total"]) == found.n_instances for row in run.metrics())
        assert tensors(run).keys() == tensors(runs[0]).keys()
        name = "spd_model" if method == "apd" else "model"
        saved = {int(file.stem.split("_")[-1]) for file in run.path.glob(f"{name}_*.pth")}
        assert saved == set(range(SAVED, STEPS + 1, SAVED))
        seen.append(run.metrics()[-1]["total"])
    assert len({str(row) for row in seen}) == len(runs)


def test_a_killed_program_carries_on(target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configs = several("spd", target, pictures=False)
    whole = run_together(configs, [tmp_path / f"whole-{i}" for i in range(3)], progress=False)
    folders = [tmp_path / f"cut-{i}" for i in range(3)]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_at(25, patch)
        run_together(configs, folders, progress=False)
    assert not any(RunFolder.open(folder).finished for folder in folders)
    cut = run_together(configs, folders, progress=False)
    for one, other in zip(whole, cut, strict=True):
        assert one.metrics() == other.metrics()
        mine, theirs = tensors(one), tensors(other)
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_a_program_killed_while_it_was_writing_results(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = several("spd", target, pictures=False)
    folders = [tmp_path / str(i) for i in range(3)]
    finish, calls = together_module._finish_part, []

    def killed(*arguments: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        finish(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(together_module, "_finish_part", killed)
        run_together(configs, folders, progress=False)
    assert [RunFolder.open(folder).finished for folder in folders] == [True, False, False]
    assert all(run.finished for run in run_together(configs, folders, progress=False))
    assert not list(tmp_path.glob(".together-*"))


def test_what_belongs_together(target: Path) -> None:
    def key(method: str, **more: Any) -> object:
        return together_key(config_from_mapping(settings(method, target, **more)))

    assert key("spd") == key("spd", seed=7, importance_minimality_coeff=1.0)
    assert key("spd") != key("spd", importance_minimality_coeff=0)
    assert key("spd") != key("spd", recon_coeff=1.0)
    assert key("spd") != key("spd", C=7)
    assert key("spd") != key("spd", lr=1e-2)
    assert key("apd") == key("apd", topk=1.5, seed=3, schatten_coeff=9.0)
    assert key("apd") != key("apd", param_match_coeff=2.0)
    assert key("spd", tracker="tensorboard") != key("spd", tracker="tensorboard")


def test_what_does_not_belong_together_is_refused(target: Path, tmp_path: Path) -> None:
    configs = [config_from_mapping(settings("spd", target, C=c)) for c in (5, 6)]
    with pytest.raises(MicrotomeError, match="differ in more than seeds"):
        run_together(configs, [tmp_path / "a", tmp_path / "b"], progress=False)
    assert not list(tmp_path.iterdir())
