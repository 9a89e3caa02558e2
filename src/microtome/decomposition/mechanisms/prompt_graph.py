"""The graph of one prompt: which component at which token feeds which, up to the token said next."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from microtome.core.errors import MicrotomeError
from microtome.decomposition.mechanisms.attributions import OUTPUT, nodes_of
from microtome.decomposition.mechanisms.component_names import name_of
from microtome.decomposition.mechanisms.config import AttributionsConfig
from microtome.decomposition.mechanisms.gradients import MOST_VALUES
from microtome.decomposition.mechanisms.reading import device_of, importances, is_text
from microtome.decomposition.mechanisms.running import Nodes
from microtome.decomposition.result import Decomposition

WORDS = "token"


@dataclass(frozen=True)
class PromptGraph:
    """Nodes: components that fire at a token, tokens themselves, and the next token. Edges: attributions."""

    prompt: str
    tokens: list[str]
    likeliest: str
    nodes: list[dict[str, Any]]
    """id, site, component, position; importance and activation of components."""
    edges: list[dict[str, Any]]
    """source and target id, attribution; the strongest first."""
    n_edges: int
    """Edges there are, those left out included."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "prompt": self.prompt,
            "tokens": self.tokens,
            "likeliest": self.likeliest,
            "nodes": self.nodes,
            "edges": self.edges,
            "n_edges": self.n_edges,
        }


@dataclass
class _Places:
    """Where in a call's values the nodes of a site are: positions and components."""

    position: Tensor
    component: Tensor
    names: list[str]


def prompt_graph(d: Decomposition, prompt: str, config: AttributionsConfig) -> PromptGraph:
    """The attributions between the components that fire on a text. Raises ``MicrotomeError``."""
    tokenizer = getattr(d.target, "tokenizer", None)
    if tokenizer is None:
        raise MicrotomeError("prompt: the network has no tokenizer to read a text with")
    ids = torch.tensor(tokenizer(prompt)["input_ids"], dtype=torch.int64)
    if not len(ids):
        raise MicrotomeError("prompt='': no token; write a text")
    return graph_of(d, ids, config, prompt, [tokenizer.decode([i]) for i in ids.tolist()])


def graph_of(
    d: Decomposition,
    ids: Int[Tensor, " T"],
    config: AttributionsConfig,
    prompt: str = "",
    words: Sequence[str] | None = None,
) -> PromptGraph:
    """The graph of a row of token ids; its output is the logit of the likeliest next token after the last."""
    x = ids.to(device_of(d))[None, None]
    assert is_text(x)
    _, lower, inner = importances(d, x)
    nodes = nodes_of(d, x, config)
    assert nodes.output is not None
    told: list[dict[str, Any]] = []
    places: dict[str, _Places] = {}
    leaves: dict[str, list[Tensor]] = {}
    if nodes.words:
        leaves[WORDS] = nodes.words
        names = [f"{WORDS}@{t}" for t in range(len(ids))]
        places[WORDS] = _Places(torch.arange(len(ids)), torch.zeros(0), names)
        told += [{"id": name, "site": WORDS, "position": t} for t, name in enumerate(names)]
    for site in nodes.order:
        ci = torch.stack([one[0].reshape(len(ids), -1) for one in lower[site]]).amax(0)
        position, component = (ci > config.threshold).nonzero(as_tuple=True)
        h = torch.stack([one[0].reshape(len(ids), -1) for one in inner[site]])[-1]
        names = [
            f"{name_of(site, c)}@{t}" for t, c in zip(position.tolist(), component.tolist(), strict=True)
        ]
        places[site], leaves[site] = _Places(position, component, names), nodes.passed[site]
        for name, t, c in zip(names, position.tolist(), component.tolist(), strict=True):
            values = {"importance": round(float(ci[t, c]), 4), "activation": float(h[t, c])}
            told.append({"id": name, "site": site, "component": c, "position": t, **values})
    top = int(nodes.output[0, 0, -1].argmax())
    told.append({"id": OUTPUT, "site": OUTPUT, "position": len(ids) - 1, "token": top})
    edges = _Strongest(config.prompt_edges)
    _edges(nodes, places, leaves, top, config, edges)
    tokenizer = getattr(d.target, "tokenizer", None)
    likeliest = str(top) if tokenizer is None else tokenizer.decode([top])
    words = [str(i) for i in ids.tolist()] if words is None else list(words)
    return PromptGraph(prompt, words, likeliest, told, edges.named(), edges.n)


