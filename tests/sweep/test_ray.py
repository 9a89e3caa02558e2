"""Sweeps on Ray: a local one, and a cluster that was started before."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from microtome.cli.main import main
from microtome.sweep.record import Record

pytest.importorskip("ray")


@pytest.fixture
def short_folder():
    """A path short enough for the sockets that Ray makes in it."""
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        yield folder


def sweep(world, *more, environment=None):
    """In a process of its own: Ray leaves threads and sockets behind, and warnings are errors here."""
    return subprocess.run(
        [sys.executable, "-m", "microtome", "sweep", "sweep.yaml", "--engine", "ray", *more],
        capture_output=True,
        text=True,
        cwd=world.path,
        env=os.environ | (environment or {}),
        check=False,
        timeout=240,
    )


def check(world, folder):
    """Every trial's folder is back in the sweep's, with what the trial wrote."""
    trials = Record(folder).load()
    assert [trial.status for trial in trials.values()] == ["finished", "failed", "finished"]
    assert [trial.metrics.get("loss") for trial in trials.values()] == [4.0, None, 1.0]
    assert trials[1].reason == "x=3 cannot be"
    assert (folder / "trial_0000" / "summary.json").is_file()


def test_without_ray_the_extra_is_named(world, capsys, monkeypatch):
    world.file()
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["sweep", "sweep.yaml", "--engine", "ray", "--quiet"]) == 2
    assert "pip install 'microtome[ray]'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_local_ray(world):
    world.file(parameters={"x": {"values": [2, 3, 1]}})
    done = sweep(world, "-j", "2", "--out_dir", "out")
    assert done.returncode == 1, done.stderr
    check(world, world.path / "out")


@pytest.mark.slow
def test_a_cluster_and_one_that_is_not_there(world, short_folder):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "OMP_NUM_THREADS": "1"}
    environment |= {"RAY_TMPDIR": short_folder}  # else `auto` would find this cluster after its end
    head = subprocess.Popen(
        [
            *(str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", f"--port={port}"),
            *("--num-cpus=2", "--include-dashboard=false", "--disable-usage-stats"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | environment,
        start_new_session=True,
    )
    try:
        address = f"127.0.0.1:{port}"
        end = time.monotonic() + 60
        while time.monotonic() < end:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.5)
        time.sleep(3)
        world.file(parameters={"x": {"values": [2, 3, 1]}})
        environment["STARTED"] = str(world.path / "started.txt")
        done = sweep(world, "--address", address, "--out_dir", "out", environment=environment)
        assert done.returncode == 1, done.stderr
        check(world, world.path / "out")
    finally:
        os.killpg(head.pid, signal.SIGKILL)
        head.wait(30)
    gone = sweep(world, "--address", address, "--out_dir", "other", environment=environment)
    assert gone.returncode == 2
    assert f"--address {address}: cannot reach a Ray cluster" in gone.stderr
