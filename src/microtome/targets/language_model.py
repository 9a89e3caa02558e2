"""Hugging Face causal language models, frozen, with their layers under one name for all families."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from microtome.core.device import resolve_device
from microtome.core.errors import bad_value
from microtome.targets.module_paths import check_template, count_layers, find_site
from microtome.targets.pretrained import find_model, load_pretrained
from microtome.targets.token_losses import sum_token_losses

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass
class LanguageModel:
    """A causal language model and its tokenizer. The model is frozen and in evaluation mode."""

    model: Any
    tokenizer: Any
    name: str
    family: str
    """``config.model_type``."""
    n_layers: int
    d_model: int
    context_length: int
    module_path: str | None = None
    """A template with ``{layer}`` that stands for every site, where the architecture is not in the table."""

    def path(self, layer: int, site: str = "mlp") -> str:
        """Dotted path of a site (``mlp``, ``mlp_out`` or ``resid``) of layer ``layer``, for `hooks`.

        Raises ``MicrotomeError`` for a layer out of range and for an architecture that is not known.
        """
        if not 0 <= layer < self.n_layers:
            raise bad_value(
                "layer",
                layer,
                f"{self.name} has {self.n_layers} layers",
                f"choose from 0 to {self.n_layers - 1}",
            )
        if self.module_path is not None:
            return self.module_path.replace("{layer}", str(layer))
        return find_site(self.model, self.family, layer, site)

    @property
    def device(self) -> torch.device:
        """Where the input tokens belong: the device of the embedding, for sharded models too."""
        return self.model.get_input_embeddings().weight.device


def load_language_model(
    name: str,
    *,
    device: str = "auto",
    dtype: str = "float32",
    device_map: str | None = None,
    site_path: str | None = None,
    runs_root: str | Path = Path("runs"),
) -> LanguageModel:
    """Load a causal language model and its tokenizer.

    ``name`` is a Hugging Face name, a local folder, a run folder of ``microtome train language-model``, or
    ``latest``. ``device_map`` (such as ``auto``) spreads the model over devices by accelerate, otherwise it
    goes to ``device``. ``site_path`` names the module of a layer where the architecture is unknown. Raises
    ``MicrotomeError`` in one line for what cannot be loaded.
    """
    if dtype not in DTYPES:
        raise bad_value("dtype", dtype, "unknown number type", f"choose {', '.join(DTYPES)}")
    where = find_model(name, Path(runs_root))
    model, tokenizer = load_pretrained(where, DTYPES[dtype], device_map)
    if device_map is None:
        model.to(resolve_device(device))
    return wrap(model, tokenizer, name, site_path)


def wrap(model: Any, tokenizer: Any, name: str, site_path: str | None = None) -> LanguageModel:
    """A loaded Hugging Face model as a frozen ``LanguageModel``. Raises ``MicrotomeError``."""
    model.requires_grad_(False).eval()
    config = model.config.get_text_config()
    family = str(model.config.model_type)
    if site_path is not None:
        n_layers = count_layers(model, check_template(model, site_path))
    else:
        first = find_site(model, family, 0, "resid")
        n_layers = count_layers(model, first.removesuffix("0") + "{layer}")
    return LanguageModel(
        model=model,
        tokenizer=tokenizer,
        name=name,
        family=family,
        n_layers=n_layers,
        d_model=int(config.hidden_size),
        context_length=_context_length(config, tokenizer),
        module_path=site_path,
    )


def _context_length(config: Any, tokenizer: Any) -> int:
    for field in ("max_position_embeddings", "n_positions", "n_ctx", "seq_length", "max_seq_len"):
        value = getattr(config, field, None)
        if isinstance(value, int) and value > 0:
            return value
    return min(int(getattr(tokenizer, "model_max_length", 0) or 10**6), 10**6)


def token_losses(
    lm: LanguageModel,
    input_ids: Int[Tensor, "B T"],
    attention_mask: Int[Tensor, "B T"],
    chunk: int | None = None,
) -> tuple[Float[Tensor, ""], int]:
    """Sum of token losses in nats (with its graph) and their number; see ``sum_token_losses``."""
    return sum_token_losses(lm.model, input_ids.to(lm.device), attention_mask.to(lm.device), chunk)
