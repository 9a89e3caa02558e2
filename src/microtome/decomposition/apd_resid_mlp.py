"""APD on residual MLPs without the residual stream's width in any batch-sized product of the attributions.

The embeddings are frozen, so they are multiplied into the components first: A_c into what the residual
stream is written from (W_E and the earlier layers' outputs), B_c into what reads it (W_U and the later
layers). Attributions are one forward pass of the effects of all components; the top-k pass multiplies active
pairs only.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from microtome.decomposition.apd_components import parameter_count
from microtome.decomposition.apd_config import APDConfig
from microtome.decomposition.apd_variation import Variation
from microtome.decomposition.attribution.topk import exact_counts, topk_mask
from microtome.decomposition.losses.act_recon import act_recon
from microtome.decomposition.losses.output_recon import output_recon
from microtome.decomposition.losses.schatten import schatten_from_counts
from microtome.decomposition.masked_site import masked_site
from microtome.decomposition.pairs import Pairs
from microtome.targets.resid_mlp import ResidMLP


@dataclass
class Activations:
    """Inputs of every layer's two sites and the slopes of its activation."""

    inputs: list[Float[Tensor, "K N d_mlp"]]
    slopes: list[Float[Tensor, "K N d_mlp"]]
    output_slope: Float[Tensor, "K N n"] | None


