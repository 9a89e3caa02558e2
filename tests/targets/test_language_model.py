"""Sites, losses and loading of language models, on tiny models of every family."""

import json
import sys

import pytest
import torch
from tiny_language_models import FAMILIES, POST_NORM, in_double
from torch import nn

from microtome.core.errors import CannotLoad, MicrotomeError
from microtome.hooks import record
from microtome.targets import pretrained
from microtome.targets.language_model import load_language_model, token_losses, wrap
from microtome.targets.module_paths import candidate_paths
from microtome.targets.token_losses import scored_positions, sum_token_losses
from microtome.training.language_tokenizer import save_tokenizer, train_tokenizer

WORDS = "the quick brown fox jumps over the lazy dog and runs away from it " * 4


@pytest.fixture(params=list(FAMILIES))
def family(request):
    return request.param


def tokens(rows=3, length=9, vocabulary=120, pads=((1, 4), (2, 1))):
    """Ids and a mask with padding on the right: ``pads`` are (row, how many)."""
    ids = torch.randint(3, vocabulary, (rows, length))
    mask = torch.ones_like(ids)
    for row, n in pads:
        mask[row, length - n :] = 0
        ids[row, length - n :] = 0
    return ids, mask


# -- sites


def test_every_site_of_every_family_exists_and_fires(family):
    lm = wrap(FAMILIES[family](), None, family)
    ids, mask = tokens()
    names = {
        site: [lm.path(layer, site) for layer in range(lm.n_layers)] for site in ("mlp", "mlp_out", "resid")
    }
    assert lm.n_layers == (2 if family == "gpt_neo" else 3)
    assert (lm.d_model, lm.context_length) == (32, 64)
    with record(lm.model, sorted({name for paths in names.values() for name in paths})) as found:
        lm.model(input_ids=ids, attention_mask=mask)
    for paths in names.values():
        for path in paths:
            assert found[path].shape == (3, 9, 32), path
    assert (names["mlp"] != names["mlp_out"]) == (family in POST_NORM)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3", "gpt2", "mixtral"])
def test_sites_add_up_to_the_residual_stream(family):
    """The stream before the MLP, plus ``mlp_out``, is ``resid``: so ``mlp_out`` is what is added."""
    lm = wrap(FAMILIES[family](), None, family)
    ids, _ = tokens(pads=())
    mlp_out, resid = lm.path(1, "mlp_out"), lm.path(1, "resid")
    with record(lm.model, [mlp_out, resid]) as found:
        lm.model(input_ids=ids)
    names = {"gpt2": "ln_2", "gemma2": "pre_feedforward_layernorm", "gemma3": "pre_feedforward_layernorm"}
    before = f"{resid}.{names.get(family, 'post_attention_layernorm')}"
    with record(lm.model, [before], side="input") as entered:
        lm.model(input_ids=ids)
    torch.testing.assert_close(entered[before] + found[mlp_out], found[resid])


def test_layers_out_of_range_and_unknown_sites():
    lm = wrap(FAMILIES["qwen2"](), None, "tiny")
    with pytest.raises(MicrotomeError, match="layer=3: tiny has 3 layers; choose from 0 to 2"):
        lm.path(3, "mlp")
    with pytest.raises(MicrotomeError, match="layer=-1"):
        lm.path(-1, "mlp")
    with pytest.raises(MicrotomeError, match="site='mpl': unknown site; choose mlp, mlp_out, resid"):
        lm.path(0, "mpl")


def test_an_unknown_architecture_lists_what_it_could_be_and_takes_a_path():
    model = FAMILIES["qwen2"]()
    model.config.model_type = "novel"
    with pytest.raises(MicrotomeError) as problem:
        wrap(model, None, "novel")
    told = str(problem.value)
    assert "model_type='novel'" in told and "\n" not in told
    assert "model.layers.{layer}.mlp" in told and "--module_path" in told
    lm = wrap(model, None, "novel", site_path="model.layers.{layer}.mlp.up_proj")
    assert lm.n_layers == 3
    assert lm.path(2, "mlp") == lm.path(2, "resid") == "model.layers.2.mlp.up_proj"
    for path, problem in {
        "model.layers.mlp": r"no \{layer\}",
        "model.layer.{layer}": "finds no module",
    }.items():
        with pytest.raises(MicrotomeError, match=problem):
            wrap(model, None, "novel", site_path=path)


