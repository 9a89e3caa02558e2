"""Gradients against autograd with dictionaries spliced in, finite differences, Captum, and detaching."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny import D_MODEL, N_FEATURES, N_LAYERS, random_batch, random_dictionary, random_model
from torch import Tensor

from microtome.data.text import TokenBatch
from microtome.dictionaries.dictionary import Dictionary, normalised
from microtome.dictionaries.formats import open_dictionary, save_sparsify
from microtome.gradients.accumulate import Accumulator, Plan
from microtome.gradients.active_pairs import reconstruct
from microtome.gradients.layer_sums import QUANTITIES
from microtome.gradients.measured import scores
from microtome.gradients.passes import all_layers
from microtome.hooks import replace
from microtome.targets.language_model import LanguageModel, token_losses

FAMILIES = ["qwen", "llama", "mistral", "zephyr", "mixtral", "yi", "gemma2", "gemma3"]


class Dense:
    """A dictionary in memory as the analysis asks for it, its features found by its own dense encoder."""

    def __init__(self, dictionary: Dictionary) -> None:
        self.dictionary, self.config, self.b_dec = dictionary, dictionary.config, dictionary.b_dec

    def decoder_rows(self, a: int, b: int) -> Tensor:
        return self.dictionary.W_dec[a:b]

    def active(self, x: Tensor, *, block: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        f = self.dictionary.encode(x)
        return f, torch.arange(f.shape[1]).expand(f.shape)


def paths(lm: LanguageModel, site: str = "mlp") -> dict[int, str]:
    return {layer: lm.path(layer, site) for layer in range(lm.n_layers)}


def measured(
    lm: LanguageModel,
    batches: list[TokenBatch],
    dictionaries: list[Dictionary] | None = None,
    **how,
) -> Accumulator:
    features = dictionaries is not None
    plan = Plan(
        lm,
        paths(lm),
        QUANTITIES if features else ["gradients", "attribution", "values"],
        (lambda layer: Dense(dictionaries[layer])) if features else None,
        **({"dtype": torch.float64} | how),
    )
    widths = [d.config.n_features for d in dictionaries] if features else [lm.d_model] * lm.n_layers
    accumulator = Accumulator(plan, dict(enumerate(widths)))
    accumulator.add(batches)
    return accumulator


def loss_with(
    lm: LanguageModel, batch: TokenBatch, functions: dict[str, Callable[[Tensor], Tensor]]
) -> Tensor:
    with replace(lm.model, functions):
        return token_losses(lm, batch.input_ids, batch.attention_mask)[0]


# -- all layers by one pass


@pytest.mark.parametrize(
    ("family", "site"),
    [(family, "mlp") for family in FAMILIES]
    # one family with and one without a norm after the MLP
    + [(family, site) for family in ("qwen", "gemma2") for site in ("mlp_out", "resid")],
)
def test_one_pass_gives_what_detaching_each_layer_gives(family: str, site: str) -> None:
    # transformers' experts multiply in single precision at most
    dtype = torch.float32 if family == "mixtral" else torch.float64
    lm, batch = random_model(family, dtype), random_batch()
    found: dict[int, Tensor] = {}
    all_layers(lm, batch, paths(lm, site), lambda layer, x, g: found.__setitem__(layer, g.clone()))
    assert list(found) == [2, 1, 0]
    for layer, path in paths(lm, site).items():
        leaf: list[Tensor] = []

        def cut(output: Tensor, leaf: list[Tensor] = leaf) -> Tensor:
            leaf.append(output.detach().clone().requires_grad_())
            return leaf[0]

        loss_with(lm, batch, {path: cut}).backward()
        assert leaf[0].grad is not None and leaf[0].grad.abs().max() > 1e-3
        assert torch.equal(found[layer], leaf[0].grad)


def test_checkpointed_layers_give_the_same_gradients() -> None:
    lm, batch = random_model(), random_batch()
    found: list[dict[int, Tensor]] = [{}, {}]
    for checkpointing, into in zip((False, True), found, strict=True):

        def keep(layer: int, x: Tensor, g: Tensor, into: dict[int, Tensor] = into) -> None:
            into[layer] = g.clone()

        all_layers(lm, batch, paths(lm), keep, checkpointing=checkpointing)
    assert all(torch.equal(found[0][layer], found[1][layer]) for layer in range(N_LAYERS))
    assert "forward" not in vars(lm.model.get_submodule("model.layers.0"))


def test_gradients_are_finite_differences() -> None:
    lm, batch = random_model("gpt2"), random_batch()  # the others' norms compute in single precision
    accumulator = measured(lm, [batch])
    step, mask = 1e-5, batch.attention_mask[..., None]
    for layer in range(N_LAYERS):
        moments = accumulator.sums[layer].moments["gradients"]
        for dimension in (0, D_MODEL - 1):
            push = torch.zeros(D_MODEL, dtype=torch.float64)
            push[dimension] = step
            up, down = (
                loss_with(lm, batch, {lm.path(layer): lambda x, s=sign, p=push * mask: x + s * p})
                for sign in (1, -1)
            )
            slope = float(up - down) / (2 * step)
            assert float(moments.sums[0, dimension]) == pytest.approx(slope, rel=1e-6, abs=1e-8)


def test_layers_agree_with_captum() -> None:
    captum = pytest.importorskip("captum.attr")
    lm, batch = random_model(), random_batch()
    modules = [lm.model.get_submodule(path) for path in paths(lm).values()]

    def forward(ids: Tensor) -> Tensor:
        return token_losses(lm, ids, batch.attention_mask)[0].reshape(1)

    theirs = captum.LayerGradientXActivation(forward, modules, multiply_by_inputs=True).attribute(
        batch.input_ids
    )
    accumulator = measured(lm, [batch])
    for layer, values in enumerate(theirs):
        values = values[0] if isinstance(values, tuple) else values
        ours = accumulator.sums[layer].moments["attribution"].sums[0]
        torch.testing.assert_close(ours, values.detach().double().sum((0, 1)), rtol=1e-9, atol=1e-12)


# -- features


def spliced(
    lm: LanguageModel, batch: TokenBatch, dictionaries: list[Dictionary]
) -> tuple[list[Tensor], list[Tensor]]:
    """Features and gradients, one layer after the other: reconstruction and error stand in for x."""
    features: list[Tensor] = []
    gradients: list[Tensor] = []
    for layer, dictionary in enumerate(dictionaries):

        def splice(x: Tensor, dictionary: Dictionary = dictionary) -> Tensor:
            f = dictionary.encode(x).detach().requires_grad_()
            features.append(f)
            x_hat = dictionary.decode(f, like=x)
            return x_hat + (x - x_hat).detach()

        loss = loss_with(lm, batch, {lm.path(layer): splice})
        gradients += torch.autograd.grad(loss, features[-1:])
    return features, gradients


@pytest.mark.parametrize(
    "changes",
    [
        {"architecture": "topk"},
        {"architecture": "relu", "k": None},
        {"architecture": "jumprelu", "k": None, "subtract_b_dec": False},
        {"architecture": "topk", "normalisation": "layer_norm"},
        {"architecture": "topk", "normalisation": "constant_norm"},
    ],
    ids=lambda changes: "-".join(str(v) for v in changes.values()),
)
def test_features_are_those_of_splicing_dictionaries_with_their_errors_and_differentiating(changes) -> None:
    lm, batch = random_model(), random_batch()
    torch.manual_seed(3)
    dictionaries = [random_dictionary(layer, **changes).double() for layer in range(N_LAYERS)]
    for dictionary in dictionaries:
        if changes["architecture"] == "jumprelu":
            dictionary.get_parameter("threshold").fill_(0.1)
    features, gradients = spliced(lm, batch, dictionaries)
    accumulator = measured(lm, [batch], dictionaries)
    real = batch.attention_mask.bool()
    for layer, (f, g) in enumerate(zip(features, gradients, strict=True)):
        f, g = f[real].detach(), g[real]
        moments = accumulator.sums[layer].moments
        active = f != 0
        assert 0 < active.float().mean() < 1
        expected = {
            "gradients": g,
            "active_gradients": g * active,
            "attribution": f * g,
            "values": f,
        }
        for name, values in expected.items():
            for row, total in ((0, values.sum(0)), (1, values.abs().sum(0))):
                torch.testing.assert_close(
                    moments[name].sums[row], total, rtol=1e-5, atol=1e-6 * float(total.abs().max()), msg=name
                )
        assert torch.equal(accumulator.sums[layer].active, active.sum(0).double())


def test_spread_over_samples_is_that_of_each_sample_alone() -> None:
    """The standard errors come from sums by sample: rows 2 to 5 of the moments."""
    lm, batch = random_model(), random_batch()
    torch.manual_seed(3)
    dictionaries = [random_dictionary(layer).double() for layer in range(N_LAYERS)]
    together = measured(lm, [batch], dictionaries)
    for name in ("gradients", "attribution"):
        expected = torch.zeros(6, N_FEATURES, dtype=torch.float64)
        for row in range(len(batch.index)):
            n = int(batch.attention_mask[row].sum())
            alone = TokenBatch(
                batch.input_ids[row : row + 1, :n], batch.attention_mask[row : row + 1, :n], [row]
            )
            sums = measured(lm, [alone], dictionaries).sums[1].moments[name].sums
            signed, absolute = sums[0], sums[1]
            expected += torch.stack([signed, absolute, signed**2, signed * n, absolute**2, absolute * n])
        torch.testing.assert_close(together.sums[1].moments[name].sums, expected, rtol=1e-9, atol=1e-12)


def test_results_depend_neither_on_batches_nor_on_padding_nor_on_chunks() -> None:
    lm = random_model()
    torch.manual_seed(3)
    dictionaries = [random_dictionary(layer).double() for layer in range(N_LAYERS)]
    whole = random_batch(6)
    wide = TokenBatch(
        torch.nn.functional.pad(whole.input_ids, (0, 7)),
        torch.nn.functional.pad(whole.attention_mask, (0, 7)),
        whole.index,
    )
    halves = [
        TokenBatch(whole.input_ids[rows], whole.attention_mask[rows], list(range(6))[rows])
        for rows in (slice(0, 2), slice(2, 6))
    ]
    reference = measured(lm, [whole], dictionaries)
    several = measured(lm, halves[:1], dictionaries)
    several.add(halves[1:])
    for other in (measured(lm, [wide], dictionaries), measured(lm, halves, dictionaries), several):
        for layer, sums in reference.sums.items():
            for name, tensor in sums.state().items():
                torch.testing.assert_close(other.sums[layer].state()[name], tensor, rtol=1e-5, atol=1e-6)


def test_signed_sums_alone_need_no_product_of_all_positions() -> None:
    lm, batch = random_model(), random_batch()
    torch.manual_seed(3)
    dictionaries = [random_dictionary(layer).double() for layer in range(N_LAYERS)]
    full = measured(lm, [batch], dictionaries)
    signed = measured(lm, [batch], dictionaries, magnitudes=False)
    for layer in range(N_LAYERS):
        a, b = scores(full.sums[layer]), scores(signed.sums[layer], magnitudes=False)
        assert "gradients_mean_abs" not in b
        for name in b:
            assert a[name] == pytest.approx(b[name], rel=1e-5, abs=1e-9, nan_ok=True), name


def test_bf16_stays_close() -> None:
    batch = random_batch(8, 24)
    torch.manual_seed(3)
    dictionaries = [random_dictionary(layer) for layer in range(N_LAYERS)]
    exact = measured(random_model(dtype=torch.float32), [batch], dictionaries, dtype=torch.float32)
    rough = measured(random_model(dtype=torch.bfloat16), [batch], dictionaries, dtype=torch.bfloat16)
    for layer in range(N_LAYERS):
        a, b = (s.sums[layer].moments["gradients"].mean("mean_abs") for s in (exact, rough))
        assert torch.cosine_similarity(a, b, dim=0) > 0.99
        assert rough.sums[layer].moments["gradients"].sums.dtype == torch.float64


def test_a_dictionary_on_disk_gives_what_it_gives_in_memory(tmp_path: Path) -> None:
    torch.manual_seed(3)
    dictionary = random_dictionary(0, 100)
    save_sparsify(dictionary, tmp_path / "layers.0.mlp")
    file = open_dictionary(tmp_path / "layers.0.mlp")
    x = torch.randn(300, D_MODEL)
    torch.testing.assert_close(reconstruct(file, x), dictionary(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(reconstruct(Dense(dictionary), x), dictionary(x), rtol=1e-5, atol=1e-5)
    assert normalised(x, dictionary.config)[2] is None