class ResidMLPStep:
    """Computes one training step for a residual MLP; keeps the gradient buffers between steps."""

    def __init__(self, target: ResidMLP, config: APDConfig, varied: Variation) -> None:
        self.target, self.config, self.varied = target, config, varied
        self.sites = target.sites()
        self.n_layers = target.config.n_layers
        self.n_params = parameter_count(self.sites)
        self.quiet = all(site.bias is None for site in self.sites.values())
        self.buffers: dict[str, Tensor] = {}

    @torch.no_grad()
    def __call__(
        self, parameters: dict[str, Tensor], x: Float[Tensor, "K B n"]
    ) -> dict[str, Float[Tensor, " K"]]:
        """The losses of ``apd_plain`` for gradient attributions and top-k; fills every ``.grad``."""
        config, losses = self.config, {}
        summed = {name: _summed(parameters, name) for name in self.sites}
        rows = used_rows(x) if self.quiet else torch.arange(x.shape[1], device=x.device).expand(x.shape[:2])
        kept = take_rows(x, rows)
        scores = self._attributions(parameters, summed, kept)
        full_scores = scores.new_zeros(x.shape[0], x.shape[1] + 1, config.C)
        full_scores.scatter_(1, rows.unsqueeze(-1).expand_as(scores), scores)
        counts = exact_counts(x) if config.exact_topk else None
        assert self.varied.topk is not None
        mask = topk_mask(
            full_scores[:, :-1], self.varied.topk, config.batch_topk, config.distil_from_target, counts
        )
        uses = mask.sum(dim=1).to(x.dtype)
        if config.schatten_coeff is not None:
            losses["schatten"] = self._schatten(parameters, uses, x.shape[1])
        self._whole_weight_losses(parameters, summed, kept, x.shape[1], losses)
        if config.topk_recon_coeff is not None or config.act_recon_coeff is not None:
            active = take_rows(mask, rows)
            losses.update(self._topk_losses(parameters, kept, Pairs(active), x.shape[1]))
        for name, parameter in parameters.items():
            parameter.grad = self.buffers[name]
        return losses

    def _attributions(
        self, parameters: dict[str, Tensor], summed: dict[str, Tensor], x: Float[Tensor, "K N n"]
    ) -> Float[Tensor, "K N C"]:
        """Gradient attributions: every component's effect on every output, carried forward to first order."""
        config = self.config
        if config.attribution_model == "target":
            weights = {name: site.weight for name, site in self.sites.items()}
        else:
            weights = summed
        acts = self._activations(weights, x)
        k, n_rows, _ = x.shape
        effects: list[Tensor] = []  # of every component on the layers' activations [K, N, C, d_mlp]
        output: Tensor | None = None
        for i in range(self.n_layers + 1):
            reader = weights[f"layers.{i}.mlp_in"] if i < self.n_layers else self.target.W_U.expand(k, -1, -1)
            total = None
            if i < self.n_layers:
                maps, written = self._reading_maps(parameters, weights, i), [x, *acts.inputs[:i]]
                total = product_with_maps(torch.cat([*written, x.new_ones(k, n_rows, 1)], dim=-1), maps)
            for j in range(i):
                maps = self._writing_maps(parameters, reader, j)
                own = product_with_maps(acts.inputs[j], maps)
                total = own if total is None else total.add_(own)
                passed = torch.bmm(weights[f"layers.{j}.mlp_out"], reader)
                flat = total.view(k, n_rows * config.C, -1)
                flat.baddbmm_(effects[j].reshape(k, n_rows * config.C, -1), passed)
            assert total is not None
            if i < self.n_layers:
                effects.append(total.mul_(acts.slopes[i].unsqueeze(2)))
            else:
                output = total
        assert output is not None
        if acts.output_slope is not None:
            output.mul_(acts.output_slope.unsqueeze(2))
        return output.square_().sum(dim=-1)

    def _activations(self, weights: dict[str, Tensor], x: Float[Tensor, "K N n"]) -> Activations:
        target = self.target
        stream = x @ target.W_E
        acts = Activations([], [], None)
        for i in range(self.n_layers):
            neurons, slope = value_and_slope(
                target, _affine(stream, weights, self.sites, f"layers.{i}.mlp_in")
            )
            acts.inputs.append(neurons)
            acts.slopes.append(slope)
            stream = stream + _affine(neurons, weights, self.sites, f"layers.{i}.mlp_out")
        if target.config.apply_output_act_fn:
            acts.output_slope = value_and_slope(target, stream @ target.W_U)[1]
        return acts

    def _reading_maps(
        self, parameters: dict[str, Tensor], weights: dict[str, Tensor], i: int
    ) -> Float[Tensor, "K C w d_mlp"]:
        """From the w writers of the stream through layer i's components.

        Writers: the inputs, the neurons of earlier layers, and a constant one for those layers' biases.
        """
        a, b = parameters[f"layers.{i}.mlp_in.A_T"], parameters[f"layers.{i}.mlp_in.B"]
        k, c, m, d = a.shape
        outs = [f"layers.{j}.mlp_out" for j in range(i)]
        biases = [bias.unsqueeze(1) for name in outs if (bias := self.sites[name].bias) is not None]
        constant = torch.cat([a.new_zeros(k, 1, d), *biases], dim=1).sum(dim=1, keepdim=True)
        writers = [self.target.W_E.expand(k, -1, -1), *(weights[name] for name in outs), constant]
        written = torch.bmm(torch.cat(writers, dim=1), a.view(k, c * m, d).transpose(1, 2))
        return torch.matmul(written.view(k, -1, c, m).transpose(1, 2), b)

    def _writing_maps(
        self, parameters: dict[str, Tensor], reader: Float[Tensor, "K d_embed r"], j: int
    ) -> Float[Tensor, "K C d_mlp r"]:
        """From the neurons of layer j through its components to what ``reader`` reads."""
        a, b = parameters[f"layers.{j}.mlp_out.A_T"], parameters[f"layers.{j}.mlp_out.B"]
        k, c, m, d = b.shape
        read = torch.bmm(b.view(k, c * m, d), reader)
        return torch.matmul(a.transpose(2, 3), read.view(k, c, m, -1))

    def _whole_weight_losses(
        self,
        parameters: dict[str, Tensor],
        summed: dict[str, Tensor],
        x: Float[Tensor, "K N n"],
        batch_size: int,
        losses: dict[str, Tensor],
    ) -> None:
        """``param_match`` and ``out_recon``, which see the components' sum only; adds their gradients."""
        config = self.config
        by_sum = {}
        total = x.new_zeros(x.shape[0])
        for name, site in self.sites.items():
            difference = summed[name] - site.weight
            total += difference.square().sum(dim=(1, 2))
            by_sum[name] = difference * (2.0 * (config.param_match_coeff or 0.0) / self.n_params)
        if config.param_match_coeff is not None:
            losses["param_match"] = total / self.n_params
        if config.out_recon_coeff is not None:
            with torch.enable_grad():
                leaves = {name: weight.detach().requires_grad_() for name, weight in summed.items()}
                output = self.target(x, lambda name, value: _affine(value, leaves, self.sites, name))
                loss = output_recon(output, self.target(x)) * (x.shape[1] / batch_size)
                new = torch.autograd.grad(loss.sum() * config.out_recon_coeff, list(leaves.values()))
            losses["out_recon"] = loss.detach()
            for gradient, extra in zip(by_sum.values(), new, strict=True):
                gradient += extra
        for name, gradient in by_sum.items():
            a, b = parameters[f"{name}.A_T"], parameters[f"{name}.B"]
            k, c, m, d_in = a.shape
            grad_a, grad_b = self._buffer(f"{name}.A_T", a), self._buffer(f"{name}.B", b)
            started = int(config.schatten_coeff is not None)  # then the buffers hold its gradients already
            flat_a, flat_b = a.view(k, c * m, d_in), b.view(k, c * m, -1)
            grad_a.view_as(flat_a).baddbmm_(flat_b, gradient.transpose(1, 2), beta=started)
            grad_b.view_as(flat_b).baddbmm_(flat_a, gradient, beta=started)

    def _schatten(
        self, parameters: dict[str, Tensor], uses: Float[Tensor, "K C"], batch_size: int
    ) -> Float[Tensor, " K"]:
        """The loss; starts the gradients with its own."""
        config = self.config
        assert config.schatten_pnorm is not None
        total = uses.new_zeros(uses.shape[0])
        for name in self.sites:
            a, b = parameters[f"{name}.A_T"], parameters[f"{name}.B"]
            size_a = torch.linalg.vector_norm(a, dim=-1).square_()
            size_b = torch.linalg.vector_norm(b, dim=-1).square_()
            loss, slope = schatten_from_counts(size_a * size_b, uses, batch_size, config.schatten_pnorm)
            total += loss
            slope *= self.varied.schatten * (2.0 / (self.n_params * batch_size))
            torch.mul(a, (slope * size_b).unsqueeze(-1), out=self._buffer(f"{name}.A_T", a))
            torch.mul(b, (slope * size_a).unsqueeze(-1), out=self._buffer(f"{name}.B", b))
        return total / (self.n_params * batch_size)

    def _topk_losses(
        self, parameters: dict[str, Tensor], x: Float[Tensor, "K N n"], pairs: Pairs, batch_size: int
    ) -> dict[str, Float[Tensor, " K"]]:
        """``topk_recon`` and ``act_recon``; adds their gradients."""
        config, sites = self.config, self.sites
        truths: dict[str, Tensor] = {}
        shown: dict[str, Tensor] = {}

        def original(name: str, value: Tensor) -> Tensor:
            truths[name] = sites[name].apply(value)
            return truths[name]

        def masked(name: str, value: Tensor) -> Tensor:
            names = (f"{name}.A_T", f"{name}.B")
            out = masked_site(
                value, pairs, *(parameters[n] for n in names), *(self.buffers[n] for n in names)
            )
            bias = sites[name].bias
            shown[name] = out if bias is None else out + bias.unsqueeze(1)
            return shown[name]

        truth = self.target(x, original)
        with torch.enable_grad():
            output = self.target(x.detach().requires_grad_(), masked)
            share = x.shape[1] / batch_size
            losses, total = {}, x.new_zeros(())
            if config.topk_recon_coeff is not None:
                losses["topk_recon"] = output_recon(output, truth) * share
                total = total + config.topk_recon_coeff * losses["topk_recon"].sum()
            if config.act_recon_coeff is not None:
                rectified = [
                    {n: torch.relu(v) for n, v in d.items() if "mlp_in" in n} for d in (shown, truths)
                ]
                losses["act_recon"] = act_recon(*rectified) * share
                total = total + config.act_recon_coeff * losses["act_recon"].sum()
            total.backward()
        return {name: loss.detach() for name, loss in losses.items()}

    def _buffer(self, name: str, like: Tensor) -> Tensor:
        buffer = self.buffers.get(name)
        if (
            buffer is None
            or buffer.shape != like.shape
            or buffer.dtype != like.dtype
            or buffer.device != like.device
        ):
            buffer = self.buffers[name] = torch.empty_like(like, memory_format=torch.contiguous_format)
        return buffer