class _Strongest:
    """The edges of largest absolute attribution so far, and how many there were."""

    def __init__(self, most: int) -> None:
        self.most, self.n = most, 0
        self.value = torch.zeros(0)
        self.ends = torch.zeros(0, 2, dtype=torch.int64)
        self.names: list[str] = []
        self.numbers: dict[str, int] = {}

    def number(self, names: Sequence[str]) -> Tensor:
        """Numbers that stand for nodes."""
        for name in names:
            if name not in self.numbers:
                self.numbers[name] = len(self.names)
                self.names.append(name)
        return torch.tensor([self.numbers[name] for name in names], dtype=torch.int64)

    def add(
        self, values: Float[Tensor, "T S"], targets: Int[Tensor, " T"], sources: Int[Tensor, " S"]
    ) -> None:
        """Edges from every source to every target; those of zero are none."""
        flat = values.flatten().cpu()
        self.n += int((flat != 0).sum())
        top = flat.abs().topk(min(self.most, len(flat))).indices
        top = top[flat[top] != 0]
        width = max(len(sources), 1)
        ends = torch.stack([sources[top % width], targets[top // width]], 1)
        both, all_ends = torch.cat([self.value, flat[top].to(self.value.dtype)]), torch.cat([self.ends, ends])
        kept = both.abs().argsort(descending=True, stable=True)[: self.most]
        self.value, self.ends = both[kept], all_ends[kept]

    def named(self) -> list[dict[str, Any]]:
        """The strongest first."""
        return [
            {"source": self.names[s], "target": self.names[t], "attribution": value}
            for value, (s, t) in zip(self.value.tolist(), self.ends.tolist(), strict=True)
        ]


def _edges(
    nodes: Nodes,
    places: Mapping[str, _Places],
    leaves: Mapping[str, Sequence[Tensor]],
    top: int,
    config: AttributionsConfig,
    edges: _Strongest,
) -> None:
    for site in nodes.order:
        for call in nodes.read[site]:
            _edges_to(call, places[site], places, leaves, config, edges)
    assert nodes.output is not None
    last = _Places(torch.tensor([nodes.output.shape[2] - 1]), torch.tensor([top]), [OUTPUT])
    _edges_to(nodes.output, last, places, leaves, config, edges)


def _edges_to(
    values: Tensor,
    wanted: _Places,
    places: Mapping[str, _Places],
    leaves: Mapping[str, Sequence[Tensor]],
    config: AttributionsConfig,
    edges: _Strongest,
) -> None:
    """Edges from all nodes before to entries of ``values [1, 1, T, C]``, one backward pass for many."""
    flat = [(site, leaf) for site, calls in leaves.items() for leaf in calls]
    if not values.requires_grad or not len(wanted.position):
        return
    targets = edges.number(wanted.names)
    size = max(1, min(config.at_once, MOST_VALUES // sum(leaf.numel() for _, leaf in flat)))
    for some in torch.arange(len(targets)).split(size):
        weights = values.new_zeros(len(some), *values.shape)
        weights[torch.arange(len(some)), 0, 0, wanted.position[some], wanted.component[some]] = 1.0
        gradients = torch.autograd.grad(
            values,
            [leaf for _, leaf in flat],
            weights,
            retain_graph=True,
            allow_unused=True,
            is_grads_batched=True,
        )
        for (site, leaf), gradient in zip(flat, gradients, strict=True):
            if gradient is None or not places[site].names:
                continue
            part = (gradient * leaf.detach()).reshape(len(some), -1, leaf.shape[-1])
            where = places[site]
            part = part.sum(-1) if site == WORDS else part[:, where.position, where.component]
            edges.add(part, targets[some], edges.number(where.names))
