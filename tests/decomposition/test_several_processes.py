"""Two processes on one decomposition: the same as one, differences refused, a lost one told and made good."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_language_runs import language_settings, make_model
from small_runs import settings, write_yaml

from microtome.core.distributed import Processes
from microtome.core.errors import MicrotomeError
from microtome.core.runs import RunFolder
from microtome.decomposition import jobs
from microtome.decomposition.config import config_from_mapping
from microtome.decomposition.decompose import run_config

SCRIPT = Path(__file__).with_name("two_decompositions.py")


def torchrun(folder: Path, what: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(SCRIPT)]
    path = os.pathsep.join(str(SCRIPT.parents[1] / name) for name in ("decomposition", "gradients"))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    return subprocess.run(
        [*words, str(folder), what], capture_output=True, text=True, env=environment, check=False
    )


def toy_settings(target: Path) -> dict[str, Any]:
    losses = [
        {"name": "faithfulness", "coeff": 1.0},
        {"name": "importance_minimality", "coeff": 1e-3, "pnorm": 2.0, "beta": 0.5},
        {"name": "stochastic_recon", "coeff": 1.0},
        {"name": "stochastic_recon", "coeff": 1.0, "sites": "layerwise"},
    ]
    values = settings("spd", target, steps=12, print_freq=1, pictures=False, losses=losses, device="cpu")
    return {**values, "grad_clip_norm_components": 0.01, "gradient_accumulation_steps": 2}


@pytest.fixture(scope="module")
def folder(target: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Everything that two processes made."""
    folder = make_model(tmp_path_factory.mktemp("two"))
    write_yaml(folder / "toy.yaml", toy_settings(target))
    write_yaml(folder / "language.yaml", language_settings(folder))
    ended = torchrun(folder, "train")
    assert (folder / "killed").exists(), ended.stderr
    yield folder


@pytest.mark.parametrize("name", ["toy", "language"])
def test_two_processes_make_what_one_makes(
    name: str, folder: Path, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs.SPD, "can", classmethod(lambda *_: False))  # its masks come from other draws
    alone = language_settings(folder) if name == "language" else toy_settings(target)
    one = run_config(config_from_mapping(alone), out_dir=tmp_path / "one", progress=False)
    two = RunFolder.open(folder / name)
    assert two.finished and len(one.metrics()) == len(two.metrics()) == alone["steps"]
    for mine, theirs in zip(one.metrics(), two.metrics(), strict=True):
        assert mine.keys() == theirs.keys()
        for key in mine:
            np.testing.assert_allclose(mine[key], theirs[key], rtol=2e-3, atol=2e-5, err_msg=key)
        np.testing.assert_allclose(mine["total"], theirs["total"], rtol=1e-5)
    found = [run.latest_checkpoint() for run in (one, two)]
    assert found[0] is not None and found[1] is not None
    for key, tensor in found[0][1].items():
        if key.startswith(("components.", "gates.")):
            torch.testing.assert_close(tensor, found[1][1][key], rtol=1e-3, atol=1e-5, msg=key)


def test_processes_that_were_not_started_alike(folder: Path) -> None:
    told = (folder / "other_configuration.txt").read_text().splitlines()
    assert told == [
        "process 1 was started with another lr than process 0 (0.002, not 0.001);"
        " start every process with the same command, files and versions"
    ]
    told = (folder / "odd_batch.txt").read_text().splitlines()
    assert len(told) == 1 and "batch_size=62: cannot be shared by 2 processes" in told[0]
    assert not (folder / "other_configuration").exists() and not (folder / "odd_batch").exists()


def test_a_lost_process_is_told_and_the_run_goes_on_without_loss(folder: Path) -> None:
    told = (folder / "killed.txt").read_text().splitlines()
    assert len(told) == 1
    assert "another process of this job ended, the job stops" in told[0]
    assert f"torchrun --nproc-per-node 2 -m microtome decompose --resume {folder / 'killed'}" in told[0]
    killed, undisturbed = RunFolder.open(folder / "killed"), RunFolder.open(folder / "language")
    assert not killed.finished and killed.checkpoint_steps()[-1] == 4
    ended = torchrun(folder, "resume")
    assert ended.returncode == 0, ended.stderr
    assert killed.metrics() == undisturbed.metrics() and killed.summary == undisturbed.summary
    mine, theirs = killed.latest_checkpoint(), undisturbed.latest_checkpoint()
    assert mine is not None and theirs is not None
    assert all(torch.equal(mine[1][key], theirs[1][key]) for key in theirs[1])


def test_apd_says_that_it_trains_alone(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = jobs.load_job(config_from_mapping(settings("apd", target)))
    with pytest.raises(MicrotomeError, match=r"method='apd': trains in one process only"):
        jobs.build_method(job, Processes(0, 2, 0))
