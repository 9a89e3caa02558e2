"""Where each family of language models keeps its layers: one table, by the configuration's ``model_type``."""

import re
from dataclasses import dataclass

from torch import nn

from microtome.core.errors import MicrotomeError, bad_value

SITES = ("mlp", "mlp_out", "resid")

_LLAMA = ("model.layers.{layer}",)
_GPT2 = ("transformer.h.{layer}",)


@dataclass(frozen=True)
class Family:
    """Module paths of one architecture; where versions of transformers differ, the alternatives in order."""

    blocks: tuple[str, ...]
    mlp: tuple[str, ...] = ("mlp",)
    post_norm: str | None = None
    """The norm between the MLP and the residual stream, where there is one."""


# By config.model_type. Yi is a llama, Zephyr a mistral.
FAMILIES: dict[str, Family] = {
    "llama": Family(_LLAMA),
    "mistral": Family(_LLAMA),
    "mixtral": Family(_LLAMA, mlp=("mlp", "block_sparse_moe")),
    "qwen2": Family(_LLAMA),
    "qwen3": Family(_LLAMA),
    "qwen2_moe": Family(_LLAMA),
    "qwen3_moe": Family(_LLAMA),
    "phi3": Family(_LLAMA),
    "olmo2": Family(_LLAMA, post_norm="post_feedforward_layernorm"),
    "gemma": Family(_LLAMA),
    "gemma2": Family(_LLAMA, post_norm="post_feedforward_layernorm"),
    "gemma3_text": Family(_LLAMA, post_norm="post_feedforward_layernorm"),
    "gemma3": Family(
        ("model.language_model.layers.{layer}", "language_model.model.layers.{layer}", *_LLAMA),
        post_norm="post_feedforward_layernorm",
    ),
    "gpt2": Family(_GPT2),
    "gptj": Family(_GPT2),
    "gpt_neo": Family(_GPT2),
    "gpt_neox": Family(("gpt_neox.layers.{layer}",)),
}


def find_site(model: nn.Module, model_type: str, layer: int, site: str) -> str:
    """Dotted path of one site of one layer.

    ``mlp`` is the feed-forward module, ``mlp_out`` what it adds to the residual stream (after the
    post-feed-forward norm of Gemma 2 and 3 and OLMo 2; TransformerLens' ``hook_mlp_out``), ``resid`` the
    residual stream after the layer. Raises ``MicrotomeError`` for an unknown architecture, listing the paths
    that it could be.
    """
    if site not in SITES:
        raise bad_value("site", site, "unknown site", f"choose {', '.join(SITES)}")
    family = FAMILIES.get(model_type)
    block = None
    if family is not None:
        paths = [path.format(layer=layer) for path in family.blocks]
        block = next((path for path in paths if has_module(model, path)), None)
    if family is None or block is None:
        raise unknown_architecture(model, model_type)
    if site == "resid":
        return block
    if site == "mlp_out" and family.post_norm is not None:
        return f"{block}.{family.post_norm}"
    mlp = next((name for name in family.mlp if has_module(model, f"{block}.{name}")), None)
    if mlp is None:
        raise unknown_architecture(model, model_type)
    return f"{block}.{mlp}"


def count_layers(model: nn.Module, template: str) -> int:
    """How many layers ``0, 1, ...`` the template with ``{layer}`` finds."""
    layer = 0
    while has_module(model, template.replace("{layer}", str(layer))):
        layer += 1
    return layer


def has_module(model: nn.Module, path: str) -> bool:
    """Whether the model has a module of this dotted path."""
    try:
        model.get_submodule(path)
    except AttributeError:
        return False
    return True


_FEED_FORWARD = re.compile(r"(^|_)(mlp|ffn|ff|moe|feed_?forward|dense_?ff)(_|$)|mlp|feed_?forward", re.I)


def candidate_paths(model: nn.Module) -> list[str]:
    """Templates with ``{layer}`` of repeated blocks, those that hold a feed-forward module first."""
    blocks = [
        (name, child)
        for name, child in model.named_modules()
        if isinstance(child, nn.ModuleList) and len(child) and not re.search(r"\.\d+(\.|$)", name)
    ]
    found = []
    for name, children in blocks:
        inner = [child for child, _ in children[0].named_children() if _FEED_FORWARD.search(child)]
        found += [f"{name}.{{layer}}.{child}" for child in inner]
    return found or [f"{name}.{{layer}}" for name, _ in blocks]


def unknown_architecture(model: nn.Module, model_type: str) -> MicrotomeError:
    """The one-line answer for an architecture that the table does not hold."""
    candidates = candidate_paths(model)
    listed = f"; it could be {', '.join(candidates)}" if candidates else "; it has no repeated blocks"
    example = candidates[0] if candidates else "model.layers.{layer}.mlp"
    return MicrotomeError(
        f"model_type={model_type!r}: no known module paths{listed}; name one with --module_path '{example}'"
    )


def check_template(model: nn.Module, template: str) -> str:
    """The template, when it finds a module. Raises ``MicrotomeError`` in one line."""
    if "{layer}" not in template:
        raise bad_value(
            "module_path", template, "has no {layer} in it", "write a path like model.layers.{layer}.mlp"
        )
    if not count_layers(model, template):
        candidates = candidate_paths(model)
        mend = f"it could be {', '.join(candidates)}" if candidates else "print model.named_modules()"
        raise bad_value("module_path", template, "finds no module in this model", mend)
    return template
