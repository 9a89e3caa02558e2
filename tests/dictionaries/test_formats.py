"""Files of other libraries: what they say, and that features come out as the library itself gives them."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import written as w

from microtome.core.errors import CannotLoad, MicrotomeError
from microtome.dictionaries import DictionaryConfig, new_dictionary, open_dictionary
from microtome.dictionaries.formats import save_dictionary
from microtome.dictionaries.formats.places import layer_of, place_of

LIBRARY = np.load(Path(__file__).with_name("library_encodings.npz"))


@pytest.mark.parametrize("writer", w.WRITERS, ids=lambda writer: writer.__name__)
def test_features_are_the_librarys_own(writer, tmp_path: Path) -> None:
    file = open_dictionary(writer(tmp_path))
    c = file.config
    assert (file.format, c.architecture, c.site, c.layer) == w.WRITERS[writer]
    name = writer.__name__.removesuffix("_compressed")
    expected, x_hat = (torch.from_numpy(LIBRARY[f"{name}.{what}"]) for what in ("f", "x_hat"))
    dictionary = file.load()
    torch.testing.assert_close(dictionary.encode(w.X), expected, atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(dictionary(w.X), x_hat, atol=5e-6, rtol=1e-5)
    values, indices = file.active(w.X, block=7)
    dense = torch.zeros_like(expected).scatter_add(1, indices, values)
    torch.testing.assert_close(dense, expected, atol=2e-6, rtol=1e-5)
    if c.normalisation == "none":
        rows = torch.cat([file.decoder_rows(a, a + 7) for a in range(0, w.F, 7)])
        torch.testing.assert_close(expected @ rows + file.b_dec, x_hat, atol=5e-6, rtol=1e-5)


# The formulas once more, written as loops over single numbers.


def slow_features(x: torch.Tensor, subtract: bool, act) -> torch.Tensor:
    out = torch.zeros(len(x), w.F)
    for i, row in enumerate(x):
        for j in range(w.F):
            z = sum(
                float(w.W_ENC[j, a]) * (float(row[a]) - (float(w.B_DEC[a]) if subtract else 0.0))
                for a in range(w.D)
            )
            out[i, j] = act(z, j)
    return out


def test_slow_formulas(tmp_path: Path) -> None:
    def jump(z: float, j: int) -> float:
        z += float(w.B_ENC[j])
        return max(z, 0.0) if z > float(w.THRESHOLD[j]) else 0.0

    def gated(z: float, j: int) -> float:
        strength = max(float(w.R_MAG[j].exp()) * z + float(w.B_MAG[j]), 0.0)
        return strength if z + float(w.B_ENC[j]) > 0 else 0.0

    f = open_dictionary(w.gemma_scope(tmp_path / "a")).load().encode(w.X)
    torch.testing.assert_close(f, slow_features(w.X, False, jump), atol=1e-5, rtol=1e-5)
    f = open_dictionary(w.dl_gated(tmp_path / "b")).load().encode(w.X)
    torch.testing.assert_close(f, slow_features(w.X, True, gated), atol=1e-5, rtol=1e-5)
    relu = slow_features(w.X, True, lambda z, j: max(z + float(w.B_ENC[j]), 0.0))
    for row in relu:
        row[row.argsort(descending=True)[w.K :]] = 0.0
    f = open_dictionary(w.sparsify(tmp_path / "c")).load().encode(w.X)
    torch.testing.assert_close(f, relu, atol=1e-5, rtol=1e-5)


# -- finding the right one


def test_templates_and_folders_of_many(tmp_path: Path) -> None:
    for layer in (0, 3, 11):
        w.sparsify(tmp_path / f"run{layer}")
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / f"run{layer}" / "layers.3.mlp").rename(tmp_path / "run" / f"layers.{layer}.mlp")
    run = tmp_path / "run"
    assert open_dictionary(run, layer=11).config.layer == 11
    assert open_dictionary(f"{run}/layers.{{layer}}.mlp", layer=3).source.parent.name == "layers.3.mlp"
    assert open_dictionary(run / "layers.0.mlp" / "sae.safetensors").config.n_features == w.F
    with pytest.raises(CannotLoad, match=r"layers 0, 3, 11; say which layer"):
        open_dictionary(run)
    with pytest.raises(CannotLoad, match=r"no dictionary of layer 4; there are 0, 3, 11"):
        open_dictionary(run, layer=4)
    with pytest.raises(CannotLoad, match=r"holds \{layer\}"):
        open_dictionary(f"{run}/layers.{{layer}}.mlp")
    with pytest.raises(CannotLoad, match="of layer 3, not 4"):
        open_dictionary(run / "layers.3.mlp", layer=4)
    (run / "layers.3.mlp").rename(run / "layers.3")
    w.sparsify(tmp_path / "more")
    (tmp_path / "more" / "layers.3.mlp").rename(run / "layers.3.mlp")
    with pytest.raises(CannotLoad, match=r"2 dictionaries that fit \(layers.3.mlp, layers.3\); name one"):
        open_dictionary(run, layer=3)
    assert open_dictionary(run, layer=3, site="resid").source.parent.name == "layers.3"


@pytest.mark.parametrize(
    ("name", "site", "layer"),
    [
        ("layers.3.mlp", "mlp", 3),
        ("model.layers.12.mlp", "mlp", 12),
        ("layers.5", "resid", 5),
        ("blocks.7.hook_resid_post", "resid", 7),
        ("blocks.7.hook_resid_pre", "resid", 6),
        ("blocks.0.hook_resid_pre", None, None),
        ("blocks.7.hook_mlp_out", "mlp_out", 7),
        ("model.layers.2.post_feedforward_layernorm", "mlp_out", 2),
        ("blocks.7.attn.hook_z", None, 7),
        ("resid_post_layer_8", "resid", 8),
        ("transformer.h.4.mlp", "mlp", 4),
    ],
)
def test_places(name: str, site: str | None, layer: int | None) -> None:
    assert place_of(name) == (site, layer)


def test_layer_numbers() -> None:
    names = ["layer12.sae.pt", "Llama3_1-8B-Base-L8R-8x", "mlp_out_layer_3", "7", "trainer_0", "model"]
    assert [layer_of(name) for name in names] == [12, 8, 3, 7, 0, None]


def test_hub_names_fetch_only_what_is_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    for layer in (0, 1):
        (w.sparsify(tmp_path / str(layer))).rename(tmp_path / f"layers.{layer}.mlp")
    asked: list[list[str]] = []

    def snapshot(repo: str, allow_patterns: list[str]) -> str:
        asked.append(allow_patterns)
        return str(tmp_path)

    files = [f"layers.{i}.mlp/{name}" for i in (0, 1) for name in ("cfg.json", "sae.safetensors")]
    monkeypatch.setattr("microtome.dictionaries.formats.hub.hub_answers", lambda: True)
    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda repo: files)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert open_dictionary("owner/name", layer=1).config.layer == 1
    assert open_dictionary("hf:owner/name/layers.0.mlp").config.layer == 0
    assert asked[0][0] == "layers.1.mlp/sae.safetensors" and len(asked) == 2
    with pytest.raises(CannotLoad, match="say which layer"):
        open_dictionary("owner/name")


def test_without_a_network_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("microtome.dictionaries.formats.hub.hub_answers", lambda: False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CannotLoad, match="check the name and the network"):
        open_dictionary("owner/surely-not-there")
    with pytest.raises(CannotLoad, match="no such folder or file"):
        open_dictionary("/nowhere/at/all")
    with pytest.raises(CannotLoad, match="no such folder or file"):
        open_dictionary("nowhere")


# -- what is wrong with files


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("writer", "file"),
    [
        (w.sparsify, "sae.safetensors"),
        (w.sparsify, "cfg.json"),
        (w.saelens_topk, "sae_weights.safetensors"),
        (w.saelens_topk, "cfg.json"),
        (w.dl_topk, "ae.pt"),
        (w.dl_topk, "config.json"),
        (w.gemma_scope, "params.npz"),
        (w.gemma_scope_compressed, "params.npz"),
        (w.llama_scope, "checkpoints/final.safetensors"),
        (w.llama_scope, "hyperparams.json"),
        (w.qwen_scope, "layer5.sae.pt"),
    ],
)
def test_truncated_and_missing_files(writer, file: str, tmp_path: Path) -> None:
    folder = writer(tmp_path)
    cut(folder / file)
    with pytest.raises(CannotLoad, match=re.escape(file)) as error:
        open_dictionary(folder)
    assert "\n" not in str(error.value)
    (folder / file).unlink()
    with pytest.raises(CannotLoad):
        open_dictionary(folder)


@pytest.mark.parametrize(
    ("writer", "file", "keys", "value", "message"),
    [
        (w.sparsify, "cfg.json", ("transcode",), True, "transcoder"),
        (w.sparsify, "cfg.json", ("k",), 0, "k=0 is no positive"),
        (
            w.sparsify,
            "cfg.json",
            ("d_in",),
            7,
            r"encoder.weight \(encoder\) is \(20, 6\), expected \(20, 7\)",
        ),
        (w.sparsify, "cfg.json", ("num_latents",), 10, r"expected \(10, 6\)"),
        (w.sparsify, "cfg.json", ("activation",), "softmax", "neither topk nor groupmax"),
        (w.saelens_topk, "cfg.json", ("architecture",), "temporal", "'temporal' is not read here"),
        (w.saelens_topk, "cfg.json", ("k",), None, "without k"),
        (w.saelens_topk, "cfg.json", ("k",), 21, "there are only 20 features"),
        (w.saelens_topk, "cfg.json", ("normalize_activations",), "covariance_whitening", "not folded"),
        (w.saelens_jumprelu, "cfg.json", ("activation_fn",), "tanh-relu", "'tanh-relu' is not read"),
        (w.dl_topk, "config.json", ("trainer", "dict_class"), "IdentityDict", "IdentityDict"),
        (w.llama_scope, "hyperparams.json", ("hook_point_out",), "blocks.9.hook_mlp_out", "transcoder"),
        (w.llama_scope, "hyperparams.json", ("norm_activation",), "token-wise", "token-wise"),
        (w.llama_scope, "hyperparams.json", ("dataset_average_activation_norm",), None, "no positive number"),
    ],
)
def test_configurations_that_cannot_be(writer, file: str, keys, value, message: str, tmp_path: Path) -> None:
    folder = writer(tmp_path)
    values = json.loads((folder / file).read_text())
    inner = values[keys[0]] if len(keys) > 1 else values
    inner[keys[-1]] = value
    (folder / file).write_text(json.dumps(values))
    with pytest.raises(CannotLoad, match=message):
        open_dictionary(folder)


def test_unsafe_and_foreign_files(tmp_path: Path) -> None:
    folder = w.dl_topk(tmp_path / "a")
    torch.save({"f": re.compile("x")}, folder / "ae.pt")
    with pytest.raises(CannotLoad, match="carries code or objects, refused unread"):
        open_dictionary(folder)
    folder = w.gemma_scope(tmp_path / "b")
    np.savez(folder / "params.npz", W_enc=np.array([{"a": 1}], dtype=object))
    with pytest.raises(CannotLoad, match="Python objects, refused unread"):
        open_dictionary(folder)
    np.savez(folder / "params.npz", x=np.zeros(3))
    with pytest.raises(CannotLoad, match="no W_enc"):
        open_dictionary(folder)
    folder = w.qwen_scope(tmp_path / "c")
    folder.rename(tmp_path / "c" / "elsewhere")
    with pytest.raises(CannotLoad, match="how many features are active"):
        open_dictionary(tmp_path / "c" / "elsewhere")
    (tmp_path / "d").mkdir()
    with pytest.raises(CannotLoad, match="no dictionary in it; known are sparsify"):
        open_dictionary(tmp_path / "d")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(CannotLoad, match="not the weights of a dictionary"):
        open_dictionary(tmp_path / "notes.txt")


def test_other_widths_are_told_apart(tmp_path: Path) -> None:
    file = open_dictionary(w.sparsify(tmp_path))
    for call in (file.load().encode, file.active):
        with pytest.raises(MicrotomeError, match=r"d_in=6: the activations are 5 wide"):
            call(torch.zeros(2, 5))


# -- writing


@pytest.mark.parametrize("format", ["sparsify", "saelens", "dictionary_learning"])
@pytest.mark.parametrize("subtract", [True, False])
@pytest.mark.parametrize(
    "architecture", ["relu", "gated", "topk", "groupmax", "batch_topk", "jumprelu", "matryoshka"]
)
def test_what_we_write_encodes_the_same(
    architecture: str, format: str, subtract: bool, tmp_path: Path
) -> None:
    config = DictionaryConfig.from_mapping(
        {
            "architecture": architecture,
            "d_in": w.D,
            "n_features": w.F,
            "k": 4,
            "subtract_b_dec": subtract,
            "prefixes": [5, 20] if architecture == "matryoshka" else [],
            "site": "mlp_out",
            "layer": 2,
            "model_name": "tiny",
        }
    )
    dictionary = new_dictionary(config)
    with torch.no_grad():
        for i, (name, value) in enumerate(dictionary.named_parameters()):
            value.copy_(w.numbers(*value.shape, start=float(i)))
            if name == "threshold":
                value.copy_(w.THRESHOLD if architecture == "jumprelu" else torch.full((w.F,), 0.6))
    folder = tmp_path / "layers.2.mlp_out"
    try:
        save_dictionary(dictionary, folder, format)
    except MicrotomeError as error:
        assert f"format='{format}'" in str(error) and "use --format" in str(error)
        assert not folder.exists()
        assert (architecture in ("relu", "gated", "jumprelu")) == (format == "sparsify")
        return
    file = open_dictionary(folder)
    assert file.format == format
    for field in ("architecture", "k", "prefixes", "site", "layer", "model_name"):
        assert getattr(file.config, field) == getattr(config, field), field
    again = file.load()
    f = dictionary.encode(w.X)
    if (architecture, format) == ("relu", "dictionary_learning"):
        f = f * dictionary.W_dec.norm(dim=1)  # told in units of decoder length 1
    torch.testing.assert_close(again.encode(w.X), f, atol=5e-6, rtol=1e-5)
    torch.testing.assert_close(again(w.X), dictionary(w.X), atol=5e-6, rtol=1e-5)


def test_formats_that_do_not_exist(tmp_path: Path) -> None:
    dictionary = new_dictionary(DictionaryConfig(architecture="relu", d_in=2, n_features=4))
    with pytest.raises(MicrotomeError, match="format='sealens': unknown format"):
        save_dictionary(dictionary, tmp_path / "x", "sealens")
    assert open_dictionary(save_dictionary(dictionary, tmp_path / "x")).format == "saelens"
