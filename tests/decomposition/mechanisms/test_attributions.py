"""Attributions against finite differences, plain loops and networks whose edges are known."""

import pytest
import torch
from known_mechanisms import Tokens, decomposition, language_decomposition, token_decomposition
from torch import Tensor, nn

from microtome.core.errors import MicrotomeError
from microtome.data.images import ArrayData
from microtome.decomposition.mechanisms.attributions import attributions
from microtome.decomposition.mechanisms.config import AttributionsConfig
from microtome.decomposition.mechanisms.prompt_graph import graph_of
from microtome.decomposition.mechanisms.running import run_nodes


class Three(nn.Module):
    """Three layers with a skip from the first to the last, and bends between them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        first = torch.tanh(self.a(x))
        return self.c(first + torch.nn.functional.gelu(self.b(first)))


def random_decomposition(level: float = -100.0):
    """Random components: six a site that do not sum to the weights. All fire."""
    torch.manual_seed(0)
    module = Three().double()
    shapes = {"a": (4, 5), "b": (5, 5), "c": (5, 3)}
    parts = {s: (torch.randn(i, 6).double(), torch.randn(6, o).double()) for s, (i, o) in shapes.items()}
    return decomposition(module, parts, level)


def rows(n: int = 3) -> Tensor:
    return torch.randn(n, 4, generator=torch.Generator().manual_seed(1)).double()


class Given:
    """Always the same rows."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def batch(self, batch_size, generator=None, n_instances=1):
        return self.x[:batch_size].expand(n_instances, -1, *self.x.shape[1:])

    def spec(self):
        return {"kind": "arrays"}


def found_by(d, x, **settings):
    settings = {"n_batches": 1, "batch_size": len(x), "threshold": 0.0, **settings}
    return attributions(d, data=Given(x), **settings)