def test_candidates_are_the_repeated_blocks_with_a_feed_forward():
    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.feed_forward = nn.Linear(2, 2), nn.ModuleList([nn.Linear(2, 2)])

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.ModuleList([Layer(), Layer()])
            self.heads = nn.ModuleList([nn.Linear(2, 2)])

    assert candidate_paths(Model()) == ["encoder.{layer}.feed_forward"]
    assert candidate_paths(nn.ModuleDict({"stack": nn.ModuleList([nn.Linear(2, 2)])})) == ["stack.{layer}"]


def test_the_model_is_frozen_and_in_evaluation_mode():
    model = FAMILIES["gpt2"]().train()
    lm = wrap(model, None, "tiny")
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    assert lm.family == "gpt2" and lm.device == torch.device("cpu")


# -- losses


def whole_logits_loss(model, ids, mask):
    """The sum of losses in the model's own precision (Hugging Face's loss is fp32), all logits at once."""
    logits, keep = model(input_ids=ids, attention_mask=mask).logits[:, :-1], scored_positions(mask)
    return nn.functional.cross_entropy(logits[keep], ids[:, 1:][keep], reduction="sum")


def reference_loss(model, ids, mask):
    """Hugging Face's own loss with padding unlabelled, times its number of tokens."""
    labels = ids.masked_fill(mask == 0, -100)
    counted = int((labels[:, 1:] != -100).sum())
    return model(input_ids=ids, attention_mask=mask, labels=labels).loss * counted, counted


