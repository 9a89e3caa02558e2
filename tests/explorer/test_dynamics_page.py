"""The page about a training: the planted ramp found and compared, and no transition where there is none."""

import json
from pathlib import Path

import numpy as np
import pytest

from microtome.cli.main import main


def original_file(path: Path, values: np.ndarray) -> Path:
    """A run of the original format with one measure of two layers."""
    records = [
        {
            "step": 5 * i,
            "loss": 2.0,
            "layer_metrics": {"a": {"participation_ratio": float(v)}, "b": {"participation_ratio": 4.0}},
        }
        for i, v in enumerate(values)
    ]
    path.write_text(json.dumps({"measurements": records}))
    return path


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def noise(n: int = 300) -> np.ndarray:
    return np.random.default_rng(0).normal(size=n) * 0.02


def test_a_planted_ramp(capsys: pytest.CaptureFixture[str]) -> None:
    middle = 5 + 3 / (1 + np.exp(-(np.arange(300) - 150) / 8.0)) + noise()
    file = original_file(Path("grows.json"), middle)
    assert main(["dynamics", "report", str(file)]) == 0
    assert capsys.readouterr().out.strip() == "Wrote report_grows.html"
    page = Path("report_grows.html").read_text()
    assert "A ramp at step" in page and "Before and after the strongest transition" in page
    assert "dimensionality only" in page, "an old file has no states"
    assert "<script" not in page and "http" not in page.replace("http-equiv", "")
    (folder,) = Path().glob("comparison_*ramp*")
    found = json.loads((folder / "analysis_results.json").read_text())["measurements"]
    assert found["step_before"] < 750 < found["step_after"]
    assert found["layer_changes"]["a"]["change"] == pytest.approx(3, abs=0.5)
    assert main(["dynamics", "compare", str(file), "--no-plots", "--out-dir", "again"]) == 0
    assert json.loads(Path("again/analysis_results.json").read_text())["measurements"] == found


def test_no_transition(capsys: pytest.CaptureFixture[str]) -> None:
    file = original_file(Path("flat.json"), 5 + noise())
    assert main(["dynamics", "report", str(file), "--out", "page.html"]) == 0
    page = Path("page.html").read_text()
    assert "No transition" in page and "From the first record to the last" in page
    assert main(["dynamics", "compare", str(file)]) == 2
    assert "no transition was found; name two steps to compare, such as 0 1495" in capsys.readouterr().err
