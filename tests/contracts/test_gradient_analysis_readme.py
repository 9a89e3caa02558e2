"""What the README of the gradient analysis tools tells its users to type, typed.

Models and dictionaries are tiny ones made here, named by a flag; where the README relies on its own default
dictionaries, they stand where the original script looked for them.
"""

import json
import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

import microtome
from microtome.cli.main import main

sys.path.append(str(Path(__file__).parents[1] / "gradients"))
from tiny import D_MODEL, N_FEATURES, N_LAYERS, config_of, random_dictionary, save_model

from microtome.dictionaries.formats import save_dictionary_learning

# Fewer and shorter samples than the README's, offline text, no GPU asked for a second time.
FEW = ["--num_samples", "5", "--max_length", "24", "--dataset", "builtin", "--quiet"]
SAES = "dictionary_learning_demo/._qwen2.5_0.5B_Qwen_Qwen2.5-0.5B_batch_top_k_tokens500M"
ROOT = Path(microtome.__file__).parent


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    return str(save_model(tmp_path_factory.mktemp("models") / "qwen"))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the dictionaries where the original script looked."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(1)
    for layer in range(N_LAYERS):
        dictionary = random_dictionary(layer, architecture="batch_topk")
        dictionary.get_parameter("threshold").fill_(0.01)
        save_dictionary_learning(dictionary, tmp_path / SAES / f"mlp_out_layer_{layer}" / "trainer_0")
    return tmp_path


def folders(kind: str) -> list[Path]:
    return sorted(Path().glob(f"{kind}_*"))


def type_it(line: str, model: str, *more: str, code: int = 0) -> None:
    """A line of the README, with the small model in place of the named or the default one."""
    words = line.replace("\\\n", " ").replace('"', "").split()
    assert words.pop(0) == "python"
    if "--model_name" in words:
        words[words.index("--model_name") + 1] = model
    else:
        words += ["--model_name", model]
    few = list(FEW)
    if "--num_samples" in words:  # keep the README's flags, not its numbers
        words[words.index("--num_samples") + 1] = "5"
        words[words.index("--max_length") + 1] = "24"
        few = few[4:]
    extra = ["--no_check_dictionary"] if "sae_" in words[0] else []
    assert main([*words, *few, *extra, *more]) == code


BASIC = "python important_acts_ftrs/{}_gradient_analysis.py --save_outputs"
CUSTOM = """python important_acts_ftrs/{}_gradient_analysis.py \\
    --num_samples 1000 \\
    --batch_size 8 \\
    --max_length 128 \\
    --layers "{}" \\
    --aggregation_mode both \\
    --save_outputs \\
    --device cuda"""


@pytest.mark.parametrize(("script", "kind"), [("sae", "sae_features"), ("layer", "layer_activations")])
def test_basic_usage(script: str, kind: str, model: str) -> None:
    type_it(BASIC.format(script), model)
    (folder,) = folders(kind)
    assert re.fullmatch(
        rf"{kind}_model_qwen_num_samples_5_batch_size_4_layers_0to2_\d{{8}}_\d{{6}}", folder.name
    )
    size = {"sae": N_FEATURES, "layer": D_MODEL}[script]
    for layer in range(N_LAYERS):
        assert np.load(folder / f"layer_{layer}_mean_abs_gradients.npy").shape == (size,)
    point = {"sae": "feature", "layer": "activation"}[script]
    for name in (
        "layer_0_mean_abs_gradient_hist.png",
        f"layer_0_mean_abs_{point}_scatter.png",
        "all_layers_mean_abs_gradient_histograms.png",
        f"all_layers_mean_abs_{point}_scatter.png",
        "consolidated_results.npz",
        "metadata.json",
        "timing_stats.json",
        "timing_summary.txt",
    ):
        assert (folder / name).stat().st_size > 0, name


@pytest.mark.parametrize(("script", "kind"), [("sae", "sae_features"), ("layer", "layer_activations")])
def test_custom_configuration(script: str, kind: str, model: str, capsys, monkeypatch) -> None:
    # Rendering is seen to above; here the names count.
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **how: Path(path).write_bytes(b"drawn"))
    type_it(CUSTOM.format(script, "0-2"), model)
    (folder,) = folders(kind)
    assert "_num_samples_5_batch_size_8_layers_0to2_" in folder.name
    assert {p.name for p in folder.glob("*_combined.png")} == {
        f"layer_{layer}_gradient_{picture}_combined.png"
        for layer in range(3)
        for picture in ("hist", "scatter")
    }
    if not torch.cuda.is_available():
        said = capsys.readouterr().err.strip().splitlines()
        assert len(said) == 1 and "CPU" in said[0]


