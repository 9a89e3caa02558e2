"""Recorded attention against patterns computed one query at a time, and against what the models say."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from microtome.attention_patterns import record_attention


def slow_pattern(query, key, allowed, scale):
    """``[B, H, Q, K]`` in float64, one query after the other; grouped queries share keys."""
    batch, heads, queries, _ = query.shape
    keys = key.shape[2]
    out = torch.zeros(batch, heads, queries, keys, dtype=torch.float64)
    group = heads // key.shape[1]
    for b in range(batch):
        for h in range(heads):
            for q in range(queries):
                seen = [k for k in range(keys) if allowed(b, h, q, k)]
                scores = [
                    math.exp(float(query[b, h, q].double() @ key[b, h // group, k].double()) * scale)
                    for k in seen
                ]
                for k, score in zip(seen, scores, strict=True):
                    out[b, h, q, k] = score / sum(scores)
    return out


class Attends(nn.Module):
    """Calls the kernel with whatever it is told."""

    def __init__(self, **how):
        super().__init__()
        self.how = how

    def forward(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v, **self.how)


def qkv(heads=4, key_heads=4, queries=5, keys=5, dtype=torch.float32):
    return (
        torch.randn(2, heads, queries, 8, dtype=dtype),
        torch.randn(2, key_heads, keys, 8, dtype=dtype),
        torch.randn(2, key_heads, keys, 8, dtype=dtype),
    )


MASK = torch.rand(2, 1, 5, 7, generator=torch.Generator().manual_seed(0)) > 0.4


@pytest.mark.parametrize(
    ("how", "shape", "allowed", "scale"),
    [
        ({}, {}, lambda b, h, q, k: True, 8**-0.5),
        ({"is_causal": True}, {}, lambda b, h, q, k: k <= q, 8**-0.5),
        ({"is_causal": True, "scale": 0.5}, {"keys": 7}, lambda b, h, q, k: k <= q, 0.5),
        ({"attn_mask": MASK}, {"keys": 7}, lambda b, h, q, k: bool(MASK[b, 0, q, k]), 8**-0.5),
        ({"enable_gqa": True}, {"key_heads": 2}, lambda b, h, q, k: True, 8**-0.5),
    ],
)
def test_kernel(how, shape, allowed, scale):
    given = qkv(**shape)
    model = Attends(**how)
    with record_attention(model) as found:
        out = model(*given)
    assert torch.equal(out, model(*given))
    torch.testing.assert_close(
        found[""].double(), slow_pattern(*given[:2], allowed, scale), atol=1e-6, rtol=0
    )
    # The pattern is what the kernel applied: pattern times values is its output.
    values = given[2].repeat_interleave(given[0].shape[1] // given[2].shape[1], 1)
    torch.testing.assert_close(found[""] @ values, out, atol=1e-5, rtol=1e-5)


def test_added_mask_half_precision_and_dropout():
    bias = torch.randn(1, 4, 5, 5)
    given = qkv()
    model = Attends(attn_mask=bias, dropout_p=0.5)
    torch.manual_seed(1)
    plain = model(*given)
    torch.manual_seed(1)
    with record_attention(model) as found:
        assert torch.equal(model(*given), plain), "dropout draws the same numbers"
    scores = given[0] @ given[1].mT * 8**-0.5 + bias
    torch.testing.assert_close(found[""], scores.softmax(-1))
    half = [x.bfloat16() for x in given]
    with record_attention(kernel := Attends()) as found:
        kernel(*half)
    assert found[""].dtype == torch.float32
    torch.testing.assert_close(found[""].sum(-1), torch.ones(2, 4, 5))


def test_a_row_that_may_look_nowhere_is_zero():
    mask = torch.ones(5, 5, dtype=torch.bool)
    mask[2] = False
    model = Attends(attn_mask=mask)
    with record_attention(model) as found:
        model(*qkv())
    assert (found[""][:, :, 2] == 0).all() and torch.isfinite(found[""]).all()


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_multihead_attention(batch_first, masked):
    attention = nn.MultiheadAttention(16, 4, dropout=0.3, batch_first=batch_first)
    x = torch.randn(3, 3, 16)
    mask = nn.Transformer.generate_square_subsequent_mask(3) if masked else None
    torch.manual_seed(5)
    plain = attention(x, x, x, need_weights=False, attn_mask=mask, is_causal=masked)
    torch.manual_seed(5)
    with record_attention(attention) as found:
        seen = attention(x, x, x, need_weights=False, attn_mask=mask, is_causal=masked)
    assert torch.equal(plain[0], seen[0]) and seen[1] is None
    attention.eval()
    _, weights = attention(x, x, x, average_attn_weights=False, attn_mask=mask)
    torch.testing.assert_close(found[""], weights, atol=1e-6, rtol=0)


@pytest.mark.parametrize("training", [True, False])
def test_encoder_with_its_fused_kernel(training):
    layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.2, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).train(training)
    x = torch.randn(3, 6, 16)
    torch.manual_seed(2)
    plain = model(x)
    torch.manual_seed(2)
    with record_attention(model) as found:
        seen = model(x)
    assert list(found) == ["layers.0.self_attn", "layers.1.self_attn"]
    assert found["layers.0.self_attn"].shape == (3, 4, 6, 6)
    if training:
        assert torch.equal(plain, seen)
    else:
        torch.testing.assert_close(plain, seen, atol=2e-6, rtol=1e-5)
    # and nothing of it stays
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


class ByHand(nn.Module):
    """One shared layer of hand-written attention, used twice."""

    def __init__(self):
        super().__init__()
        self.attention = HandWritten()

    def forward(self, x):
        return self.attention(self.attention(x))


class HandWritten(nn.Module):
    def forward(self, x):
        return (x @ x.mT).softmax(dim=-1) @ x


def test_hand_written_and_shared_layers():
    model, x = ByHand(), torch.randn(2, 3, 4, 8)
    with record_attention(model) as found:
        model(x)
        model(x)
    assert list(found) == ["attention", "attention#2"]
    torch.testing.assert_close(found["attention"], (x @ x.mT).softmax(-1))


def test_after_an_error_names_are_right_again():
    model, x = ByHand(), torch.randn(2, 3, 4, 8)
    with record_attention(model) as found:
        with pytest.raises(RuntimeError):
            model(torch.randn(3))
        model(x)
    assert list(found) == ["attention", "attention#2"]


def test_a_compiled_model():
    model = torch.compile(ByHand(), backend="eager")
    x = torch.randn(2, 3, 4, 8)
    model(x)
    with record_attention(model) as found:
        model(x)
    assert [name.removeprefix("_orig_mod.") for name in found] == ["attention", "attention#2"]


@pytest.mark.parametrize("family", ["gpt2", "llama", "bert"])
def test_hugging_face_models_against_eager(family):
    """sdpa (with grouped queries in the Llama) gives what the eager model reports, padding included."""
    transformers = pytest.importorskip("transformers")
    config = {
        "gpt2": lambda: transformers.GPT2Config(
            n_layer=2, n_head=4, n_embd=32, vocab_size=50, n_positions=16
        ),
        "llama": lambda: transformers.LlamaConfig(
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            hidden_size=32,
            intermediate_size=32,
            vocab_size=50,
        ),
        "bert": lambda: transformers.BertConfig(
            num_hidden_layers=2, num_attention_heads=4, hidden_size=32, intermediate_size=32, vocab_size=50
        ),
    }[family]()
    ids = torch.randint(5, 50, (2, 9))
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[1, 6:] = 0
    given = {"input_ids": ids, "attention_mask": mask}
    config._attn_implementation = "sdpa"
    model = transformers.AutoModel.from_config(config).eval()
    with torch.no_grad():
        with record_attention(model) as found:
            out = model(**given).last_hidden_state
        assert torch.equal(out, model(**given).last_hidden_state)
        model.set_attn_implementation("eager")
        with record_attention(model) as eager:
            told = model(**given, output_attentions=True).attentions
    assert len(found) == len(told) == 2 and list(found) == list(eager)
    real = mask.bool()[:, None, :, None]  # queries of padding are arbitrary
    for pattern, by_softmax, reported in zip(found.values(), eager.values(), told, strict=True):
        assert pattern.shape == reported.shape == (2, 4, 9, 9)
        torch.testing.assert_close(pattern * real, reported * real, atol=1e-6, rtol=0)
        torch.testing.assert_close(by_softmax, reported, atol=1e-6, rtol=0)
