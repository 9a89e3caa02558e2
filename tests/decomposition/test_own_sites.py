"""Modules of embeddings, convolutions, inserted identities, and language models through ``decompose``."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import SHORT as LONGER
from torch import Tensor, nn

import microtome
from microtome.core.errors import MicrotomeError
from microtome.decomposition.result import Decomposition

SHORT: dict[str, Any] = {**LONGER, "steps": 5, "batch_size": 16, "print_freq": 2}

pytestmark = pytest.mark.usefixtures("without_pictures")


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 4)
        self.mix = nn.Linear(4, 4)
        self.unembed = nn.Linear(4, 9, bias=False)
        self.unembed.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.unembed(self.mix(self.embed(ids)).relu())


def text() -> Tensor:
    return torch.randint(9, (40, 5))


def convnet() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(3, 4, 3, padding="same", dilation=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64, 3),
    )


def images() -> Tensor:
    return torch.randn(40, 1, 8, 8)


def summed(found: Decomposition, name: str) -> Tensor:
    """The sum of a site's components, ``[d_in, d_out]``."""
    return found.component_weights(name).sum(1)[0]


def test_token_ids_and_a_tied_unembedding(tmp_path: Path) -> None:
    module, x = Tokens(), text()
    found = microtome.decompose(module, data=x, output_loss_type="kl", out_dir=tmp_path / "run", **SHORT)
    assert list(found.sites) == ["embed", "mix", "unembed"]
    torch.testing.assert_close(summed(found, "embed"), summed(found, "unembed").T)
    assert "components.unembed.V" not in found.parameters
    own = Tokens().eval()
    own.load_state_dict(module.state_dict())
    own.embed.weight.data = summed(found, "embed")
    own.unembed.weight = own.embed.weight
    own.mix.weight.data = summed(found, "mix").T
    torch.testing.assert_close(found.forward(x[None])[0], own(x))
    rows = found.run.metrics() if found.run is not None else []
    assert rows[-1]["faithfulness"][0] < rows[0]["faithfulness"][0]
    importances = found.causal_importances(x[None])
    assert importances is not None and set(importances) == set(found.sites)
    again = microtome.load(tmp_path / "run", module=Tokens())
    torch.testing.assert_close(again.forward(x[None]), found.forward(x[None]))
    assert again.sites["unembed"].tied_to == "embed"


def test_convolutions(tmp_path: Path) -> None:
    module, x = convnet(), images()
    found = microtome.decompose(module, data=x, out_dir=tmp_path / "run", **SHORT)
    assert {name: site.kind for name, site in found.sites.items()} == {
        "0": "conv2d",
        "2": "conv2d",
        "5": "linear",
    }
    own = convnet()
    own.load_state_dict(module.state_dict())
    for name in found.sites:
        layer = own.get_submodule(name)
        layer.weight.data = summed(found, name).T.reshape(layer.weight.shape)  # pyright: ignore
    torch.testing.assert_close(found.forward(x[None])[0], own(x), rtol=1e-4, atol=1e-5)
    again = microtome.load(tmp_path / "run")  # a plain sequence of layers comes back by itself
    torch.testing.assert_close(again.forward(x[None]), found.forward(x[None]))


def test_numbers_of_components_and_identities(tmp_path: Path) -> None:
    found = microtome.decompose(
        Tokens(),
        data=text(),
        sites={"embed": 5, "mi*": 3, "unembed": 7},
        identities={"unembed": 2},
        out_dir=tmp_path / "run",
        **SHORT,
    )
    counts = {name: left.shape[1] for name, (left, _) in found.factors.items()}
    assert counts == {"embed": 5, "mix": 3, "unembed.pre_identity": 2, "unembed": 5}  # tied: as many
    plain = microtome.decompose(
        Tokens(), data=text(), sites=[], identities=["mix"], out_dir=tmp_path / "other", **SHORT
    )
    assert {name: left.shape[1] for name, (left, _) in plain.factors.items()} == {
        "mix.pre_identity": SHORT["C"]
    }


def test_seeds_side_by_side_are_each_alone(tmp_path: Path) -> None:
    module, x = Tokens(), text()
    both = microtome.decompose(module, data=x, n_seeds=2, out_dir=tmp_path / "both", **SHORT | {"steps": 1})
    assert both.factors["embed"][0].shape == (2, 6, 9, 1)
    out = both.forward(x.expand(2, -1, -1))
    assert not torch.allclose(out[0], out[1])


def test_a_language_model_needs_no_network_to_come_back(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=30, n_embd=8, n_layer=2, n_head=2, n_positions=12, bos_token_id=0, eos_token_id=0
    )
    model = transformers.GPT2LMHeadModel(config)
    x = torch.randint(30, (40, 6))
    found = microtome.decompose(
        model,
        data=x,
        sites=["*.wte", "*mlp*", "lm_head"],
        identities=["*c_fc"],
        out_dir=tmp_path / "run",
        **SHORT,
    )
    assert found.config.output_loss_type == "kl"  # pyright: ignore[reportAttributeAccessIssue]
    assert found.sites["lm_head"].tied_to == "transformer.wte"
    assert [name for name, site in found.sites.items() if site.kind == "identity"] == [
        f"transformer.h.{i}.mlp.c_fc.pre_identity" for i in range(2)
    ]
    torch.testing.assert_close(found.target(x[None])[0], model.eval()(x).logits)
    again = microtome.load(tmp_path / "run")
    torch.testing.assert_close(again.forward(x[None]), found.forward(x[None]))
    checkpointed = microtome.decompose(
        model,
        data=x,
        sites=["*.wte", "*mlp*", "lm_head"],
        identities=["*c_fc"],
        activation_checkpointing=True,
        out_dir=tmp_path / "checkpointed",
        **SHORT,
    )
    for name, tensor in found.parameters.items():
        torch.testing.assert_close(checkpointed.parameters[name], tensor, rtol=1e-4, atol=1e-6)


