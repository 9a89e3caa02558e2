"""Hugging Face causal language models as targets, tiny ones from their configurations."""

import copy
import json

import pytest
import torch
from torch import Tensor

from microtome.core.errors import CannotLoad, MicrotomeError
from microtome.targets.language_target import LanguageTarget
from microtome.targets.loading import build
from microtome.targets.network import times

pytest.importorskip("transformers")

from .tiny_language_models import FAMILIES

SHOWN = ["gpt2", "llama", "qwen2", "gpt_neox", "gemma", "gemma3_text"]
TIED = {"gpt2": "transformer.wte", "qwen2": "model.embed_tokens", "gemma": "model.embed_tokens"}


def ids(n_instances: int = 1, rows: int = 2, length: int = 7) -> Tensor:
    """Without 0, the padding id, whose row nn.Embedding gives no gradient."""
    return torch.randint(1, 120, (n_instances, rows, length))


def as_trained(target: LanguageTarget):
    sites = target.sites()
    return lambda name, value: sites[name].apply(value)


@pytest.mark.parametrize("family", SHOWN)
def test_every_site_by_its_own_weight_is_the_model(family: str) -> None:
    model = FAMILIES[family]()
    target = LanguageTarget(model, None, n_instances=2)
    x = ids(2)
    expected = torch.stack([model(rows, use_cache=False).logits for rows in x])
    assert torch.equal(target(x), expected)
    torch.testing.assert_close(target(x, as_trained(target)), expected)
    tied = {name: site.tied_to for name, site in target.sites().items() if site.tied_to}
    wanted = TIED.get(family, "model.embed_tokens" if family.startswith("gemma") else None)
    assert set(tied.values()) == ({wanted} if wanted else set())
    kinds = {site.kind for site in target.sites().values()}
    assert kinds == {"linear", "embedding"}


@pytest.mark.parametrize("family", SHOWN)
def test_gradients_are_the_models(family: str) -> None:
    """With a leaf for every site, tied ones sharing it, against autograd on the model's own weights."""
    model = FAMILIES[family]().double().requires_grad_(True)
    target = LanguageTarget(model, None)
    sites = target.sites()
    leaves = {n: s.weight.clone().requires_grad_() for n, s in sites.items() if s.tied_to is None}

    def site(name: str, value: Tensor) -> Tensor:
        own = sites[name]
        out = times(value, leaves[name] if own.tied_to is None else leaves[own.tied_to].mT)
        return out if own.bias is None else out + own.bias.reshape(-1)

    x = ids()
    target(x, site).logsumexp(-1).sum().backward()
    model(x[0], use_cache=False).logits.logsumexp(-1).sum().backward()
    carrier = LanguageTarget(model, None)
    for own, theirs in zip(carrier.module.parameters(), model.parameters(), strict=True):
        own.data = theirs.grad  # pyright: ignore
    gradients = carrier.sites()
    for name, leaf in leaves.items():
        torch.testing.assert_close(leaf.grad, gradients[name].weight, msg=name)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_another_weight_is_the_model_with_that_weight(family: str) -> None:
    """Masked rank-one pieces at every site but the tied head, against the model holding the product."""
    model = FAMILIES[family]().double()
    target = LanguageTarget(model, None, ["*mlp*", "*wpe" if family == "gpt2" else "*embed_tokens"])
    x = ids()
    factors = {}
    other = LanguageTarget(copy.deepcopy(model), None, target.patterns)
    for name, site in target.sites().items():
        _, d_in, d_out = site.weight.shape
        v = torch.randn(1, d_in, 3, dtype=torch.double)
        u = torch.randn(1, 3, d_out, dtype=torch.double) / d_in
        factors[name] = v, u, torch.rand(3, dtype=torch.double)
        other.sites()[name].weight.copy_(v @ factors[name][2].diag() @ u)

    def masked(name: str, value: Tensor) -> Tensor:
        v, u, mask = factors[name]
        out = times(times(value, v) * mask, u)
        bias = target.sites()[name].bias
        return out if bias is None else out + bias.reshape(-1)

    out = target(x, masked)
    torch.testing.assert_close(out, other(x))
    assert not torch.allclose(out, target(x), atol=1e-3)


