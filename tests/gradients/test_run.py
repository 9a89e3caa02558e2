"""Whole runs through the command line: files, keys, loading, carrying on, bad input."""

import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from safetensors.torch import save_file
from tiny import D_MODEL, N_FEATURES, N_LAYERS, save_dictionaries

from microtome.cli.main import main
from microtome.core.errors import CannotLoad, MicrotomeError
from microtome.core.runs import RunFolder
from microtome.gradients import feature_importance, layer_importance, load, load_results
from microtome.gradients import run as run_module
from microtome.gradients.accumulate import Accumulator
from microtome.gradients.consolidated import save_consolidated
from microtome.targets.language_model import LanguageModel

FEW = ["--num_samples", "6", "--max_length", "32", "--dataset", "builtin", "--device", "cpu", "--quiet"]
RUN_FILES = {"config.yaml", "environment.json", "summary.json", "results"}
ALWAYS = {"metadata.json", "timing_stats.json", "timing_summary.txt", "consolidated_results.npz"} | RUN_FILES


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def features(model: Path, saes: Path, *more: str, code: int = 0) -> Path | None:
    words = ["--model_name", str(model), "--sae_path", str(saes), "--no_check_dictionary", *FEW, *more]
    assert main(["gradients", "features", *words]) == code
    return newest()


def layers(model: Path, *more: str, code: int = 0) -> Path | None:
    assert main(["gradients", "layers", "--model_name", str(model), *FEW, *more]) == code
    return newest()


def newest() -> Path | None:
    return max(Path().glob("*_model_*"), key=lambda p: p.stat().st_mtime_ns, default=None)


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


# -- files


def expected_files(kind: str, modes: list[str], endings: list[str], chosen: list[int]) -> set[str]:
    """Written from the documentation, not from the code."""
    point = {"features": "feature", "layers": "activation"}[kind]
    files = set(ALWAYS)
    for layer in chosen:
        for mode in modes:
            for ending in endings:
                stem = f"layer_{layer}_{mode}{ending}"
                files |= {f"{stem}_gradients.npy", f"{stem}_gradient_hist.png", f"{stem}_{point}_scatter.png"}
        if len(modes) == 2:
            for ending in endings:
                stem = f"layer_{layer}{ending}_gradient"
                files |= {f"{stem}_hist_combined.png", f"{stem}_scatter_combined.png"}
        if kind == "features":
            files.add(f"layer_{layer}_attribution.npy")
    if len(chosen) > 1:
        for mode in modes:
            for ending in endings:
                stem = f"all_layers_{mode}{ending}"
                files |= {f"{stem}_gradient_histograms.png", f"{stem}_{point}_scatter.png"}
    return files


