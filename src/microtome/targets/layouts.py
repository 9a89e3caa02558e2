"""State dicts of other codes, carried over to our layout: matrices in first, instance axis in front."""

import re
from collections.abc import Mapping

from torch import Tensor

from microtome.core.errors import CannotLoad

State = dict[str, Tensor]

# Decomposition checkpoints of the SPD paper's code, and of its later versions, hold the target under these.
_TARGET_PREFIXES = ("target_model.", "patched_model.", "model.")
# Names in files of the APD code, the second and third in its first files only.
_OLD_NAMES = (
    (re.compile(r"^W$"), "linear1.weight"),
    (re.compile(r"^(layers\.\d+)\.linear1(?:\.weight)?$"), r"\1.mlp_in.weight"),
    (re.compile(r"^(layers\.\d+)\.linear2(?:\.weight)?$"), r"\1.mlp_out.weight"),
    (re.compile(r"^(layers\.\d+)\.bias1$"), r"\1.mlp_in.bias"),
    (re.compile(r"^(layers\.\d+)\.bias2$"), r"\1.mlp_out.bias"),
)


def target_part(state: Mapping[str, Tensor]) -> State:
    """The target's own tensors, out of a target file or of a decomposition checkpoint that contains it."""
    for prefix in _TARGET_PREFIXES:
        inner = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        if (
            inner
        ):  # wrapped layers: their own weight is called original, their components are none of the target's
            return {k.replace(".original.", "."): t for k, t in inner.items() if ".components." not in k}
    return dict(state)


def renamed(state: Mapping[str, Tensor]) -> State:
    """The tensors under today's names."""
    out: State = {}
    for key, value in state.items():
        for pattern, new in _OLD_NAMES:
            key = pattern.sub(new, key)
        out[key] = value
    return out


def kind_of(state: Mapping[str, Tensor]) -> str | None:
    """``tms``, ``resid_mlp`` or ``ih``, by the tensors of a target; None for another network."""
    names = renamed(state)
    if "token_embed.weight" in names and "blocks.0.attn.out_proj.weight" in names:
        return "ih"
    if "W_E" in names and "W_U" in names:
        return "resid_mlp"
    return "tms" if "linear1.weight" in names and names.keys() & {"b_final", "linear2.bias"} else None


def tms_state(state: Mapping[str, Tensor], source: object) -> tuple[State, bool]:
    """TMS tensors in our layout, and whether the last layer is tied to the first.

    Understands ours and the original APD code's (``linear1.weight [K, n, h]``, ``b_final``) and the SPD
    paper's (``nn.Linear``: ``linear1.weight [h, n]``, ``linear2.weight [n, h]``, ``linear2.bias``).
    """
    state = renamed(state)
    first = _tensor(state, "linear1.weight", source)
    if first.ndim == 3:
        return dict(state), "linear2.weight" not in state
    ours = _transposed(state)
    last = ours.pop("linear2.weight", None)
    ours["b_final"] = _tensor(ours, "linear2.bias", source)
    del ours["linear2.bias"]
    tied = last is None or bool((last == ours["linear1.weight"].transpose(1, 2)).all())
    if not tied and last is not None:
        ours["linear2.weight"] = last
    return ours, tied


def resid_mlp_state(state: Mapping[str, Tensor], source: object) -> State:
    """ResidMLP tensors in our layout, from ours and APD's (with K) or the SPD paper's (``nn.Linear``)."""
    named = renamed(state)
    if _tensor(named, "W_E", source).ndim == 3:
        return named
    embedding = {key: named.pop(key).unsqueeze(0) for key in ("W_E", "W_U") if key in named}
    return {**embedding, **_transposed(named)}


def induction_state(state: Mapping[str, Tensor], source: object) -> State:
    """Tensors of the induction-head toy, from ours (with K) or the SPD code's (``nn.Linear``)."""
    embedding = _tensor(state, "token_embed.weight", source)
    if embedding.ndim == 3:
        return dict(state)
    kept = {key: value for key, value in state.items() if not key.endswith("pe")}  # sinusoids
    del kept["token_embed.weight"]
    return {"token_embed.weight": embedding.unsqueeze(0), **_transposed(kept)}


def _transposed(state: Mapping[str, Tensor]) -> State:
    """``nn.Linear`` tensors (out first, no instances) as ours (in first, one instance)."""
    return {
        key: (value.T if value.ndim == 2 else value).unsqueeze(0).contiguous() for key, value in state.items()
    }


def _tensor(state: Mapping[str, Tensor], name: str, source: object) -> Tensor:
    if name not in state:
        raise CannotLoad(
            f"{source}: has no tensor {name} (it has {', '.join(list(state)[:6]) or 'none'}); "
            "is it a checkpoint of this kind of network?"
        )
    return state[name]