def test_identities_in_front_of_attention() -> None:
    model = FAMILIES["llama"]()
    target = LanguageTarget(
        model, None, ["*.q_proj"], ["*.q_proj", "model.layers.1", "model.layers.1.self_attn"]
    )
    x = ids()
    torch.testing.assert_close(target(x, as_trained(target)), target(x))
    seen = {}

    def site(name: str, value: Tensor) -> Tensor:
        seen[name] = value
        return (
            value * 0
            if name == "model.layers.1.self_attn.pre_identity"
            else target.sites()[name].apply(value)
        )

    target(x, site)
    assert seen["model.layers.1.self_attn.q_proj.pre_identity"].abs().max() == 0
    assert seen["model.layers.2.self_attn.q_proj.pre_identity"].abs().max() > 0
    assert seen["model.layers.1.pre_identity"].shape == (1, 2, 7, 32)


class Masked:
    """A site function with a mask for every call, as decomposition uses them."""

    def __init__(self, target: LanguageTarget, counts: bool) -> None:
        self.sites = target.sites()
        draw = torch.Generator().manual_seed(1)
        self.leaves = {
            n: torch.randn(s.weight.shape[-1], generator=draw, requires_grad=True)
            for n, s in self.sites.items()
        }
        self.masks = [{n: torch.rand((), generator=draw) for n in self.sites} for _ in range(3)]
        self.counted: dict[str, int] = {}
        self.n_calls = 0
        if counts:
            self.calls = self.counted

    def __call__(self, name: str, value: Tensor) -> Tensor:
        self.n_calls += 1
        index = self.counted.get(name, 0)
        self.counted[name] = index + 1
        return self.sites[name].apply(value) + self.leaves[name] * self.masks[index % len(self.masks)][name]


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_checkpointing_gives_the_same_gradients(family: str) -> None:
    model = FAMILIES[family]()
    results = []
    for checkpointing in (False, True):
        target = LanguageTarget(
            model,
            None,
            identities=["*mlp.c_fc", "*.up_proj"][family == "llama" :][:1],
            checkpointing=checkpointing,
        )
        site = Masked(target, counts=True)
        out = target(ids_of(0), site)
        calls = site.n_calls
        out.logsumexp(-1).sum().backward()
        results.append((out, {name: leaf.grad for name, leaf in site.leaves.items()}))
        assert (site.n_calls > calls) == checkpointing
        assert site.counted == dict.fromkeys(site.sites, 1)
    torch.testing.assert_close(*(out for out, _ in results))
    for name, gradient in results[0][1].items():
        torch.testing.assert_close(results[1][1][name], gradient, msg=name)


def ids_of(seed: int) -> Tensor:
    return torch.randint(120, (1, 2, 7), generator=torch.Generator().manual_seed(seed))


def test_checkpointing_where_layers_share_a_site() -> None:
    """Every use of the site has a mask of its own, which it must meet again, last layer first."""
    model = FAMILIES["llama"]()
    for layer in model.model.layers[1:]:
        layer.mlp.up_proj = model.model.layers[0].mlp.up_proj
    gradients = []
    for checkpointing in (False, True):
        target = LanguageTarget(model, None, ["*up_proj"], checkpointing=checkpointing)
        assert len(target.sites()) == 1
        site = Masked(target, counts=True)
        target(ids_of(0), site).logsumexp(-1).sum().backward()
        gradients.append(next(iter(site.leaves.values())).grad)
        assert site.counted == {"model.layers.0.mlp.up_proj": 3}
    torch.testing.assert_close(*gradients)


def test_checkpointing_of_two_passes_before_one_backward() -> None:
    model = FAMILIES["gpt2"]()
    gradients = []
    for checkpointing in (False, True):
        target = LanguageTarget(model, None, ["*c_fc"], checkpointing=checkpointing)
        sites = [Masked(target, counts=True), Masked(target, counts=True)]
        sites[1].masks = sites[1].masks[::-1]
        outs = [target(ids_of(i), site) for i, site in enumerate(sites)]
        sum(out.logsumexp(-1).sum() for out in outs).backward()  # pyright: ignore
        gradients.append([leaf.grad for site in sites for leaf in site.leaves.values()])
    torch.testing.assert_close(gradients[0], gradients[1])