class Bag(nn.Module):
    """Linear sites only, behind ids."""

    def __init__(self) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(9, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.bag(ids))


def test_linear_layers_of_a_module_that_reads_ids(tmp_path: Path) -> None:
    found = microtome.decompose(Bag(), data=text(), out_dir=tmp_path / "run", **SHORT)
    assert list(found.sites) == ["head"]
    own = microtome.decompose(Tokens(), data=text(), sites=["mix"], out_dir=tmp_path / "mix", **SHORT)
    assert own.run is not None and own.run.metrics()[-1]["total"][0] > 0


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(4, 3) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        first = x.argmax(-1) % 2 == 0
        out = x.new_zeros(len(x), 3)
        for mine, expert in zip((first, ~first), self.experts, strict=True):
            out = out.index_put((mine,), expert(x[mine]))
        return out


class OneType(Tokens):
    """A layer whose input, the same for all rows, has too few axes to be told apart by row."""

    def __init__(self) -> None:
        super().__init__()
        self.kind = nn.Embedding(2, 4)

    def forward(self, ids: Tensor) -> Tensor:
        return self.mix(self.embed(ids) + self.kind(torch.tensor(1)))


class Idle(Tokens):
    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(3, 3)
        self.again = nn.Linear(4, 9, bias=False)
        self.again.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.mix(self.embed(ids))
        return self.again(hidden) + nn.functional.linear(hidden, self.mix.weight).sum(-1, keepdim=True)


def test_a_wildcard_passes_by_what_cannot_be_where_it_stands(tmp_path: Path, capsys: Any) -> None:
    module, x = Idle().eval(), text()
    found = microtome.decompose(module, data=x, out_dir=tmp_path / "run", **SHORT)
    assert {name: site.tied_to for name, site in found.sites.items()} == {"embed": None, "again": "embed"}
    told = capsys.readouterr().err
    assert "Passed by: unembed, unused (site 'unembed' did not run" in told
    assert "Passed by: mix (site 'mix': the module reads its weight outside the layer as well" in told
    torch.testing.assert_close(found.target(x[None])[0], module(x))
    again = microtome.load(tmp_path / "run", module=Idle())
    torch.testing.assert_close(again.forward(x[None]), found.forward(x[None]))
    with pytest.raises(MicrotomeError, match="site 'unused' did not run"):
        microtome.decompose(module, data=x, sites=["*", "unused"], out_dir=tmp_path / "no", **SHORT)


class ReadElsewhere(Tokens):
    def forward(self, ids: Tensor) -> Tensor:
        return nn.functional.linear(self.mix(self.embed(ids)), self.embed.weight)


class Doubled(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.linear(input, 2 * self.weight, self.bias)


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) + torch.randn_like(x)


@pytest.mark.parametrize(
    ("module", "data", "settings", "message"),
    [
        (
            ReadElsewhere(),
            text(),
            {"sites": ["embed", "mix"]},
            "site 'embed': the module reads its weight outside",
        ),
        (nn.Sequential(Doubled(4, 3)), torch.randn(9, 4), {}, "site '0' did not run"),
        (
            Experts(),
            torch.ones(9, 4),
            {"sites": ["experts.0", "experts.1"]},
            "experts.1: is given 0 rows of a batch of 8",
        ),
        (
            nn.ModuleDict({"f": nn.Linear(4, 3)}),
            torch.randn(9, 4),
            {},
            "data: the module cannot run on torch.float32 of shape [n, 4]",
        ),
        (
            OneType(),
            text(),
            {"sites": ["mix", "kind"]},
            "leave out kind, given the same for all rows",
        ),
        (Noisy(), torch.randn(9, 4), {}, "sites: a layer computes something else than input @ weight + bias"),
        (Tokens(), text(), {"method": "apd", "topk": 1, "m": 2}, "sites='embed': APD does not decompose"),
        (Tokens(), text() + 5, {}, "data: the module cannot run on torch.int64 of shape [n, 5]"),
        (
            Tokens(),
            text(),
            {"identities": ["embed"]},
            "identities='embed': layer of type Embedding, whose input width",
        ),
        (Tokens(), text(), {"sites": {"embed": 0}}, "module_info"),
        (
            nn.Sequential(nn.Conv1d(3, 3, 1)),
            torch.randn(9, 3, 4),
            {"sites": ["0"]},
            "'0': layer of type Conv1d",
        ),
    ],
)
def test_modules_that_cannot_be_decomposed(
    module: nn.Module, data: Tensor, settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(MicrotomeError, match=re.escape(message)) as error:
        microtome.decompose(module, data=data, out_dir=tmp_path / "run", **SHORT | settings)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()
