"""The reproducing path equals the original's formulas written out slowly, bit for bit, for every measure."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from original_files import (
    LAYERS,
    MEASURES,
    slow_jumps,
    slow_order,
    slow_periods,
    slow_stabilization,
    write_run,
)

from microtome.cli.main import main
from microtome.core.errors import CannotLoad, MicrotomeError
from microtome.dynamics.formats import original_files, read_original
from microtome.dynamics.original import convergence
from microtome.dynamics.original.analyse import analyse_folder, write


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    folder.mkdir()
    for seed, name in enumerate(("mlp_medium_5_mnist", "mlp_medium_mnist", "cnn_a")):
        write_run(folder, name, seed, zipped=seed == 1)
    return folder


@pytest.mark.parametrize("measure", MEASURES)
def test_every_measure_equals_the_slow_original(runs: Path, measure: str) -> None:
    result = analyse_folder(runs, measure)
    rows, periods, points = [], [], []
    for path in sorted(runs.iterdir(), key=lambda p: p.name.removesuffix(".gz")):
        file = read_original(path)
        series = {name: file.values[measure][:, file.layers.index(name)] for name in sorted(file.layers)}
        for layer, y in series.items():
            rows += [jump | {"layer": layer, "experiment": file.name} for jump in slow_jumps(y, 450)]
        periods.append(slow_periods(series, file.scalars["loss"]))
        points.append({layer: slow_stabilization(y) for layer, y in series.items()})
    expected = pd.DataFrame(rows)
    assert result.jumps is not None
    pd.testing.assert_frame_equal(
        result.jumps[list(expected.columns)], expected, check_exact=True, check_dtype=False
    )
    assert result.periods[list(periods[0])].to_dict("records") == periods
    assert [entry["stabilization_points"] for entry in result.convergence] == points
    for entry, mine in zip(result.convergence, points, strict=True):
        found = (entry["convergence_correlation"], entry["convergence_p_value"])
        assert np.array_equal(found, slow_order(mine), equal_nan=True)


def test_the_files_have_the_documented_names_and_keys(runs: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    words = ["--as-original", "--measure", "nuclear_norm_ratio", "--output-dir", str(out), "--no-pictures"]
    assert main(["dynamics", "analyze", str(runs), *words]) == 0
    table = pd.read_csv(out / "step1_2" / "all_jumps_detailed.csv")
    assert ",".join(table.columns) == (
        "step,magnitude,speed,direction,phase,layer,experiment,arch_name,dataset,phase_category,cluster"
    )
    summary = json.loads((out / "step1_2" / "jump_characterization_summary.json").read_text())
    assert summary["total_jumps"] == len(table)
    assert sum(summary["cluster_info"]["cluster_sizes"].values()) == len(table)
    entries = json.loads((out / "step1_1" / "convergence_analysis_summary.json").read_text())
    assert [entry["experiment_name"] for entry in entries] == [
        "cnn_a",
        "mlp_medium_5_mnist",
        "mlp_medium_mnist",
    ]
    periods = json.loads((out / "step1_3" / "critical_periods_summary.json").read_text())
    assert set(periods) == {"summary", "experiment_results"}
    assert "indices of records" in capsys.readouterr().out


def test_a_run_without_jumps_writes_the_original_note_and_no_table(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    folder.mkdir()
    path = write_run(folder, "flat", 0)
    content = json.loads(path.read_text())
    for record in content["measurements"]:
        for metrics in record["layer_metrics"].values():
            metrics["stable_rank"] = 1.0
    path.write_text(json.dumps(content))
    result = analyse_folder(folder)
    assert result.jumps is None
    write(result, tmp_path / "out")
    assert not (tmp_path / "out" / "step1_2" / "all_jumps_detailed.csv").exists()
    summary = json.loads((tmp_path / "out" / "step1_2" / "jump_characterization_summary.json").read_text())
    assert summary["summary"] == "No dimensionality jumps detected"
    # Layers that never are critical count a loss correlation of 0.
    assert result.periods["loss_correlation"].tolist() == [0.0]


def test_layer_index_reads_the_last_number() -> None:
    names = ["network.10", "conv_layers.3", "transformer.layers.0.linear1", "fc", "fc2"]
    assert [convergence.layer_index(name) for name in names] == [10, 3, 999, 999, 2]


def test_files_come_in_the_order_of_their_plain_names(runs: Path) -> None:
    names = [path.name for path in original_files(runs)]
    assert names == ["cnn_a.json", "mlp_medium_5_mnist.json", "mlp_medium_mnist.json.gz"][:1] + sorted(
        names[1:]
    )
    write_run(runs, "cnn_a", 0, zipped=True)
    with pytest.raises(CannotLoad, match="holds both"):
        original_files(runs)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda text: text[: len(text) // 2], "half-written or not JSON"),
        (lambda text: "", "half-written or not JSON"),
        (lambda text: "[1, 2]", "not a run of measurements"),
        (lambda text: '{"measurements": []}', "holds no measurements"),
        (lambda text: '{"measurements": [{"step": 0}]}', "has no layer_metrics"),
        (lambda text: text.replace('"step": 5,', '"step": "five",'), "does not hold a step and numbers"),
        (lambda text: text.replace('"step": 5,', '"step": 500,'), "do not ascend"),
    ],
)
def test_damaged_files_are_told_in_one_line(tmp_path: Path, capsys, damage, told: str) -> None:
    path = write_run(tmp_path, "run", 0)
    path.write_text(damage(path.read_text()))
    for extra in ([], ["--as-original"]):
        where = str(tmp_path) if extra else str(path)
        assert main(["dynamics", "analyze", where, "--output-dir", str(tmp_path / "o"), *extra]) == 2
        error = capsys.readouterr().err
        assert told in error and error.count("\n") == 1


def test_a_cut_gzip_and_a_missing_file(tmp_path: Path) -> None:
    path = write_run(tmp_path, "run", 0, zipped=True)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(CannotLoad, match="truncated or not gzipped"):
        read_original(path)
    with pytest.raises(CannotLoad, match="no such file"):
        read_original(tmp_path / "none.json")


def test_nan_literals_and_missing_layers_become_nan(tmp_path: Path) -> None:
    path = write_run(tmp_path, "run", 0, n=30)
    content = json.loads(path.read_text())
    content["measurements"][3]["layer_metrics"]["fc1"]["stable_rank"] = float("nan")
    del content["measurements"][4]["layer_metrics"]["fc1"]
    path.write_text(json.dumps(content))
    file = read_original(path)
    assert file.layers == list(LAYERS)
    column = file.values["stable_rank"][:, file.layers.index("fc1")]
    assert np.flatnonzero(np.isnan(column)).tolist() == [3, 4]


def test_an_unknown_measure_is_refused(runs: Path) -> None:
    with pytest.raises(MicrotomeError, match="not in the original files"):
        analyse_folder(runs, "entropy_rank")
