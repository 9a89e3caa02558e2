"""The example runs from top to bottom, with few steps and few tokens."""

import runpy
import sys
from pathlib import Path

import pytest

from microtome.gradients import validate_run

EXAMPLE = Path(__file__).parents[2] / "examples" / "gradients.py"


@pytest.mark.slow
def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["gradients.py", "0.01"])
    monkeypatch.setitem(validate_run.TOKENS, "features", 300)
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    shown = capsys.readouterr().out
    assert "attribution_mean" in shown and "acts on" in shown and "Spearman" in shown
    assert list(tmp_path.glob("sae_features_model_*/layer_2_validation.png"))