def _summed(parameters: dict[str, Tensor], name: str) -> Float[Tensor, "K d_in d_out"]:
    """``sum_c A_c B_c`` as one matrix product."""
    a, b = parameters[f"{name}.A_T"], parameters[f"{name}.B"]
    k, c, m, d_in = a.shape
    a, b = a.view(k, c * m, d_in), b.view(k, c * m, -1)
    # The wider factor goes last: with it first and transposed, the product takes nearly three times as long.
    if d_in > b.shape[-1]:
        return torch.bmm(b.transpose(1, 2), a).transpose(1, 2)
    return torch.bmm(a.transpose(1, 2), b)


def _affine(value: Tensor, weights: dict[str, Tensor], sites: dict, name: str) -> Tensor:
    bias = sites[name].bias
    if bias is None:
        return torch.bmm(value, weights[name])
    return torch.baddbmm(bias.unsqueeze(1), value, weights[name])


def product_with_maps(
    x: Float[Tensor, "K N d_in"], maps: Float[Tensor, "K C d_in d_out"]
) -> Float[Tensor, "K N C d_out"]:
    """Every row through every component's map, as one matrix product."""
    k, c, d_in, d_out = maps.shape
    side_by_side = maps.transpose(1, 2).reshape(k, d_in, c * d_out)
    return torch.bmm(x, side_by_side).view(k, -1, c, d_out)


def value_and_slope(target: ResidMLP, pre: Tensor) -> tuple[Tensor, Tensor]:
    """The network's activation and its derivative."""
    if target.config.act_fn_name == "relu":
        return torch.relu(pre), (pre > 0).to(pre.dtype)
    density = torch.exp(-0.5 * pre.square()) * (0.5 / torch.pi) ** 0.5
    cumulative = torch.special.ndtr(pre)
    return pre * cumulative, cumulative + pre * density


def used_rows(x: Float[Tensor, "K B n"]) -> Tensor:
    """Indices [K, N] of every instance's rows that are not all zero, padded with B."""
    k, b, _ = x.shape
    used = x.any(dim=-1)
    counts = used.sum(dim=1)
    instance, row = used.nonzero(as_tuple=True)
    place = torch.arange(len(row), device=x.device) - (counts.cumsum(0) - counts)[instance]
    rows = torch.full((k, max(int(counts.max()), 1)), b, device=x.device)
    rows[instance, place] = row
    return rows


def take_rows(values: Tensor, rows: Tensor) -> Tensor:
    """``values[k, rows[k]]``, zero where the index is the number of rows."""
    padded = torch.cat([values, torch.zeros_like(values[:, :1])], dim=1)
    return padded.gather(1, rows.unsqueeze(-1).expand(-1, -1, values.shape[-1]))
