"""SPD's losses on a small token network written out in loops over instances, rows and positions.

Every masked weight matrix is built, the delta component's too, and every gradient flows through one graph.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from microtome.decomposition.causal_importance.sigmoids import sigmoid_pair
from microtome.decomposition.full_spd import FullSPD
from microtome.decomposition.loss_configs import AnyLoss
from microtome.decomposition.masks import Draws
from microtome.decomposition.spd_config import SPDConfig
from microtome.targets.module_target import ModuleTarget

VOCABULARY, WIDTH, N_OUT = 7, 4, 5
SITES = {"emb": 1, "mid": 2, "out": 1}
"""How often each site runs, in the order in which they first do."""


class TokenNetwork(nn.Module):
    """An embedding, one layer that runs twice, and a read-out."""

    def __init__(self) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(3)
        self.emb = nn.Embedding(VOCABULARY, WIDTH)
        self.mid = nn.Linear(WIDTH, WIDTH)
        self.out = nn.Linear(WIDTH, N_OUT)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=g, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        h = self.emb(x)
        for _ in range(2):
            h = torch.tanh(self.mid(h))
        return self.out(h)


def tokens(n_rows: int = 4, length: int = 3, k: int = 2) -> Tensor:
    return torch.randint(VOCABULARY, (k, n_rows, length), generator=torch.Generator().manual_seed(5))


def method(k: int = 2, **settings: object) -> FullSPD:
    """Untrained SPD on the token network in double precision, all parameters away from zero."""
    values = {"C": 3, "n_ci_mlp_neurons": 2, "steps": 10, "seed": 1, "output_loss_type": "kl", **settings}
    config = SPDConfig.from_mapping(values)
    made = FullSPD(ModuleTarget(TokenNetwork(), n_instances=k), config, list(range(k)))
    g = torch.Generator().manual_seed(11)
    for tensor in made.parameters.values():
        tensor.data = tensor.data.double() + 0.3 * torch.randn(tensor.shape, generator=g, dtype=torch.float64)
    return made


@dataclass
class Weighing:
    """One call of a site: masks ``[K, B, T, C]``, weights of the delta component, where it is masked."""

    masks: Tensor
    delta: Tensor | None
    routed: Tensor | None


class WrittenOut:
    """The losses of ``method`` on ``x``, with the random numbers of ``draws``."""

    def __init__(self, made: FullSPD, x: Tensor, draws: Draws, number: int) -> None:
        self.made, self.x, self.draws, self.config = made, x, draws, made.config
        self.fraction = number / made.config.steps
        self.weights = {name: site.weight for name, site in made.network.sites.items()}
        self.biases = {name: site.bias for name, site in made.network.sites.items()}
        self.factors = made.factors()
        self.target, self.inputs = self.run({})
        self.target = self.target.detach()
        self.inputs = {name: [a.detach() for a in calls] for name, calls in self.inputs.items()}
        self._importances()

    def numbers(self, shape: tuple[int, ...]) -> Tensor:
        return self.draws.uniform(
            self.draws.key(), shape, slice(0, shape[1]), torch.empty(0, dtype=torch.float64)
        )

    def _importances(self) -> None:
        wanted = self.config.importance_function
        to_lower, to_upper = sigmoid_pair(wanted.sigmoid_type)
        self.lower: dict[str, list[Tensor]] = {}
        self.upper: dict[str, list[Tensor]] = {}
        for name, calls in self.inputs.items():
            function = self.made.functions.by_site[name]
            self.lower[name], self.upper[name] = [], []
            for seen in calls:
                rows = [self._gates(function, name, k, a) for k, a in enumerate(seen)]
                gate = torch.stack(rows)
                jittered = gate
                if wanted.sampling == "binomial":
                    jittered = 1.05 * gate - 0.05 * self.numbers(tuple(gate.shape))
                self.lower[name].append(to_lower(jittered))
                self.upper[name].append(to_upper(gate))

    def _gates(self, function: object, name: str, k: int, seen: Tensor) -> Tensor:
        """``[B, T, C]`` of instance k, the scalar gates' formula for each subcomponent."""
        v = self.factors[name][0][k]
        inner = v[seen] if not seen.is_floating_point() else seen @ v
        w = {key: tensor[k] for key, tensor in function.weights.items()}  # pyright: ignore
        columns = []
        for c in range(inner.shape[-1]):
            hidden = nn.functional.gelu(inner[..., c, None] * w["w_in"][c] + w["b_in"][c])
            columns.append((hidden * w["w_out"][c]).sum(-1) + w["b_out"][c])
        return torch.stack(columns, -1)

    # -- passes --------------------------------------------------------------------------------------------

    def run(self, weighings: Mapping[str, list[Weighing]]) -> tuple[Tensor, dict[str, list[Tensor]]]:
        """Outputs ``[K, B, T, n_out]`` and what reached each site, position after position."""
        k, b, t = self.x.shape
        seen: dict[str, list[list[Tensor]]] = {name: [[] for _ in range(n)] for name, n in SITES.items()}
        outputs = []
        for at in ((i, j, p) for i in range(k) for j in range(b) for p in range(t)):

            def site(name: str, call: int, h: Tensor, at: tuple[int, int, int] = at) -> Tensor:
                seen[name][call].append(h)
                given = weighings.get(name)
                weight = self._weight(name, at, None if given is None else given[call])
                out = weight[h] if not h.is_floating_point() else h @ weight
                bias = self.biases[name]
                return out if bias is None else out + bias[at[0]]

            h = site("emb", 0, self.x[at])
            for call in range(2):
                h = torch.tanh(site("mid", call, h))
            outputs.append(site("out", 0, h))
        shaped = {
            name: [torch.stack(values).reshape(k, b, t, *values[0].shape) for values in calls]
            for name, calls in seen.items()
        }
        return torch.stack(outputs).reshape(k, b, t, -1), shaped

    def _weight(self, name: str, at: tuple[int, int, int], given: Weighing | None) -> Tensor:
        own = self.weights[name][at[0]]
        if given is None or (given.routed is not None and not bool(given.routed[at])):
            return own
        v, u = self.factors[name][0][at[0]], self.factors[name][1][at[0]]
        out = torch.zeros_like(own)
        for c in range(v.shape[1]):
            out = out + given.masks[at][c] * torch.outer(v[:, c], u[c])
        if given.delta is not None:
            out = out + given.delta[at] * (own - v @ u)
        return out

    def distance(self, output: Tensor) -> Tensor:
        """Mean over rows and positions of the KL divergence (or squared error), in loops."""
        k, b, t, n = output.shape
        values = []
        for i in range(k):
            total = torch.zeros((), dtype=torch.float64)
            for j in range(b):
                for p in range(t):
                    if self.config.output_loss_type == "mse":
                        total = total + ((output[i, j, p] - self.target[i, j, p]) ** 2).sum() / n
                        continue
                    q = torch.softmax(self.target[i, j, p], 0)
                    other = torch.log_softmax(output[i, j, p], 0)
                    total = total + sum(q[c] * (q[c].log() - other[c]) for c in range(n))
            values.append(total / (b * t))
        return torch.stack(values)

    # -- losses --------------------------------------------------------------------------------------------

    def passes(self, sites: str, routing: object) -> list[tuple[float, dict[str, Tensor | None]]]:
        """(share, where each masked site is masked)."""
        if sites == "all":
            return [(1.0, dict.fromkeys(SITES))]
        if sites == "layerwise":
            return [(1 / len(SITES), {name: None}) for name in SITES]
        shape = tuple(self.x.shape)
        numbers = self.numbers((*shape, len(SITES)))
        if getattr(routing, "type", "") == "static_probability":
            chosen = numbers < routing.p  # pyright: ignore
        else:
            sizes = self.numbers(shape)
            chosen = torch.zeros(numbers.shape, dtype=torch.bool)
            for at in torch.cartesian_prod(*(torch.arange(n) for n in shape)).tolist():
                k = int(float(sizes[tuple(at)]) * len(SITES)) + 1
                for index in numbers[tuple(at)].argsort()[:k].tolist():
                    chosen[(*at, index)] = True
        return [(1.0, {name: chosen[..., i] for i, name in enumerate(SITES)})]

    def weighings(self, kind: str, routes: Mapping[str, Tensor | None]) -> dict[str, list[Weighing]]:
        if kind != "stochastic":
            ones = kind == "unmasked"
            return {
                name: [Weighing(torch.ones_like(m) if ones else m, None, where) for m in self.lower[name]]
                for name, where in routes.items()
            }
        keys = {name: [(self.draws.key(), self.draws.key()) for _ in range(SITES[name])] for name in routes}
        out: dict[str, list[Weighing]] = {}
        for name in routes:
            out[name] = []
            for lower, (first, second) in zip(self.lower[name], keys[name], strict=True):
                rows = slice(0, lower.shape[1])
                source = self.draws.uniform(first, lower.shape, rows, lower)
                if self.config.sampling == "binomial":
                    source = torch.where(source < 0.5, 1.0, 0.0).double()
                delta = None
                if self.config.use_delta_component:
                    delta = self.draws.uniform(second, lower.shape[:-1], rows, lower)
                out[name].append(Weighing(lower + (1 - lower) * source, delta, routes[name]))
        return out

    def loss(self, loss: AnyLoss) -> Tensor:
        """One loss ``[K]``."""
        n = self.config.n_mask_samples
        if loss.name in ("stochastic_recon", "ci_masked_recon", "unmasked_recon"):
            kind = loss.name.removesuffix("_recon")
            n = n if kind == "stochastic" else 1
            total = torch.zeros(self.x.shape[0], dtype=torch.float64)
            for _ in range(n):
                for share, routes in self.passes(getattr(loss, "sites", "all"), getattr(loss, "routing", 0)):
                    total = total + share * self.distance(self.run(self.weighings(kind, routes))[0])
            return total / n
        if loss.name == "hidden_acts_recon":
            n = n if loss.masks == "stochastic" else 1
            return sum((self._hidden(loss.masks) for _ in range(n)), torch.zeros(1)) / n
        if loss.name == "faithfulness":
            return self._faithfulness(loss.relative)
        return self._minimality(loss)

    def _hidden(self, kind: str) -> Tensor:
        _, seen = self.run(self.weighings(kind, dict.fromkeys(SITES)))
        total, count = torch.zeros(self.x.shape[0], dtype=torch.float64), 0
        for name in ("mid", "out"):
            for mine, theirs in zip(seen[name], self.inputs[name], strict=True):
                total = total + ((mine - theirs) ** 2).sum((1, 2, 3))
                count += mine[0].numel()
        return total / count

    def _faithfulness(self, relative: bool) -> Tensor:
        values = []
        for k in range(self.x.shape[0]):
            errors, sizes, counts = [], [], []
            for name, weight in self.weights.items():
                v, u = self.factors[name][0][k], self.factors[name][1][k]
                errors.append(((weight[k] - v @ u) ** 2).sum())
                sizes.append((weight[k] ** 2).sum())
                counts.append(weight[k].numel())
            if relative:
                values.append(sum(e / s for e, s in zip(errors, sizes, strict=True)) / len(errors))
            else:
                values.append(sum(errors) / sum(counts))
        return torch.stack([torch.as_tensor(v) for v in values])

    def _minimality(self, loss: AnyLoss) -> Tensor:
        k, b, t = self.x.shape
        out = torch.zeros(k, dtype=torch.float64)
        for i in range(k):
            for name, calls in self.upper.items():
                v, u = self.factors[name][0][i], self.factors[name][1][i]
                for upper in calls:
                    for c in range(upper.shape[-1]):
                        values = [upper[i, j, p, c] for j in range(b) for p in range(t)]
                        out[i] = out[i] + self._of_component(loss, values, v[:, c], u[c])
        return out

    def _of_component(self, loss: AnyLoss, values: list[Tensor], v: Tensor, u: Tensor) -> Tensor:
        n = len(values)
        if loss.name == "importance_minimality":
            powers = [(x + loss.eps) ** loss.p_at(self.fraction) for x in values]
            mean, total = sum(powers) / n, sum(powers)
            return mean + loss.beta * mean * torch.log2(1 + torch.as_tensor(total))
        if loss.name == "schatten":
            return sum((x + 1e-12) ** loss.pnorm for x in values) / n * ((v**2).sum() + (u**2).sum())
        gamma = loss.gamma_at(self.fraction)  # pyright: ignore
        f = sum(x**2 / (x**2 + gamma**2) for x in values) / n
        return f if loss.name == "smooth_l0" else f * torch.log2(1 + loss.scale * f)  # pyright: ignore