def test_the_default_range_is_out_of_range_on_a_smaller_model(model: str, capsys) -> None:
    type_it(CUSTOM.format("sae", "0-23"), model, code=2)
    assert "the model has 3 layers, no layer 3; choose 0-2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("layers", "mode", "name"),
    [("0,2", "mean", "0_2"), ("1-2", "both", "1to2"), ("0-1,2", "mean_abs", "0to1_2")],
)
def test_specific_layers_and_modes(layers: str, mode: str, name: str, model: str) -> None:
    line = (
        f'python important_acts_ftrs/sae_gradient_analysis.py --layers "{layers}" --aggregation_mode {mode}'
    )
    type_it(f"{line} --save_outputs", model, "--no_plots")
    (folder,) = folders("sae_features")
    assert f"_layers_{name}_" in folder.name


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2"])
def test_different_models(family: str, model: str, here: Path) -> None:
    """Tiny ones of the README's Llama, Mistral and Gemma, with the tokenizer at hand."""
    import shutil

    from transformers import AutoModelForCausalLM

    config = config_of(family)
    config.vocab_size = 300
    folder = here / f"tiny-{family}"
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(model) / file, folder / file)
    line = 'python important_acts_ftrs/layer_gradient_analysis.py --model_name hub/name --layers "0,2"'
    type_it(f"{line} --save_outputs", str(folder), "--no_plots")
    (made,) = folders("layer_activations")
    assert f"_model_tiny-{family}_" in made.name and "_layers_0_2_" in made.name
    metadata = json.loads((made / "metadata.json").read_text())
    assert metadata["experiment_info"]["model_type"] == {"gemma2": "gemma2"}.get(family, family)


def test_normalisation(model: str) -> None:
    line = "python important_acts_ftrs/{}_gradient_analysis.py --normalize_gradients --save_outputs"
    for script, kind, size in (("sae", "sae_features", N_FEATURES), ("layer", "layer_activations", D_MODEL)):
        type_it(line.format(script), model, "--no_plots")
        (folder,) = folders(kind)
        values = np.load(folder / "layer_1_mean_abs_gradients.npy")
        assert np.abs(values).sum() == pytest.approx(size, rel=1e-4)


def test_the_hub_is_named_in_one_line_when_it_cannot_be_reached(monkeypatch, capsys) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["sae_gradient_analysis.py", "--save_outputs", "--device", "cpu"]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and "Qwen/Qwen2.5-0.5B" in said[0], said
    assert not folders("sae_features")


def test_the_defaults_are_the_readmes() -> None:
    from microtome.gradients.config import FeaturesConfig, LayersConfig

    for config in (FeaturesConfig(), LayersConfig()):
        assert (config.model_name, config.num_samples, config.batch_size) == ("Qwen/Qwen2.5-0.5B", 500, 4)
        assert (config.max_length, config.save_outputs, config.device) == (128, False, "cuda")
        assert (config.aggregation_mode, config.normalize_gradients) == ("mean_abs", "none")
        assert config.save_consolidated is None
        assert config.layers is None, "0-23 stands for all layers of the default model"


# -- loading, snippet by snippet, with only the paths filled in

OPTION_1 = """
import numpy as np

# Load the consolidated results file
data = np.load('path/to/consolidated_results.npz', allow_pickle=True)

# Access metadata
metadata = data['metadata'].item()
print(f"Model: {metadata['model_name']}")
print(f"Normalized: {metadata['normalized']}")
print(f"Dimension sizes: {metadata['dimension_sizes']}")

# Access gradient data for specific layers
layer_0_mean_abs = data['layer_0_mean_abs']
layer_5_mean = data['layer_5_mean']

# See all available layers
available_layers = [key for key in data.keys() if key != 'metadata']
print(f"Available layers: {available_layers}")
"""
OPTION_2 = """
import sys
sys.path.append('path/to/important_acts_ftrs')
from sae_gradient_analysis import load_results  # or layer_gradient_analysis

# Load consolidated file
results = load_results('path/to/consolidated_results.npz')

# Access data
gradients = results['data']
metadata = results['metadata']

# Work with specific layer
layer_0 = gradients['layer_0_mean_abs']

# Or load from directory with individual .npy files
results = load_results('path/to/output_directory')
"""
OPTION_3 = """
import numpy as np

# Load specific layer
layer_0_gradients = np.load('path/to/output_dir/layer_0_mean_abs_gradients.npy')
layer_5_gradients = np.load('path/to/output_dir/layer_5_mean_gradients.npy')

# Load metadata separately
import json
with open('path/to/output_dir/metadata.json', 'r') as f:
    metadata = json.load(f)
"""
OPTION_4 = """
import numpy as np
data = np.load('/path/to/my_results.npz', allow_pickle=True)
"""


