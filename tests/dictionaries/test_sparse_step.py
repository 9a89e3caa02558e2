"""The sparse training step against autograd on the dense formulas."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from microtome.dictionaries import DictionaryConfig, new_dictionary
from microtome.dictionaries.dictionary import Dictionary
from microtome.dictionaries.selection import BatchSelection, largest_of_rows
from microtome.dictionaries.sparse import decoded, dots, from_table, gathered, summed
from microtome.dictionaries.sparse_step import SparseStep, sparse_step

B, D, F, K = 24, 7, 96, 5


def dictionary_of(architecture: str, prefixes: tuple[int, ...] = ()) -> Dictionary:
    config = DictionaryConfig(architecture=architecture, d_in=D, n_features=F, k=K, prefixes=prefixes)  # pyright: ignore
    dictionary = new_dictionary(config)
    with torch.no_grad():
        dictionary.W_dec.copy_(torch.nn.functional.normalize(torch.randn(F, D), dim=1))
        dictionary.W_enc.copy_(dictionary.W_dec + 0.3 * torch.randn(F, D))
        dictionary.get_parameter("b_enc").normal_(std=0.1)
        dictionary.b_dec.normal_()
    return dictionary


def dense_features(dictionary: Dictionary, x: Tensor, whole_batch: bool) -> tuple[Tensor, Tensor]:
    pre = (x - dictionary.b_dec) @ dictionary.W_enc.T + dictionary.get_parameter("b_enc")
    acts = pre.relu()
    flat = acts.detach().flatten() if whole_batch else acts.detach()
    keep = torch.zeros_like(flat)
    keep = keep.scatter(-1, flat.topk(K * len(x) if whole_batch else K, dim=-1).indices, 1.0)
    return acts * keep.view_as(acts), pre


def dense_gradients(dictionary: Dictionary, x: Tensor, whole_batch: bool, prefixes, dead=None, aux=0.0):
    f, pre = dense_features(dictionary, x, whole_batch)
    losses = []
    for size in prefixes or (F,):
        x_hat = f[:, :size] @ dictionary.W_dec[:size] + dictionary.b_dec
        losses.append((x_hat - x).square().sum() / (len(x) * D))
    loss = torch.stack(losses).mean()
    if dead is not None:
        error = (x_hat - x).detach()
        pre, acts = pre[:, dead], pre[:, dead].relu()
        k = min(D // 2, int(dead.sum()))
        keep = torch.zeros_like(pre).scatter(1, pre.topk(k).indices, 1.0)
        left = (acts * keep) @ dictionary.W_dec[dead] + error
        share = min(int(dead.sum()) / (D / 2), 1.0)
        loss = loss + aux * share * left.square().sum() / error.square().sum()
    dictionary.zero_grad()
    loss.backward()
    found = {name: value.grad for name, value in dictionary.named_parameters() if value.grad is not None}
    W = dictionary.W_dec.detach()
    found["W_dec"] = found["W_dec"] - (found["W_dec"] * W).sum(1, keepdim=True) * W
    return found, f.detach(), loss.detach()


@pytest.mark.parametrize("dead", [0, 2, 40])
@pytest.mark.parametrize(
    ("architecture", "prefixes"), [("topk", ()), ("batch_topk", ()), ("matryoshka", (8, 32, F))]
)
def test_gradients_equal_autograd_on_the_dense_formula(architecture, prefixes, dead: int) -> None:
    dictionary = dictionary_of(architecture, prefixes)
    x = torch.randn(B, D) * 2
    whole = architecture != "topk"
    mask = torch.zeros(F, dtype=torch.bool)
    mask[torch.randperm(F)[:dead]] = True
    step = SparseStep(
        rows=B,
        k=K,
        prefixes=prefixes,
        batch_selection=BatchSelection(K) if whole else None,
        aux_weight=0.5,
        aux_rows=B,
    )
    found = sparse_step(dictionary, x, step, mask if dead else None)
    expected, f, _ = dense_gradients(dictionary, x, whole, prefixes, mask if dead else None, 0.5)
    for name in ("W_enc", "W_dec", "b_enc", "b_dec"):
        torch.testing.assert_close(getattr(found, name), expected[name], atol=1e-6, rtol=1e-4)
    assert found.n_active == int((f > 0).sum())
    assert torch.equal(found.fired, (f > 0).any(0))
    error = f @ dictionary.W_dec.detach() + dictionary.b_dec.detach() - x
    assert float(found.squared_error) == pytest.approx(float(error.square().sum()), rel=1e-5)
    if whole:
        assert found.threshold == pytest.approx(float(f[f > 0].min()))


def test_bfloat16_only_chooses() -> None:
    dictionary = dictionary_of("topk")
    x = torch.randn(B, D)
    step = SparseStep(rows=B, k=K, bfloat16=True)
    found = sparse_step(dictionary, x, step)
    exact = sparse_step(dictionary, x, SparseStep(rows=B, k=K))
    # Features nearly as large as the fifth may change places; everything else is float32.
    assert float(found.squared_error) == pytest.approx(float(exact.squared_error), rel=0.02)
    assert torch.cosine_similarity(found.W_enc.flatten(), exact.W_enc.flatten(), dim=0) > 0.98


def test_products_by_hand() -> None:
    entries = from_table(torch.tensor([[2.0, 1.0], [3.0, 0.5]]), torch.tensor([[0, 2], [2, 1]]))
    f = torch.tensor([[2.0, 0.0, 1.0], [0.0, 0.5, 3.0]])
    W, g = torch.randn(3, 4), torch.randn(2, 4)
    torch.testing.assert_close(decoded(entries, W), f @ W)
    torch.testing.assert_close(gathered(entries, g, 3), f.T @ g)
    torch.testing.assert_close(dots(entries, g, W), (g @ W.T)[[0, 0, 1, 1], [0, 2, 2, 1]])
    torch.testing.assert_close(summed(entries, entries.values, 3), torch.tensor([2.0, 0.5, 4.0]))
    part = entries.between(1, 3)
    torch.testing.assert_close(decoded(part, W[1:]), f[:, 1:] @ W[1:])


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 8), groups=st.integers(1, 20), k=st.integers(1, 5), seed=st.integers(0, 99))
def test_the_largest_of_rows_by_way_of_groups(rows, groups, k, seed) -> None:
    torch.manual_seed(seed)
    pre = torch.randn(rows, 16 * groups)
    found = largest_of_rows(pre, min(k, 16 * groups))
    dense = torch.zeros_like(pre)
    dense[found.rows, found.features] = found.values
    values, indices = pre.topk(min(k, 16 * groups))
    torch.testing.assert_close(dense, torch.zeros_like(pre).scatter(1, indices, values.relu()))


@pytest.mark.parametrize("guess", [0.0, 0.5, 3.0, 100.0])
def test_the_largest_of_a_batch_whatever_was_guessed(guess: float) -> None:
    pre = torch.randn(B, F)
    selection = BatchSelection(K)
    selection.guess = guess
    entries, threshold = selection.largest(pre)
    expected = pre.flatten().topk(B * K).values
    torch.testing.assert_close(entries.values.sort(descending=True).values, expected)
    assert threshold == pytest.approx(float(expected[-1]))
    assert torch.equal(pre[entries.rows, entries.features], entries.values)


def test_fewer_positive_features_than_may_act() -> None:
    pre = -torch.ones(3, 8)
    pre[1, 2] = 0.5
    entries, threshold = BatchSelection(4).largest(pre)
    assert entries.values.tolist() == [0.5] and threshold == 0.0
    nothing, _ = BatchSelection(4).largest(-torch.ones(3, 8))
    assert len(nothing.values) == 0
    torch.testing.assert_close(decoded(nothing, torch.randn(8, 2)), torch.zeros(3, 2))