@pytest.mark.parametrize("chunk", [None, 4])
def test_losses_equal_those_of_hugging_face(family, chunk):
    model = in_double(family)
    lm = wrap(model, None, family)
    ids, mask = tokens()
    with torch.no_grad():
        expected, counted = reference_loss(model, ids, mask)
        loss, n_tokens = token_losses(lm, ids, mask, chunk)
    assert n_tokens == counted == 19
    torch.testing.assert_close(loss.double(), expected.double(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("family", ["llama", "yi", "gemma2", "gptj", "mixtral", "gemma3"])
def test_gradients_equal_those_of_the_whole_logits(family):
    """By the last MLP's output: through the softcap, the head's bias, tied and untied heads."""
    model = in_double(family)
    lm = wrap(model, None, family)
    ids, mask = tokens()
    path = lm.path(lm.n_layers - 1, "mlp")
    model.get_input_embeddings().weight.requires_grad_(
        model.config.get_text_config().tie_word_embeddings is False
    )
    gradients = []
    for chunked in (True, False):
        shift = torch.zeros(3, 9, 32, dtype=torch.float64, requires_grad=True)
        handle = model.get_submodule(path).register_forward_hook(
            lambda _m, _a, out, shift=shift: (
                (out[0] + shift, *out[1:]) if isinstance(out, tuple) else out + shift
            )
        )
        loss = token_losses(lm, ids, mask, 5)[0] if chunked else whole_logits_loss(model, ids, mask)
        handle.remove()
        gradients.append(torch.autograd.grad(2 * loss, shift)[0])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-9, atol=1e-12)


def test_a_learning_head_gets_its_gradient_too():
    ids, mask = tokens()
    gradients = []
    for chunk in (5, 10**6, None):
        model = in_double("qwen2")  # tied: the head is the embedding
        if chunk is None:
            loss = whole_logits_loss(model, ids, mask)
        else:
            loss = sum_token_losses(model, ids, mask, chunk)[0]
        loss.backward()
        gradients.append(model.get_input_embeddings().weight.grad)
    torch.testing.assert_close(gradients[0], gradients[2])
    torch.testing.assert_close(gradients[1], gradients[2])


def test_padding_of_either_side_and_any_length_changes_nothing(family):
    lm = wrap(FAMILIES[family](), None, family)  # (Gemma 2's masks are NaN in float64)
    rows = [torch.randint(3, 120, (n,)) for n in (9, 5, 2)]
    single = 0.0
    with torch.no_grad():
        for row in rows:
            single = single + token_losses(lm, row[None], torch.ones(1, len(row), dtype=torch.int64))[0]
        for side in ("left", "right"):
            for length in (9, 13):
                ids = torch.zeros(3, length, dtype=torch.int64)
                mask = torch.zeros_like(ids)
                for place, row in enumerate(rows):
                    where = slice(length - len(row), None) if side == "left" else slice(len(row))
                    ids[place, where], mask[place, where] = row, 1
                loss, n_tokens = token_losses(lm, ids, mask)
                assert n_tokens == 8 + 4 + 1
                torch.testing.assert_close(loss, single, rtol=2e-6, atol=0)


def test_what_is_scored():
    mask = torch.tensor([[1, 1, 1, 0], [0, 1, 1, 1], [1, 0, 0, 0]])
    assert scored_positions(mask).int().tolist() == [[1, 1, 0], [0, 1, 1], [0, 0, 0]]
    lm = wrap(FAMILIES["llama"](), None, "tiny")
    loss, n_tokens = token_losses(
        lm, torch.ones(1, 1, dtype=torch.int64), torch.ones(1, 1, dtype=torch.int64)
    )
    assert (float(loss), n_tokens) == (0.0, 0)


def test_half_precision_is_summed_in_single():
    """bf16 weights: the loss is that of the bf16 logits in fp32, and gradients agree with the fp32 model."""
    model = FAMILIES["yi"]()
    ids, mask = tokens()
    results = {}
    for dtype in (torch.float32, torch.bfloat16):
        lm = wrap(model.to(dtype), None, "tiny")
        gradients = {}
        for chunk in (4, 1000):
            shift = torch.zeros(3, 9, 32, dtype=dtype, requires_grad=True)
            handle = lm.model.get_submodule(lm.path(2, "mlp")).register_forward_hook(
                lambda _m, _a, out, shift=shift: out + shift
            )
            loss, _ = token_losses(lm, ids, mask, chunk)
            handle.remove()
            assert loss.dtype == torch.float32
            loss.backward()
            gradients[chunk] = shift.grad
        assert torch.equal(gradients[4], gradients[1000])
        with torch.no_grad():
            logits = lm.model(input_ids=ids, attention_mask=mask).logits[:, :-1].float()
            keep = scored_positions(mask)
            expected = nn.functional.cross_entropy(logits[keep], ids[:, 1:][keep], reduction="sum")
        torch.testing.assert_close(loss.detach(), expected, rtol=1e-5, atol=0)
        results[dtype] = gradients[4].float().flatten()
    assert torch.cosine_similarity(results[torch.float32], results[torch.bfloat16], dim=0) > 0.999


def test_logits_never_stand_whole(monkeypatch):
    lm = wrap(FAMILIES["qwen2"](), None, "tiny")
    largest = []
    real = torch.log_softmax
    monkeypatch.setattr(torch, "log_softmax", lambda x, dim: largest.append(len(x)) or real(x, dim))
    ids, mask = tokens()
    token_losses(lm, ids, mask, chunk=6)
    assert largest == [6, 6, 6, 1]


def test_an_unknown_head_gives_its_logits_whole():
    model = in_double("llama")
    ids, mask = tokens()
    with torch.no_grad():
        expected, n_tokens = sum_token_losses(model, ids, mask)
        model.config.model_type = "novel"
        model.lm_head = nn.Sequential(model.lm_head)
        loss, n = sum_token_losses(model, ids, mask)
    assert n == n_tokens
    torch.testing.assert_close(loss, expected)


# -- loading


def save(folder, model=None, **settings):
    model = model or FAMILIES["qwen2"]()
    model.save_pretrained(folder)
    tokenizer = train_tokenizer([WORDS], 300)
    save_tokenizer(tokenizer, folder, 64)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return folder


def big_vocabulary():
    import transformers
    from tiny_language_models import COMMON

    return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**COMMON | {"vocab_size": 320}))


def test_a_local_folder_loads_with_dtype(tmp_path):
    save(tmp_path, big_vocabulary())
    lm = load_language_model(str(tmp_path), device="cpu", dtype="bfloat16")
    assert lm.model.dtype == torch.bfloat16 and lm.family == "qwen2" and lm.n_layers == 3
    assert lm.tokenizer.pad_token_id == 0
    inputs = lm.tokenizer(["the dog", "the lazy brown fox"], return_tensors="pt", padding=True)
    loss, n_tokens = token_losses(lm, inputs["input_ids"], inputs["attention_mask"])
    assert n_tokens > 3 and torch.isfinite(loss)


