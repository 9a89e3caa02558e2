"""Real recordings of the original tools: their numbers come out exactly; rounding makes no jumps."""

import gzip
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from microtome.cli.main import main
from microtome.compat.phase2_infrastructure import Phase2Infrastructure


@pytest.fixture(scope="module")
def data(real_data: Callable[[str], Path]) -> Path:
    return real_data("training_dynamics")


@pytest.fixture(scope="module")
def reproduced(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("original")
    words = ["dynamics", "analyze", str(data / "runs"), "--as-original", "--measure", "stable_rank"]
    assert main([*words, "--output-dir", str(out), "--no-pictures"]) == 0
    return out


def test_the_original_results_come_out_byte_for_byte(data: Path, reproduced: Path):
    expected = data / "expected_stable_rank"
    files = [path.relative_to(expected) for path in sorted(expected.rglob("*")) if path.is_file()]
    assert len(files) == 5
    for name in files:
        packed = name.suffix == ".gz"
        theirs = gzip.decompress((expected / name).read_bytes()) if packed else (expected / name).read_bytes()
        assert (reproduced / (name.with_suffix("") if packed else name)).read_bytes() == theirs, name
    jumps = pd.read_csv(reproduced / "step1_2" / "all_jumps_detailed.csv")
    assert len(jumps) == 2991 and (jumps.experiment == "transformer_deep_mnist").sum() == 174


def test_the_self_test_says_what_the_original_said(data: Path, reproduced: Path, tmp_path: Path):
    runs = tmp_path / "experiments" / "new" / "results" / "phase1_full"
    runs.parent.mkdir(parents=True)
    runs.symlink_to(data / "runs")
    results = tmp_path / "experiments" / "mechanistic_interpretability" / "results"
    results.parent.mkdir()
    results.symlink_to(reproduced)
    found = Phase2Infrastructure(tmp_path / "experiments")
    assert found.get_experiment_summary("transformer_deep_mnist")["num_jumps"] == 174
    moments = found.identify_moments("transformer_deep_mnist", num_jumps=3)
    assert len(moments) == 9
    result = found.compare_representations(moments[0], moments[1])
    assert round(result.measurements["loss_change"], 4) == 0.1298
    assert len(result.measurements["layer_changes"]) == 14


def test_by_default_the_degenerate_rank_has_no_jumps_and_is_named(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    few = tmp_path / "runs"
    few.mkdir()
    for name in ("cnn_shallow_mnist", "mlp_narrow_mnist", "transformer_deep_mnist"):
        (few / f"{name}.json.gz").symlink_to(data / "runs" / f"{name}.json.gz")
    words = ["dynamics", "analyze", str(few), "--measure", "stable_rank", "--no-pictures"]
    assert main([*words, "--output-dir", str(tmp_path / "out")]) == 0
    assert "warning: stable_rank is degenerate" in capsys.readouterr().out
    for name in ("all_jumps_detailed", "all_ramps_detailed"):
        path = tmp_path / "out" / "step1_2" / f"{name}.csv"
        assert not path.is_file() or "stable_rank" not in set(pd.read_csv(path).measure)
    assert (tmp_path / "out" / "step1_2" / "jump_characterization_summary.json").is_file()