def test_checkpointing_keeps_less() -> None:
    """Bytes that autograd holds on to between the forward and the backward pass."""
    kept = []
    for checkpointing in (False, True):
        target = LanguageTarget(FAMILIES["llama"](), None, ["*mlp*"], checkpointing=checkpointing)
        held: dict[int, int] = {}

        def pack(tensor: Tensor, held: dict[int, int] = held) -> Tensor:
            held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            out = target(ids(1, 8, 32), Masked(target, counts=False))
        kept.append(sum(held.values()))
        assert out.requires_grad
    assert kept[1] < 0.5 * kept[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_rebuilt_from_its_description_and_weights_alone(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    patterns = ["*language_model*"] if family == "gemma3" else ["*"]
    target = LanguageTarget(FAMILIES[family](), None, patterns, checkpointing=True)
    state = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    again = build(json.loads(json.dumps(target.spec())))
    again.load_state_dict(state)
    x = ids()
    assert isinstance(again, LanguageTarget) and again.checkpointing
    assert torch.equal(again(x), target(x))
    assert torch.equal(again(x, as_trained(again)), target(x, as_trained(target)))
    assert {n: s.tied_to for n, s in again.sites().items()} == {
        n: s.tied_to for n, s in target.sites().items()
    }


def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {word: i for i, word in enumerate(["<end>", "the", "cat", "sat", "[new]"])}
    own = Tokenizer(models.WordLevel(words, unk_token="<end>"))
    own.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore
    return PreTrainedTokenizerFast(tokenizer_object=own, eos_token="<end>", unk_token="<end>")


def test_its_tokenizer_comes_back() -> None:
    target = LanguageTarget(FAMILIES["gpt2"](), tokenizer(), ["*c_fc"])
    again = build(json.loads(json.dumps(target.spec())))
    assert isinstance(again, LanguageTarget)
    assert again.tokenizer("the cat sat")["input_ids"] == [1, 2, 3]
    assert again.tokenizer.eos_token == "<end>"
    assert again.tokenizer.decode([2, 3]) == "cat sat"
    assert again.select([0]).spec() == target.spec()


def test_a_class_that_is_not_there_any_more() -> None:
    target = LanguageTarget(FAMILIES["gpt2"](), None, ["*c_fc"])
    spec = target.spec()
    spec["model"]["class"] = "transformers.models.gone:GoneForCausalLM"
    with pytest.raises(CannotLoad, match="GoneForCausalLM: this class cannot be imported here"):
        build(spec)
    own = build(spec, FAMILIES["gpt2"]())
    own.load_state_dict(target.state_dict())
    assert torch.equal(own(ids_of(0)), target(ids_of(0)))


def test_a_selection_shares_the_model_and_the_users_is_left_alone() -> None:
    model = FAMILIES["gpt2"]().train()
    target = LanguageTarget(model, None)
    two = target.select([0, 0])
    assert two.module is target.module and two.n_instances == 2
    assert model.training and all(p.requires_grad for p in model.parameters())
    before = target(ids_of(0))
    with torch.no_grad():
        model.transformer.h[0].mlp.c_fc.weight.zero_()
    assert torch.equal(target(ids_of(0)), before)


@pytest.mark.parametrize(
    ("x", "told"),
    [
        (torch.randn(1, 2, 3), "not token ids"),
        (torch.zeros(2, 3, dtype=torch.int64), "not token ids"),
        (
            torch.full((1, 2, 3), 120),
            "x=120: no token of this model, which has 120; use the model's own tokenizer",
        ),
        (torch.full((1, 2, 3), -1), "x=-1: no token of this model"),
        (
            torch.zeros(1, 2, 65, dtype=torch.int64),
            "context_length=65: the model reads 64 tokens; use shorter",
        ),
    ],
)
def test_inputs_that_are_no_text_of_this_model(x: Tensor, told: str) -> None:
    target = LanguageTarget(FAMILIES["gpt2"](), None)
    for site in (None, as_trained(target)):
        with pytest.raises(MicrotomeError, match=told):
            target(x, site)


def test_what_is_no_language_model() -> None:
    with pytest.raises(MicrotomeError, match="model='Linear': no Hugging Face causal language model"):
        LanguageTarget(torch.nn.Linear(3, 3), None)
    with pytest.raises(
        MicrotomeError, match=r"matches no site; there are: transformer.wte, .*h.\{0-2\}.mlp.c_fc"
    ):
        LanguageTarget(FAMILIES["gpt2"](), None, ["model.layers.*"])
    with pytest.raises(
        MicrotomeError, match=r"'transformer\.h\.0\.attn': layer of type GPT2Attention, which cannot"
    ):
        LanguageTarget(FAMILIES["gpt2"](), None, ["transformer.h.0.attn"])