@pytest.mark.parametrize("delta", [False, True])
def test_direct_attributions_are_finite_differences_of_held_nodes(delta):
    d, x = random_decomposition(), rows()
    found = found_by(d, x, delta=delta)
    start = run_nodes(d, x[None], None, float(delta), through=False)
    held = {site: [v.detach() for v in values] for site, values in start.passed.items()}

    def effect(site, s, target, t, row, step):
        moved = {name: [v.clone() for v in values] for name, values in held.items()}
        moved[site][0][0, row, s] += step
        after = run_nodes(d, x[None], None, float(delta), through=False, held=moved)
        values = after.output if target == "output" else after.read[target][0]
        return float(values[0, row, t].detach())

    for site, s, target, t in [
        ("a", 1, "b", 2),
        ("a", 0, "c", 5),
        ("b", 3, "c", 1),
        ("a", 4, "output", 0),
        ("c", 2, "output", 1),
    ]:
        total = absolute = 0.0
        for row in range(3):
            slope = (effect(site, s, target, t, row, 1e-5) - effect(site, s, target, t, row, -1e-5)) / 2e-5
            one = slope * float(held[site][0][0, row, s])
            total, absolute = total + one, absolute + abs(one)
        assert found.between(f"{site}:{s}", f"{target}:{t}") == pytest.approx(total / 3, rel=1e-6, abs=1e-9)
        i, j = found.sources.index(f"{site}:{s}"), found.targets.index(f"{target}:{t}")
        assert found.absolute[i, j] == pytest.approx(absolute / 3, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("paths", ["direct", "all"])
@pytest.mark.parametrize("masks", ["all", "ci"])
def test_batched_passes_are_a_plain_loop_over_components(paths, masks):
    d, x = random_decomposition(level=-0.3), rows(5)
    found = found_by(d, x, paths=paths, masks=masks, at_once=4)
    weights = None
    if masks == "ci":
        ci = d.causal_importances(x[None])
        weights = {s: [one.lower.clamp(0, 1)] for s, one in ci.items()}
    nodes = run_nodes(d, x[None], weights, 0.0, through=paths == "all")
    for j, target in enumerate(found.targets):
        site, c = target.split(":")
        values = nodes.output if site == "output" else nodes.read[site][0]
        for i, source in enumerate(found.sources):
            name, s = source.split(":")
            leaf = nodes.x if name == "input" else nodes.passed[name][0]
            (gradient,) = torch.autograd.grad(
                values[..., int(c)].sum(), leaf, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            each = (gradient * leaf).detach()[0, :, int(s)]
            assert found.signed[i, j] == pytest.approx(float(each.mean()), rel=1e-9, abs=1e-12)
            assert found.absolute[i, j] == pytest.approx(float(each.abs().mean()), rel=1e-9, abs=1e-12)


def test_all_paths_are_finite_differences_of_the_whole_network():
    d, x = random_decomposition(), rows(1)
    found = found_by(d, x, paths="all")
    start = run_nodes(d, x[None], None, 0.0, through=True)
    u = d.joined["a"][1][0]
    inner = start.passed["a"][0].detach()[0, 0]

    def output(step):
        moved = inner.clone()
        moved[2] += step
        first = torch.tanh(moved @ u + d.target.module.a.bias)
        (vb, ub), (vc, uc) = ([f[0] for f in d.joined[s]] for s in "bc")
        return (first + nn.functional.gelu(first @ vb @ ub + d.target.module.b.bias)) @ vc @ uc

    slope = (output(1e-5) - output(-1e-5)) / 2e-5
    wanted = slope * inner[2]
    assert [found.between("a:2", f"output:{o}") for o in range(3)] == pytest.approx(wanted.tolist(), rel=1e-6)
    with pytest.raises(MicrotomeError, match=r"source='aa:2': not among .*; did you mean a:2\?"):
        found.between("aa:2", "output:0")
    with pytest.raises(MicrotomeError, match="target='nothing': not among"):
        found.between("a:2", "nothing")


def test_several_batches_are_their_mean():
    d = random_decomposition()
    x = rows(6)
    parts = [found_by(d, x[:3]).signed, found_by(d, x[3:]).signed]

    class Two(Given):
        at = 0

        def batch(self, batch_size, generator=None, n_instances=1):
            self.at = (self.at + 3) % 6
            return self.x[self.at : self.at + 3][None]

    both = attributions(d, data=Two(x), n_batches=2, batch_size=3, threshold=0.0)
    assert both.n_places == 6
    torch.testing.assert_close(torch.tensor(both.signed), torch.tensor(sum(parts) / 2))


def test_known_edges_are_found_and_no_others():
    d = token_decomposition()
    ids = torch.randint(6, (40, 12), generator=torch.Generator().manual_seed(0))
    found = attributions(d, data=Tokens(ids), n_batches=5, batch_size=8)
    assert found.n_places == 480
    inside = {(e["source"], e["target"]) for e in found.edges() if not e["target"].startswith("output")}
    assert inside == {(f"up:{t}", f"down:{t}") for t in range(6)}
    for t in range(6):
        share = float((ids == t).float().mean())
        assert found.between(f"up:{t}", f"down:{t}") == pytest.approx(share)
        assert found.between(f"down:{t}", "output:likeliest") == pytest.approx(4 * share)
    assert not any(name.endswith(":6") for name in found.sources)  # never fires


def test_inputs_are_sources_where_they_are_numbers():
    module = nn.Sequential(nn.Linear(3, 3, bias=False))
    module[0].weight.data = torch.diag(torch.tensor([1.0, 2.0, 3.0]))
    d = decomposition(module, {"0": (torch.eye(3), module[0].weight.detach().T)}, level=0.1)
    x = torch.rand(50, 3) + 0.5
    found = attributions(d, data=ArrayData(x), n_batches=2, batch_size=20)
    edges = {(e["source"], e["target"]): e["signed"] for e in found.edges()}
    assert set(edges) == {(f"input:{i}", f"0:{i}") for i in range(3)} | {
        (f"0:{i}", f"output:{i}") for i in range(3)
    }
    assert edges["0:2", "output:2"] == pytest.approx(3 * edges["input:2", "0:2"], rel=1e-5)


def test_sum_over_sources_is_what_a_component_reads_where_nothing_bends():
    torch.manual_seed(2)
    module = nn.Sequential(nn.Linear(4, 5, bias=False), nn.Linear(5, 3, bias=False)).double()
    parts = {
        str(i): (torch.randn(a, 6).double(), torch.randn(6, b).double())
        for i, (a, b) in enumerate([(4, 5), (5, 3)])
    }
    d = decomposition(module, parts, -100.0)
    x = rows(4)
    found = found_by(d, x)
    nodes = run_nodes(d, x[None], None, 0.0, through=False)
    first = [i for i, name in enumerate(found.sources) if name.startswith("0:")]
    second = [j for j, name in enumerate(found.targets) if name.startswith("1:")]
    summed = torch.tensor(found.signed)[first][:, second].sum(0)
    torch.testing.assert_close(summed, nodes.read["1"][0][0].mean(0).detach())


def test_the_graph_of_a_prompt_is_the_path_of_each_token():
    d = token_decomposition()
    graph = graph_of(d, torch.tensor([2, 4, 1]), AttributionsConfig())
    assert graph.tokens == ["2", "4", "1"] and graph.likeliest == "2"
    edges = {(e["source"], e["target"]): e["attribution"] for e in graph.edges}
    assert set(edges) == {
        *((f"up:{c}@{t}", f"down:{c}@{t}") for t, c in enumerate((2, 4, 1))),
        ("down:1@2", "output"),
    }
    assert edges["up:4@1", "down:4@1"] == pytest.approx(1.0) and edges["down:1@2", "output"] == pytest.approx(
        4.0
    )
    assert graph.n_edges == 4
    components = [n["id"] for n in graph.nodes if "component" in n]
    assert components == [f"{s}:{c}@{t}" for s in ("up", "down") for t, c in enumerate((2, 4, 1))]


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_language_models_graph_is_a_plain_loop(family):
    d = language_decomposition(family)
    ids = torch.tensor([3, 1, 4, 1, 5])
    config = AttributionsConfig(threshold=0.0, prompt_edges=100000)
    graph = graph_of(d, ids, config)
    nodes = run_nodes(d, ids[None, None], None, 0.0, through=False)
    edges = {(e["source"], e["target"]): e["attribution"] for e in graph.edges}
    half = len(nodes.order) // 2  # from the last site of the first layer to the first of the second
    first, last = nodes.order[half - 1], nodes.order[half]
    values, leaf = nodes.read[last][0], nodes.passed[first][0]
    for t, c, s in [(4, 1, 0), (2, 0, 3), (0, 2, 1)]:
        (gradient,) = torch.autograd.grad(values[0, 0, t, c], leaf, retain_graph=True)
        for place in range(5):
            one = float((gradient * leaf).detach()[0, 0, place, s])
            assert edges.get((f"{first}:{s}@{place}", f"{last}:{c}@{t}"), 0.0) == pytest.approx(one, abs=1e-7)
            assert place <= t or one == 0
    (gradient,) = torch.autograd.grad(values[0, 0, 3, 1], nodes.words[0], retain_graph=True)
    wanted = (gradient * nodes.words[0]).detach().sum(-1)[0]
    for place in range(4):
        assert edges[f"token@{place}", f"{last}:1@3"] == pytest.approx(
            float(wanted[place]), rel=1e-4, abs=1e-7
        )


def test_a_language_models_attributions_are_a_plain_loop():
    d = language_decomposition("gpt2")
    ids = torch.randint(20, (3, 6))
    found = attributions(d, data=Tokens(ids), n_batches=1, batch_size=3, threshold=0.0)
    nodes = run_nodes(d, ids[None], None, 0.0, through=False)
    assert "output:likeliest" in found.targets
    half = len(nodes.order) // 2  # from the last site of the first layer to the first of the second
    first, last = nodes.order[half - 1], nodes.order[half]
    for s, t in [(0, 1), (3, 2)]:
        (gradient,) = torch.autograd.grad(
            nodes.read[last][0][..., t].sum(), nodes.passed[first][0], retain_graph=True
        )
        each = (gradient * nodes.passed[first][0]).detach()[..., s]
        assert found.between(f"{first}:{s}", f"{last}:{t}") == pytest.approx(
            float(each.mean()), rel=1e-4, abs=1e-7
        )
