"""The built-in tasks, recorded by the command."""

import gzip
import json
import struct

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from microtome.cli.main import main
from microtome.dynamics.tasks import TASKS, build, config_of, rebuild, task_name


def record(capsys, *words):
    code = main(["dynamics", "record", *map(str, words), "--quiet"])
    said = capsys.readouterr()
    return code, said.out, said.err


def table(out, name="measures"):
    (file,) = (out / "tables").glob(f"{name}_*.parquet")
    return pd.read_parquet(file)


SMALL = {
    "digits": ["--steps", 12],
    "modular-addition": ["--steps", 12, "--p", 11, "--d_model", 16, "--d_mlp", 16, "--probe_size", 20],
    "induction": ["--steps", 12, "--half_length", 6, "--d_model", 16, "--probe_size", 8],
}


@pytest.mark.parametrize("name", list(SMALL))
def test_a_task_is_recorded_and_its_network_rebuilt(name, tmp_path, capsys):
    out = tmp_path / "run"
    code, said, _ = record(capsys, name, *SMALL[name], "--out_dir", out, "--when", "every(6)")
    assert code == 0 and f"Results: {out}" in said
    facts = json.loads((out / "recording.json").read_text())
    assert table(out).step.unique().tolist() == [0, 6, 12]
    assert set(table(out).layer) == set(facts["layers"])
    scalars = table(out, "scalars").set_index("step")
    assert scalars.loss.notna().sum() == 12 and scalars.probe_accuracy.notna().sum() == 3
    # The kept state in the rebuilt network gives the accuracy that was recorded.
    model = rebuild(facts["task"])
    model.load_state_dict(load_file(out / "checkpoints" / "step_000012.safetensors"))
    probe = load_file(out / "probe.safetensors")
    counted = probe["labels"] != -100
    right = (model(probe["inputs"]).argmax(-1) == probe["labels"])[counted].float().mean()
    assert scalars.probe_accuracy[12] == pytest.approx(right.item())


def test_the_same_seed_gives_the_same_recording(tmp_path, capsys):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        record(capsys, "digits", "--steps", 5, "--seed", seed, "--out_dir", tmp_path / name)
    same = pd.testing.assert_frame_equal
    same(table(tmp_path / "a"), table(tmp_path / "b"))
    with pytest.raises(AssertionError):
        same(table(tmp_path / "a"), table(tmp_path / "c"))


@pytest.mark.parametrize("architecture", ["cnn", "transformer"])
def test_digits_by_other_networks_learn(architecture, tmp_path, capsys):
    out = tmp_path / "run"
    record(capsys, "digits", "--architecture", architecture, "--steps", 100, "--lr", 3e-3, "--out_dir", out)
    assert table(out, "scalars").test_accuracy.dropna().iloc[-1] > 0.5


def write_idx(path, array, zipped):
    head = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    content = head + array.astype(np.uint8).tobytes()
    if zipped:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(content))
    else:
        path.write_bytes(content)


@pytest.mark.parametrize("architecture", ["mlp", "cnn", "transformer"])
def test_mnist_from_idx_files(architecture, tmp_path, capsys):
    rng = np.random.default_rng(0)
    for name, n in (("train", 50), ("t10k", 30)):
        write_idx(tmp_path / f"{name}-images-idx3-ubyte", rng.integers(0, 256, (n, 28, 28)), n == 50)
        write_idx(tmp_path / f"{name}-labels-idx1-ubyte", rng.integers(0, 10, (n,)), n == 50)
    out = tmp_path / "run"
    words = ["mnist", "--folder", tmp_path, "--architecture", architecture, "--steps", 2, "--batch_size", 8]
    code, _, _ = record(capsys, *words, "--out_dir", out, "--probe_size", 10)
    assert code == 0
    assert load_file(out / "probe.safetensors")["inputs"].shape == (10, 1, 28, 28)
    if architecture == "cnn":
        assert "mean over space" in json.loads((out / "recording.json").read_text())["rows"]["conv2"]


def test_attention_patterns_are_kept(tmp_path, capsys):
    out = tmp_path / "run"
    words = [*SMALL["induction"], "--attention", "--captures", "at(12)", "--when", "every(6)"]
    assert record(capsys, "induction", *words, "--out_dir", out)[0] == 0
    capture = load_file(out / "captures" / "step_000012.safetensors")
    pattern = capture["attention/blocks.1.attention"]
    assert pattern.shape == (8, 4, 12, 12)
    torch.testing.assert_close(pattern.sum(-1), torch.ones(8, 4, 12))
    assert pattern.triu(1).abs().max() == 0


def test_induction_needs_more_than_a_fixed_distance():
    task = build("induction", config_of("induction")(probe_size=64))
    periods = set()
    for row, labels in zip(task.probe, task.labels, strict=True):
        period = next(p for p in range(1, len(row)) if torch.equal(row[p:], row[:-p]))
        periods.add(period)
        counted = (labels != -100).nonzero().flatten()
        assert counted[0] == period and torch.equal(labels[counted], row[counted + 1])
        assert len(set(row[:period].tolist())) == period
    assert len(periods) > 4


def test_modular_addition_has_each_pair_once_and_the_probe_is_held_out():
    config = config_of("modular-addition")(p=13, probe_size=1000)
    task = build("modular-addition", config)
    assert torch.equal(task.probe[:, :2].sum(1) % 13, task.labels)
    pairs = {tuple(sorted(row)) for row in task.probe[:, :2].tolist()}
    assert len(pairs) == len(task.probe) == 91 - round(0.6 * 91)


def test_names_of_tasks(capsys):
    assert task_name("grokking") == task_name("modular_addition") == "modular-addition"
    assert main(["dynamics", "record"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in TASKS)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["gorkking"], "record gorkking: no such task; did you mean grokking?"),
        (["digits", "--stepps", "3"], "--stepps: unknown flag; did you mean --steps?"),
        (["digits", "--when", "sometimes"], "when='sometimes': not a schedule; write log2_then(100)"),
        (["digits", "--measures", "rank"], "measures='rank': no such measure; choose from stable_rank"),
        (["modular-addition", "--d_model", "30"], "d_model=30: not a multiple of n_heads"),
        (["mnist", "--folder", "nowhere"], "folder='nowhere': no train-images-idx3-ubyte[.gz] in it"),
        (["digits", "--lr", "1e30"], "the loss is"),
    ],
)
def test_what_cannot_be_is_one_line(words, said, tmp_path, capsys):
    code, _, err = record(capsys, *words, "--out_dir", tmp_path / "run")
    assert code == 2
    assert said in err and err.count("\n") == 1


def test_a_killed_recording_is_not_carried_on_by_another_training(tmp_path, capsys):
    out = tmp_path / "run"
    record(capsys, "digits", "--steps", 5, "--out_dir", out)
    (out / "summary.json").unlink()  # as a kill leaves it
    code, _, err = record(capsys, "digits", "--steps", 5, "--seed", 1, "--out_dir", out)
    assert code == 2 and "an unfinished recording with seed=0 is there; give the same" in err
    assert record(capsys, "digits", "--steps", 8, "--out_dir", out)[0] == 0
    assert table(out, "scalars").step.max() == 8