@pytest.fixture
def results(model: str) -> Iterator[Path]:
    """A run in both modes; its layer 2 stands for the README's layer 5."""
    type_it(BASIC.format("sae"), model, "--aggregation_mode", "both", "--no_plots")
    yield folders("sae_features")[0]


def run_snippet(snippet: str, **paths: object) -> dict[str, object]:
    code = snippet.replace("layer_5", "layer_2")
    for old, new in paths.items():
        code = code.replace(old.replace("__", "/"), str(new))
    space: dict[str, object] = {}
    exec(compile(code, "README", "exec"), space)
    return space


def test_option_1(results: Path, model: str, capsys) -> None:
    space = run_snippet(OPTION_1, **{"path/to": results})
    assert isinstance(space["layer_0_mean_abs"], np.ndarray) and space["layer_0_mean_abs"].shape == (
        N_FEATURES,
    )
    told = capsys.readouterr().out
    assert f"Model: {model}" in told and "Normalized: False" in told
    assert f"Dimension sizes: {dict.fromkeys(range(3), N_FEATURES)}" in told
    assert "layer_2_mean_abs" in told


def test_option_2(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    folder = ROOT / "compat" / "important_acts_ftrs"
    space = run_snippet(
        OPTION_2,
        **{
            "path/to/important_acts_ftrs": folder,
            "path/to/consolidated_results.npz": results / "consolidated_results.npz",
            "path/to/output_directory": results,
        },
    )
    assert isinstance(space["metadata"], dict) and space["metadata"]["aggregation_mode"] == "both"
    assert isinstance(space["results"], dict) and "layer_2_mean" in space["results"]["data"]
    sys.modules.pop("sae_gradient_analysis")


def test_option_3(results: Path) -> None:
    space = run_snippet(OPTION_3, **{"path/to/output_dir": results})
    metadata = space["metadata"]
    assert isinstance(metadata, dict)
    for documented in ("experiment_info", "layer_statistics", "dimension_info", "loading_instructions"):
        assert documented in metadata
    assert {"mean", "std", "max", "sum_abs"} == set(metadata["layer_statistics"]["layer_0"]["mean"])


def test_option_4(model: str, here: Path) -> None:
    line = f"{BASIC.format('sae')} --save_consolidated {here}/path/to/my_results.npz"
    type_it(line, model, "--no_plots")
    space = run_snippet(OPTION_4, **{"/path/to": here / "path" / "to"})
    assert "layer_0_mean_abs" in set(space["data"].keys())  # pyright: ignore


# -- the modules under their old names


@pytest.mark.parametrize("folder", ["microtome.compat", "microtome.compat.important_acts_ftrs"])
@pytest.mark.parametrize("script", ["sae", "layer"])
def test_modules(folder: str, script: str) -> None:
    import importlib

    module = importlib.import_module(f"{folder}.{script}_gradient_analysis")
    assert module.parse_layer_range("0-2,5") == [0, 1, 2, 5]
    scaled = module.normalize_gradients(torch.tensor([1.0, -3.0]))
    torch.testing.assert_close(scaled, torch.tensor([0.5, -1.5]))
    assert module.normalize_gradients(np.ones(3, np.float32)).dtype == np.float32
    for name, kind in (
        ("Qwen/Qwen2.5-0.5B", "qwen2"),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", "mixtral"),
        ("mistralai/Mistral-7B-v0.1", "mistral"),
        ("HuggingFaceH4/zephyr-7b-beta", "mistral"),
        ("01-ai/Yi-34B-Chat", "llama"),
        ("google/gemma-2-2b", "gemma2"),
    ):
        found = module.get_model_config(name)
        assert found["model_type"] == kind and found["layer_path"].format(layer=3) == "model.layers.3.mlp"


def test_modules_run(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """``python -m microtome.compat.layer_gradient_analysis ...``"""
    words = ["--model_name", model, *FEW, "--device", "cpu", "--save_consolidated", "all.npz"]
    monkeypatch.setattr(sys, "argv", ["layer_gradient_analysis.py", *words])
    monkeypatch.delitem(sys.modules, "microtome.compat.layer_gradient_analysis", raising=False)
    with pytest.raises(SystemExit) as end:
        runpy.run_module("microtome.compat.layer_gradient_analysis", run_name="__main__")
    assert end.value.code == 0 and Path("all.npz").is_file()
