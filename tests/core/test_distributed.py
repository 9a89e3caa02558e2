"""Processes under torchrun, and alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from microtome.core.distributed import (
    Processes,
    all_reduce_sum,
    launched_processes,
    process_device,
    processes,
    share,
)
from microtome.core.errors import MicrotomeError


def test_two_processes_share_the_items_and_add_up(tmp_path):
    script = Path(__file__).with_name("two_processes.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = ["--standalone", "--nproc-per-node=2", str(script), str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *words],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2))
    assert (first["rank"], second["rank"], first["size"], first["backend"]) == (0, 1, 2, "gloo")
    assert first["items"] == list(range(0, 101, 2)) and second["items"] == list(range(1, 101, 2))
    for found in (first, second):
        assert found["total"] == [sum(range(101)), 101]
        assert found["grid"] == (torch.arange(6.0).reshape(2, 3).T * 3).tolist()
        assert found["seen"] and found["left"]


def test_alone_nothing_is_started():
    with processes("cpu") as own:
        assert own == Processes(0, 1, 0) and own.main
        assert not torch.distributed.is_initialized()
        tensor = torch.ones(3)
        assert all_reduce_sum(tensor, own) is tensor
        assert share([1, 2, 3], own) == [1, 2, 3]


def test_every_item_has_one_owner():
    items = list(range(17))
    shares = [share(items, Processes(rank, 5)) for rank in range(5)]
    assert sorted(item for own in shares for item in own) == items
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_each_process_has_its_own_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    devices = [str(process_device("auto", Processes(rank, 4, rank % 2))) for rank in range(4)]
    assert devices == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]
    assert str(process_device("cuda", Processes())) == "cuda"
    assert str(process_device("cpu", Processes(1, 2, 1))) == "cpu"


def test_only_the_main_process_says_that_there_is_no_gpu(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for rank in range(2):
        assert process_device("cuda", Processes(rank, 2, rank)).type == "cpu"
    assert capsys.readouterr().err.count("no such device") == 1


def test_a_scheduler_s_rank_alone_is_no_launch(monkeypatch):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    assert launched_processes().size == 1


def test_a_broken_environment_is_told_in_one_line(monkeypatch):
    for name, value in {"RANK": "x", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(MicrotomeError, match="RANK='x'"):
        launched_processes()