@pytest.mark.parametrize(
    ("mode", "normalise", "endings"),
    [
        ("mean_abs", (), [""]),
        ("mean", ("--normalize_gradients",), [""]),
        ("both", ("--normalize-mode", "sum"), [""]),
        ("both", ("--normalize_gradients=both",), ["_norm_sum", "_norm_sum_abs"]),
    ],
)
def test_every_mode_writes_the_documented_files(
    model_folder: Path,
    saes: Path,
    mode: str,
    normalise: tuple[str, ...],
    endings: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if normalise:  # the pictures are drawn; rendering them once is enough
        monkeypatch.setattr(Figure, "savefig", lambda self, path, **how: None)
    modes = ["mean", "mean_abs"] if mode == "both" else [mode]
    words = ["--layers", "0,2", "--aggregation_mode", mode, *normalise, "--save_outputs"]
    for kind in ("layers", "features"):
        folder = layers(model_folder, *words) if kind == "layers" else features(model_folder, saes, *words)
        assert folder is not None
        pattern = {"layers": "layer_activations", "features": "sae_features"}[kind]
        assert re.fullmatch(
            rf"{pattern}_model_tiny_num_samples_6_batch_size_4_layers_0_2_\d{{8}}_\d{{6}}", folder.name
        )
        assert names(folder) == expected_files(kind, modes, endings, [0, 2])
        with np.load(folder / "consolidated_results.npz", allow_pickle=True) as data:
            keys = {f"layer_{i}_{m}{e}" for i in (0, 2) for m in modes for e in endings} | {"metadata"}
            keys |= {f"layer_{i}_attribution" for i in (0, 2)} if kind == "features" else set()
            assert set(data.keys()) == keys
            for layer in (0, 2):
                for m in modes:
                    for ending in endings:
                        values = np.load(folder / f"layer_{layer}_{m}{ending}_gradients.npy")
                        assert values.dtype == np.float32
                        np.testing.assert_array_equal(values, data[f"layer_{layer}_{m}{ending}"])
                        total = (
                            np.abs(values).sum()
                            if "abs" in ending or normalise[:1] == ("--normalize_gradients",)
                            else values.sum()
                        )
                        if normalise:
                            assert total == pytest.approx(len(values), rel=1e-4)


def test_metadata_says_everything_that_is_documented(model_folder: Path, saes: Path) -> None:
    folder = features(model_folder, saes, "--save_outputs", "--no_plots", "--normalize_gradients")
    assert folder is not None and not list(folder.glob("*.png"))
    metadata = json.loads((folder / "metadata.json").read_text())
    blocks = {
        "experiment_info",
        "analysis_config",
        "timing_stats",
        "per_layer_timing",
        "layer_statistics",
        "dimension_info",
        "loading_instructions",
    }
    flat = {
        "model_name": str(model_folder),
        "num_samples": 6,
        "batch_size": 4,
        "max_length": 32,
        "layers": [0, 1, 2],
        "aggregation_mode": "mean_abs",
        "normalized": True,
        "normalization_mode": "sum_abs",
        "aggregate_by": "gradients",
        "power": 1.0,
        "device": "cpu",
        "dimension_sizes": {str(layer): N_FEATURES for layer in range(N_LAYERS)},
    }
    assert blocks <= set(metadata) and {key: metadata[key] for key in flat} == flat
    values = np.load(folder / "layer_1_mean_abs_gradients.npy").astype(float)
    statistics = metadata["layer_statistics"]["layer_1"]
    assert statistics == pytest.approx(
        {"mean": values.mean(), "std": values.std(), "max": values.max(), "sum_abs": N_FEATURES}, rel=1e-4
    )
    timing = json.loads((folder / "timing_stats.json").read_text())
    assert {"model_loading", "sae_loading", "dataset_preparation", "total_runtime"} <= set(timing["overall"])
    assert {"gradient_computation", "save_data", "total"} <= set(timing["per_layer"]["2"])
    assert "layer 2" in (folder / "timing_summary.txt").read_text()
    run = RunFolder.open(folder)
    assert run.kind == "gradients-features" and run.finished and run.config["layers"] is None


def test_statistics_nest_by_mode_and_normalisation(model_folder: Path) -> None:
    folder = layers(
        model_folder, "--save_outputs", "--no_plots", "--aggregation_mode", "both", "--normalize_mode", "all"
    )
    assert folder is not None
    nested = json.loads((folder / "metadata.json").read_text())["layer_statistics"]["layer_0"]
    assert set(nested) == {"mean", "mean_abs"}
    assert set(nested["mean"]) == {"none", "norm_sum", "norm_sum_abs"}


def test_a_custom_path_replaces_the_file_in_the_folder(model_folder: Path, saes: Path) -> None:
    folder = features(model_folder, saes, "--save_outputs", "--no_plots", "--save_consolidated", "my/all.npz")
    assert folder is not None and not (folder / "consolidated_results.npz").exists()
    assert set(load_results("my/all.npz")["data"]) == set(load_results(folder)["data"])


def test_without_save_outputs_nothing_is_written(model_folder: Path, here: Path, capsys) -> None:
    layers(model_folder)
    assert not list(here.iterdir())
    assert "Nothing was written" in capsys.readouterr().out


@pytest.mark.parametrize("quantity", ["active_gradients", "attribution", "values"])
def test_other_quantities_go_by_their_name(model_folder: Path, saes: Path, quantity: str) -> None:
    folder = features(
        model_folder, saes, "--save_outputs", "--aggregate_by", quantity, "--power", "2", "--layers", "1"
    )
    assert folder is not None
    assert re.search(rf"_layers_1_agg_{quantity}_power_2_\d{{8}}_\d{{6}}$", folder.name)
    assert {f"layer_1_mean_abs_{quantity}.npy", f"layer_1_mean_abs_{quantity}_hist.png"} <= names(folder)
    result = load(folder)
    squared = np.square(result.score(1, f"{quantity}_mean_abs").astype(float))
    np.testing.assert_allclose(np.load(folder / f"layer_1_mean_abs_{quantity}.npy"), squared, rtol=1e-5)
    assert "layer_1_mean_abs" in load_results(folder)["data"]


# -- options


def test_attribution_can_be_left_out(model_folder: Path, saes: Path) -> None:
    folder = features(model_folder, saes, "--save_outputs", "--no_plots", "--no_attribution")
    assert folder is not None and not list(folder.glob("*attribution*"))
    assert load(folder).best_score == "gradients_mean_abs"


def test_special_tokens_and_long_activations_are_left_out(
    model_folder: Path, saes: Path, lm: LanguageModel
) -> None:
    texts = [
        "<|endoftext|>The words of a sentence that is long enough.",
        "Another one, with more words in it.",
    ]
    plain, skipped, short = (
        layer_importance(lm, texts, device="cpu", max_length=32, **how)
        for how in ({}, {"skip_special_tokens": True}, {"max_norm_multiple": 1.0})
    )
    positions = [r.metadata["positions"] for r in (plain, skipped, short)]
    assert positions[1] == positions[0] - 1
    assert positions[0] * 0.3 < positions[2] < positions[0] * 0.8
    with pytest.raises(MicrotomeError, match="no token position is left"):
        layer_importance(lm, texts[1:], device="cpu", max_length=32, max_norm_multiple=1e-9)


def test_a_stride_counts_every_so_many_positions_of_each_sample(lm: LanguageModel, texts: list[str]) -> None:
    whole, every = (
        layer_importance(lm, texts[:4], device="cpu", max_length=32, position_stride=stride)
        for stride in (1, 4)
    )
    lengths = [min(len(lm.tokenizer(text)["input_ids"]), 32) for text in texts[:4]]
    assert whole.metadata["positions"] == sum(lengths)
    assert every.metadata["positions"] == sum(-(-n // 4) for n in lengths)


def test_checkpointing_and_bf16_run(model_folder: Path, saes: Path, capsys) -> None:
    folder = features(
        model_folder,
        saes,
        "--save_outputs",
        "--no_plots",
        "--dtype",
        "bfloat16",
        "--activation_checkpointing",
    )
    rough = load(folder or "")
    exact = load(features(model_folder, saes, "--save_outputs", "--no_plots") or "")
    for layer in range(N_LAYERS):
        a, b = (r.score(layer, "mean_abs") for r in (exact, rough))
        assert np.corrcoef(a, b)[0, 1] > 0.98


def test_cuda_without_a_gpu_is_one_line_and_the_cpu(model_folder: Path, capsys) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    words = [w for w in FEW if w not in ("--device", "cpu")]
    assert main(["gradients", "layers", "--model_name", str(model_folder), *words, "--device", "cuda"]) == 0
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1 and "running on the CPU" in told[0]


def test_batches_and_memory_change_nothing(model_folder: Path, saes: Path) -> None:
    reference = load(features(model_folder, saes, "--save_outputs", "--no_plots") or "")
    for more in (["--batch_size", "1"], ["--batch_size", "6", "--max_tokens_in_memory", "10"]):
        other = load(features(model_folder, saes, "--save_outputs", "--no_plots", *more) or "")
        for layer, arrays in reference.layers.items():
            for name, values in arrays.items():
                scale = max(np.nanmax(np.abs(values)), 1e-12)
                np.testing.assert_allclose(
                    other.layers[layer][name], values, rtol=1e-4, atol=2e-5 * scale, err_msg=name
                )


# -- loading


def test_loading_gives_the_same_from_npz_and_folder(model_folder: Path, saes: Path) -> None:
    folder = features(model_folder, saes, "--save_outputs", "--no_plots", "--aggregation_mode", "both")
    assert folder is not None
    file, whole = load_results(folder / "consolidated_results.npz"), load_results(folder)
    assert set(file["data"]) == set(whole["data"])
    for key in file["data"]:
        np.testing.assert_array_equal(file["data"][key], whole["data"][key])
    for key in ("model_name", "normalized", "layers", "aggregation_mode"):
        assert file["metadata"][key] == whole["metadata"][key]
    assert file["metadata"]["dimension_sizes"] == dict.fromkeys(range(N_LAYERS), N_FEATURES)
    (folder / "consolidated_results.npz").unlink()
    assert set(load_results(folder)["data"]) == set(file["data"])


class Trap:
    def __reduce__(self):
        return (Path.touch, (Path("ran"),))


def test_no_file_can_run_code(here: Path) -> None:
    box = np.empty((), dtype=object)
    box[()] = {"model_name": Trap()}
    np.savez("evil.npz", layer_0_mean_abs=np.ones(3), metadata=box)
    found = load_results("evil.npz")
    assert found["metadata"] == {} and found["data"]["layer_0_mean_abs"].tolist() == [1, 1, 1]
    with pytest.raises(CannotLoad, match="no harmless pickle"):
        load_results("evil.npz", allow_pickle=True)
    assert not Path("ran").exists()


def test_metadata_of_the_original_scripts_is_read_when_asked_for() -> None:
    box = np.empty((), dtype=object)
    box[()] = {"model_name": "Qwen/Qwen2.5-0.5B", "dimension_sizes": {0: 896}, "seen": np.float32(2)}
    np.savez_compressed("old.npz", layer_0_mean=np.zeros(896, np.float32), metadata=box)
    assert load_results("old.npz")["metadata"] == {}
    assert load_results("old.npz", allow_pickle=True)["metadata"]["dimension_sizes"] == {0: 896}
    assert load("old.npz").score(0, "mean").shape == (896,)


def test_large_metadata_and_names_without_ending(here: Path) -> None:
    path = save_consolidated("results", {"layer_0_mean": np.zeros(2)}, {"big": "x" * 70_000})
    assert path.name == "results.npz" and not zipfile.ZipFile(path).comment
    assert load_results(path, allow_pickle=True)["metadata"]["big"]
    with pytest.raises(MicrotomeError, match="is a folder"):
        save_consolidated(here, {}, {})


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not really", b"words"])
def test_a_corrupt_npz_is_one_line(content: bytes) -> None:
    Path("broken.npz").write_bytes(content)
    with pytest.raises(CannotLoad, match=r"broken\.npz") as refused:
        load_results("broken.npz")
    assert "\n" not in str(refused.value)


def test_a_truncated_npz_is_one_line(model_folder: Path) -> None:
    layers(model_folder, "--save_consolidated", "all.npz")
    whole = Path("all.npz").read_bytes()
    for cut in (len(whole) // 2, len(whole) - 5):
        Path("cut.npz").write_bytes(whole[:cut])
        with pytest.raises(CannotLoad, match=r"cut\.npz"):
            load_results("cut.npz")
    damaged = bytearray(whole)
    first = zipfile.ZipFile("all.npz").infolist()[0]
    damaged[first.header_offset + 60 + first.compress_size // 2] ^= 255
    Path("damaged.npz").write_bytes(damaged)
    with pytest.raises(CannotLoad, match=r"damaged\.npz"):
        load_results("damaged.npz")


def test_nothing_to_load(here: Path) -> None:
    for path, problem in (("no.npz", "no such file"), (".", "neither layer_")):
        with pytest.raises(CannotLoad, match=problem):
            load_results(path)


# -- the result as an object


def test_a_result_ranks_draws_and_tabulates(model_folder: Path, saes: Path, lm: LanguageModel, texts) -> None:
    result = feature_importance(lm, texts, str(saes), device="cpu", max_length=32, check_dictionary=False)
    top = result.top(5, layer=1)
    scores = result.score(1, "attribution")
    assert top["index"].tolist() == np.argsort(-np.abs(scores), kind="stable")[:5].tolist()
    assert ((top["low"] < top["attribution_mean"]) & (top["attribution_mean"] < top["high"])).all()
    frame = result.frame()
    assert len(frame) == N_LAYERS * N_FEATURES and {"layer", "index", "gradients_mean"} <= set(frame.columns)
    dependence = result.score(0, "context_dependence")
    assert dependence.min() >= -1e-6 and dependence.max() <= 1
    for how in ({}, {"layer": 1}, {"layer": 1, "kind": "histogram"}, {"by": "mean", "kind": "histogram"}):
        assert result.plot(**how).axes
    assert "<table" in result._repr_html_()
    with pytest.raises(MicrotomeError, match="was not analysed"):
        result.score(9)
    with pytest.raises(MicrotomeError, match="did you mean"):
        result.score(0, "atribution_mean")


def test_listed_tokens_are_where_the_feature_acts_most(
    saes: Path, lm: LanguageModel, texts: list[str]
) -> None:
    result = feature_importance(lm, texts, str(saes), device="cpu", max_length=32, check_dictionary=False)
    row = result.tokens[1][0]
    assert row["index"] == int(np.abs(result.score(1)).argmax())
    values = [abs(token["attribution"]) for token in row["tokens"]]
    assert values == sorted(values, reverse=True) and values[0] > 0
    for token in row["tokens"]:
        ids = lm.tokenizer(texts[token["sample"]])["input_ids"]
        assert lm.tokenizer.decode([ids[token["position"]]]) == token["token"]


def test_a_result_of_raw_layers(lm: LanguageModel, texts: list[str]) -> None:
    result = layer_importance(
        lm.model, texts, tokenizer=lm.tokenizer, device="cpu", max_length=32, layers="1"
    )
    assert list(result.layers) == [1] and result.score(1).shape == (D_MODEL,)
    with pytest.raises(MicrotomeError, match="needs its tokenizer"):
        layer_importance(lm.model, texts, device="cpu")


# -- stopping and carrying on


@pytest.mark.parametrize("stop_after", [0, 1, 2])
def test_a_stopped_run_carries_on_to_the_same_numbers(
    model_folder: Path, saes: Path, monkeypatch: pytest.MonkeyPatch, capsys, stop_after: int
) -> None:
    more = ["--save_outputs", "--no_plots", "--batch_size", "1", "--max_tokens_in_memory", "1"]
    reference = load(features(model_folder, saes, *more) or "")
    monkeypatch.setattr(run_module, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(run_module, "free_folder", lambda *a, **k: Path("stopped_model_run"))
    seen, add = [], Accumulator.add

    def interrupted(self, chunk):
        if len(seen) == stop_after:
            seen.append(None)
            raise KeyboardInterrupt
        seen.append(chunk)
        add(self, chunk)

    monkeypatch.setattr(Accumulator, "add", interrupted)
    assert features(model_folder, saes, *more, code=130) is not None
    folder = RunFolder.open("stopped_model_run")
    assert not folder.finished
    monkeypatch.setattr(Accumulator, "add", add)
    assert main(["gradients", "features", "--resume", "stopped_model_run", "--quiet"]) == 0
    result = load(folder.path)
    for layer, arrays in reference.layers.items():
        for name, values in arrays.items():
            np.testing.assert_array_equal(result.layers[layer][name], values, err_msg=name)
    assert folder.finished and not (folder.path / "checkpoints").exists()
    capsys.readouterr()
    assert main(["gradients", "--resume", "stopped_model_run"]) == 2
    assert "finished already" in capsys.readouterr().err


def test_ctrl_c_ends_the_chunk_saves_and_tells_the_command(
    model_folder: Path, saes: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    import os
    import signal

    add = Accumulator.add

    def pressed(self, chunk):
        add(self, chunk)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Accumulator, "add", pressed)
    more = ["--save_outputs", "--no_plots", "--batch_size", "1", "--max_tokens_in_memory", "1"]
    folder = features(model_folder, saes, *more, code=130)
    said = capsys.readouterr().err
    assert f"carry on with `microtome gradients features --resume {folder}`" in said
    assert "Stopped after 1 of 6 samples" in said
    monkeypatch.setattr(Accumulator, "add", add)
    assert main(["gradients", "--resume", str(folder), "--quiet"]) == 0


def test_a_changed_text_is_not_carried_on(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    Path("texts.txt").write_text(
        "\n\n".join(f"Sentence number {i} has more than fifty characters in it, or so." for i in range(6))
    )
    monkeypatch.setattr(run_module, "CHECKPOINT_SECONDS", 0.0)
    add = Accumulator.add
    seen = []

    def interrupted(self, chunk):
        if seen:
            raise KeyboardInterrupt
        seen.append(1)
        add(self, chunk)

    monkeypatch.setattr(Accumulator, "add", interrupted)
    words = [
        "--model_name",
        str(model_folder),
        *FEW,
        "--dataset",
        "texts.txt",
        "--split",
        "all",
        "--batch_size",
        "1",
    ]
    assert main(["gradients", "layers", *words, "--save_outputs", "--max_tokens_in_memory", "1"]) == 130
    monkeypatch.setattr(Accumulator, "add", add)
    Path("texts.txt").write_text(Path("texts.txt").read_text().replace("Sentence", "Phrase"))
    assert main(["gradients", "layers", "--resume", str(newest())]) == 2
    assert "have changed since the run was stopped" in capsys.readouterr().err.replace("\n", " ")


# -- bad input


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--layers", "0-3"], "layers='0-3': the model has 3 layers, no layer 3; choose 0-2"),
        (["--layers", "x"], "layers='x'"),
        (["--max_length", "100"], "max_length=100: .* reads 64 tokens; choose at most 64"),
        (["--num_samples", "0"], "num_samples=0"),
        (["--dataset", "empty.txt"], "no text of more than 50 characters"),
        (["--aggregation_mode", "median"], "aggregation_mode='median'"),
        (["--normalize_gradients", "maximum"], "normalize_gradients='maximum'"),
        (["--device", "tpu"], "device='tpu'"),
        (["--module_path", "model.layer.{layer}.mlp"], "module_path"),
        (["--site", "attention"], "site='attention'"),
        (["--num_sample", "3"], "did you mean --num_samples"),
        (["--model_name", "no/such/model/anywhere"], "no such folder, and not a Hugging Face name"),
        (["--aggregate_by", "active_gradients"], "always active"),
        (["a.yaml", "b.yaml"], "takes one CONFIG.yaml"),
    ],
)
def test_bad_input_is_one_line(model_folder: Path, here: Path, words: list[str], said: str, capsys) -> None:
    Path("empty.txt").write_text("\n\n")
    assert (
        main(["gradients", "layers", "--model_name", str(model_folder), *FEW, "--save_outputs", *words]) == 2
    )
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1 and re.search(said, told[0]), told
    assert {p.name for p in here.iterdir()} == {"empty.txt"}


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")]
)
def test_out_of_memory_says_what_to_lower(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys, error: Exception
) -> None:
    def full(self, chunk):
        raise error

    monkeypatch.setattr(Accumulator, "add", full)
    layers(model_folder, code=2)
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1 and "--max_tokens_in_memory" in told[0]


def test_dictionaries_that_do_not_fit_are_one_line(
    model_folder: Path, saes: Path, here: Path, capsys
) -> None:
    wide = save_dictionaries(here / "wide", d_in=24)
    cases = [
        (str(wide), ["--layers", "0"], "reads 24 dimensions, not 16"),
        (str(here / "none"), [], "none"),
        (str(saes), ["--layers", "0"], "explains .* of the variance"),
    ]
    (here / "broken" / "layers.0.mlp").mkdir(parents=True)
    save_file({"W_dec": torch.zeros(2, 2)}, here / "broken" / "layers.0.mlp" / "sae.safetensors")
    cases.append((str(here / "broken"), ["--layers", "0"], "broken"))
    for path, more, said in cases:
        words = ["--model_name", str(model_folder), "--sae_path", path, *FEW, "--save_outputs", *more]
        assert main(["gradients", "features", *words]) == 2
        told = capsys.readouterr().err.strip().splitlines()
        assert len(told) == 1 and re.search(said, told[0]), told
    assert newest() is None


def test_a_dictionary_of_another_site_is_told_which_site_fits(lm: LanguageModel, here: Path, texts) -> None:
    from microtome.dictionaries import DictionaryConfig, new_dictionary
    from microtome.dictionaries.formats import save_sparsify
    from microtome.gradients.chunks import batches_of
    from microtome.gradients.passes import activations

    with torch.no_grad():  # so that the two sites have little in common
        lm.model.get_submodule("model.layers.0.mlp.down_proj").weight.mul_(1e-3)
    (batch,) = batches_of(texts[:8], lm, max_length=32, batch_size=8)
    resid = activations(lm, batch, {0: lm.path(0, "resid")})[0][batch.attention_mask.bool()]
    # Plus and minus the strongest directions of the residual stream, around its mean.
    centre = resid.mean(0)
    directions = torch.linalg.svd(resid - centre, full_matrices=False)[2][:3]
    dictionary = new_dictionary(
        DictionaryConfig(architecture="topk", d_in=D_MODEL, n_features=6, k=3, site="mlp", layer=0)
    )
    with torch.no_grad():
        dictionary.W_enc.copy_(torch.cat([directions, -directions]))
        dictionary.W_dec.copy_(dictionary.W_enc)
        dictionary.b_dec.copy_(centre)
    save_sparsify(dictionary, here / "sae" / "layers.0.mlp")
    how = {"device": "cpu", "max_length": 32, "layers": "0"}
    with pytest.raises(MicrotomeError, match="use --site resid, of which it explains"):
        feature_importance(lm, texts[:8], str(here / "sae"), **how)
    assert feature_importance(lm, texts[:8], str(here / "sae"), site="resid", **how).score(0).any()
