"""Runs of the later SPD code with one function for all sites, and with inserted identities."""

from pathlib import Path

import pytest
import torch
from old_layouts import OldRun, write_later_spd_run
from scipy.special import erf
from torch import Tensor, nn

from microtome.core.errors import CannotLoad
from microtome.decomposition.result import load
from microtome.decomposition.spd_config import SPDConfig


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.as_tensor(erf((x / 2**0.5).numpy()), dtype=x.dtype))


def with_one_function(run: OldRun, hidden: int = 6, prefix: str = "ci_fn._global_ci_fn") -> list[Tensor]:
    """Put one random MLP for all sites in place of the run's functions."""
    state = {k: t for k, t in torch.load(run.checkpoint).items() if not k.startswith("_ci_fns.")}
    weights = run.planted[0].weights
    width = sum(len(weight) for weight in weights.values())
    count = sum(len(v) for v, _ in run.planted[0].parts.values())
    made = torch.Generator().manual_seed(0)
    shapes = {"0.W": (width, hidden), "0.b": (hidden,), "2.W": (hidden, count), "2.b": (count,)}
    layers = [torch.randn(shape, generator=made) for shape in shapes.values()]
    state |= {f"{prefix}.layers.{name}": t for name, t in zip(shapes, layers, strict=True)}
    torch.save(state, run.checkpoint)
    return layers


@pytest.mark.parametrize("prefix", ["ci_fn._global_ci_fn", "_global_ci_fn"])
def test_one_function_for_all_sites(tmp_path: Path, prefix: str) -> None:
    counts = {"linear1": 6, "hidden_layers.0": 3, "linear2": 8}
    run = write_later_spd_run(
        tmp_path,
        C=counts,
        planted=False,
        nested_ci_config=True,
        n_hidden_layers=1,
        config={"ci_config": {"mode": "global", "fn_type": "global_shared_mlp", "hidden_dims": [6]}},
    )
    w_in, b_in, w_out, b_out = with_one_function(run, prefix=prefix)
    d = load(tmp_path)
    assert isinstance(d.config, SPDConfig)
    assert (d.config.ci_fn_mode, d.config.ci_fn_type, d.config.ci_fn_hidden_dims) == (
        "global",
        "shared_mlp",
        (6,),
    )
    weights = run.planted[0].weights
    x = torch.randn(7, len(run.planted[0].extra["b_final"]), generator=torch.Generator().manual_seed(1))
    seen, h = {}, x
    for site in ("linear1", "hidden_layers.0", "linear2"):
        seen[site], h = h, h @ weights[site]
    order = sorted(counts)
    gates = gelu(torch.cat([seen[site] for site in order], 1) @ w_in + b_in) @ w_out + b_out
    found = d.causal_importances(x[None])
    assert found is not None
    for site, gate in zip(order, gates.split([counts[site] for site in order], 1), strict=True):
        torch.testing.assert_close(found[site].gate[0], gate, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found[site].lower[0], gate.clamp(0, 1), rtol=1e-4, atol=1e-4)


def test_inserted_identities_with_the_module(tmp_path: Path) -> None:
    """``<module>.pre_identity`` is a site like any other: the identity's components, then the layer's."""
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    state = {f"target_model.{name}": tensor for name, tensor in made.state_dict().items()}
    state["target_model.2.pre_identity.weight"] = torch.eye(5)
    factors = {
        "0": (torch.randn(4, 6), torch.randn(6, 5)),
        "2-pre_identity": (torch.randn(5, 2), torch.randn(2, 5)),
    }
    for key, (v, u) in factors.items():
        state |= {f"_components.{key}.V": v, f"_components.{key}.U": u}
        state |= {
            f"_ci_fns.{key}.layers.0.W": torch.randn(len(v), len(u)),
            f"_ci_fns.{key}.layers.0.b": torch.randn(len(u)),
        }
    run = write_later_spd_run(
        tmp_path,
        ci_fn_type="shared_mlp",
        nested_ci_config=True,
        with_target=False,
        config={
            "identity_module_info": [{"module_pattern": "2", "C": 2}],
            "module_info": [{"module_pattern": "0", "C": 6}],
        },
    )
    torch.save(state, run.checkpoint)
    d = load(tmp_path, module=nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)))
    assert isinstance(d.config, SPDConfig) and not any("left out" in note for note in d.notes)
    assert d.config.subcomponents(d.sites) == {"0": 6, "2.pre_identity": 2}
    x = torch.randn(1, 7, 4)
    torch.testing.assert_close(d.target(x)[0], made(x[0]))
    (v, u), (w, z) = factors.values()
    hidden = (x[0] @ v @ u + made[0].bias).tanh() @ w @ z
    torch.testing.assert_close(d.forward(x)[0], hidden @ made[2].weight.T + made[2].bias)


def test_functions_of_other_kinds_are_one_line(tmp_path: Path) -> None:
    run = write_later_spd_run(tmp_path)
    state = torch.load(run.checkpoint)
    state["ci_fn._global_ci_fn._input_projector.W"] = torch.zeros(2, 2)
    torch.save(state, run.checkpoint)
    with pytest.raises(CannotLoad, match="global_shared_mlp") as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)
