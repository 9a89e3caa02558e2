"""kill -9 at any moment, resume: the run is the one that nothing disturbed, bit for bit."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_runs import Whole, assert_same_run, settings, write_yaml

from microtome.core.runs import RunFolder

SCRIPT = Path(__file__).with_name("killed_at_random.py")
pytestmark = [
    pytest.mark.usefixtures("without_pictures"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="forks"),
]


SLOW = [(method, seed) for method in ("spd", "apd") for seed in range(1, 6)]


@pytest.mark.parametrize(
    ("method", "seed"), [("spd", 0), *(pytest.param(*values, marks=pytest.mark.slow) for values in SLOW)]
)
def test_killed_at_random_moments(method: str, seed: int, target: Path, whole: Whole, tmp_path: Path) -> None:
    config = write_yaml(tmp_path / "config.yaml", settings(method, target, pictures=False))
    words = [sys.executable, str(SCRIPT), str(config), str(tmp_path / "run"), str(seed)]
    ended = subprocess.run(
        words, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) > 0
    assert_same_run(RunFolder.open(tmp_path / "run"), whole(method))
    assert list((tmp_path / "run").rglob("*.partial")) == []
