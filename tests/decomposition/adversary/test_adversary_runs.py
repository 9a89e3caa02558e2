"""Adversaries in whole runs: killed and resumed, and over two processes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_runs import settings, start, write_yaml

from microtome.cli.main import main
from microtome.core.runs import RunFolder

TESTS = Path(__file__).parents[1]
LOSSES = [
    {"name": "faithfulness", "coeff": 1.0},
    {"name": "pgd_recon", "coeff": 1.0, "n_steps": 2},
    {
        "name": "persistent_pgd_recon",
        "coeff": 1.0,
        "optimizer": {"type": "adam", "lr": 0.05},
        "scope": {"type": "per_batch_per_position"},
        "reset_prob": 0.05,
        "adv_fraction": 0.5,
    },
    {"name": "importance_minimality", "coeff": 0.003},
]
CHILD = """
import os, signal, sys
from microtome.cli.main import main
from microtome.decomposition.loop import Loop
one_step = Loop._one_step
def step(self):
    if self.step == 9:
        os.kill(os.getpid(), signal.SIGKILL)
    return one_step(self)
Loop._one_step = step
sys.exit(main(["decompose", sys.argv[1], "--out_dir", sys.argv[2], "--quiet"]))
"""


SHORT = {"steps": 12, "batch_size": 16, "save_freq": 3, "print_freq": 1, "losses": LOSSES}


@pytest.mark.usefixtures("without_pictures")
def test_a_killed_adversary_goes_on_where_its_checkpoint_is(target: Path, tmp_path: Path) -> None:
    config = write_yaml(tmp_path / "config.yaml", settings("spd", target, **SHORT))
    child = [sys.executable, "-c", CHILD, str(config), str(tmp_path / "killed")]
    ended = subprocess.run(
        child, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    run = RunFolder.open(tmp_path / "killed")
    found = run.latest_checkpoint()
    assert found is not None and found[0] == 9
    assert found[1]["method/persistent_pgd_recon/source.linear1.0"].shape == (4, 16, 6)
    assert main(["decompose", "--resume", str(run.path), "--quiet"]) == 0
    whole = start("spd", target, tmp_path / "whole", **SHORT)
    ends = [one.latest_checkpoint() for one in (run, whole)]
    assert ends[0] is not None and ends[1] is not None and ends[0][0] == ends[1][0] == 12
    assert ends[0][1].keys() == ends[1][1].keys()
    assert [n for n, t in ends[0][1].items() if not torch.equal(t, ends[1][1][n])] == []
    assert run.metrics() == whole.metrics() and len(run.metrics()) == 12


def test_two_processes_have_one_adversary(tmp_path: Path) -> None:
    script = Path(__file__).with_name("two_attackers.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS)}
    two = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    for name, launch in (("one", []), ("two", two)):
        words = [sys.executable, *launch, str(script), str(tmp_path / name)]
        done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
    one, both = (torch.load(tmp_path / name, weights_only=True) for name in ("one", "two"))
    assert one.keys() == both.keys()
    for name, tensor in one.items():
        assert torch.allclose(tensor, both[name], rtol=1e-4, atol=2e-6), name