def test_weights_that_the_checkpoint_lacks_are_told(tmp_path, capsys):
    from safetensors.torch import load_file, save_file

    path = save(tmp_path, big_vocabulary()) / "model.safetensors"
    load_language_model(str(tmp_path), device="cpu")
    assert "random" not in capsys.readouterr().err
    weights = load_file(path)
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    load_language_model(str(tmp_path), device="cpu")
    assert (
        "1 weights are not in the checkpoint and random, such as model.layers.1.mlp"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("settings", [{"pad_token": None}, {"pad_token": None, "eos_token": None}])
def test_a_tokenizer_without_pad_token_gets_one_that_the_model_knows(tmp_path, settings):
    save(tmp_path, big_vocabulary(), tokenizer_class="PreTrainedTokenizerFast", **settings)
    lm = load_language_model(str(tmp_path), device="cpu")
    assert 0 <= lm.tokenizer.pad_token_id < 320
    assert lm.model.get_input_embeddings().weight.shape[0] == 320
    lm.tokenizer(["the", "the dog"], padding=True, return_tensors="pt")


def test_a_pad_token_beyond_the_embedding_is_replaced():
    class Tokenizer:
        pad_token_id, eos_token_id, eos_token, pad_token = 500, 7, "</s>", "[PAD]"

        def __setattr__(self, name, value):
            object.__setattr__(self, name, value)
            if name == "pad_token" and value == "</s>":
                object.__setattr__(self, "pad_token_id", 7)

    tokenizer = Tokenizer()
    pretrained.give_pad_token(tokenizer, FAMILIES["llama"]())
    assert tokenizer.pad_token_id == 7


def test_cuda_that_is_not_there_is_one_line_and_the_cpu(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    save(tmp_path, big_vocabulary())
    assert load_language_model(str(tmp_path), device="cuda").device.type == "cpu"
    assert "no such device; running on the CPU" in capsys.readouterr().err


def test_device_map_goes_through_accelerate(tmp_path):
    pytest.importorskip("accelerate")
    save(tmp_path, big_vocabulary())
    lm = load_language_model(str(tmp_path), device_map="cpu")
    assert lm.device.type == "cpu"
    with pytest.raises(MicrotomeError) as problem:
        load_language_model(str(tmp_path), device_map="everywhere")
    assert "device_map" in str(problem.value) and "\n" not in str(problem.value)


def test_device_map_without_accelerate_names_the_pip_command(tmp_path, monkeypatch):
    save(tmp_path, big_vocabulary())
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(
        MicrotomeError, match=r"device_map: needs accelerate .* pip install 'microtome\[llm\]'"
    ):
        load_language_model(str(tmp_path), device_map="auto")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        (
            "Qwen/Qwen-that-is-not-there",
            "hub cannot be reached; check the name and the network, or give a local",
        ),
        ("./nothing-here", "no such folder, and not a Hugging Face name"),
        ("two words", "no such folder, and not a Hugging Face name"),
        ("", "no such folder"),
        ("latest", "no train-language-model run under"),
    ],
)
def test_names_that_lead_nowhere(name, problem, monkeypatch, tmp_path):
    monkeypatch.setattr(pretrained, "hub_answers", lambda: False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CannotLoad, match=problem) as told:
        load_language_model(name, device="cpu")
    assert "\n" not in str(told.value)


def test_folders_that_hold_no_model(tmp_path):
    with pytest.raises(CannotLoad, match=r"no config\.json in it"):
        load_language_model(str(tmp_path), device="cpu")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CannotLoad, match="cannot be loaded as a causal language model") as told:
        load_language_model(str(tmp_path), device="cpu")
    assert "\n" not in str(told.value)
    with pytest.raises(CannotLoad, match="a file; give the folder"):
        load_language_model(str(tmp_path / "config.json"), device="cpu")
    with pytest.raises(MicrotomeError, match="dtype='int8': unknown number type; choose float32"):
        load_language_model(str(tmp_path), dtype="int8")
