"""Describing a Hugging Face model and its tokenizer so that they can be made again without a network."""

import base64
import importlib
import json
import zlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from microtome.core.errors import CannotLoad
from microtome.core.hub import need

_DTYPES = {str(dtype): dtype for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16)}


def model_spec(model: Any) -> dict[str, Any]:
    """JSON-able: the class, its configuration, the kind of attention and the number type."""
    return {
        "class": f"{type(model).__module__}:{type(model).__qualname__}",
        "config_class": f"{type(model.config).__module__}:{type(model.config).__qualname__}",
        "config": json.loads(model.config.to_json_string(use_diff=False)),
        "attention": getattr(model.config, "_attn_implementation", None),
        "dtype": str(next(model.parameters()).dtype),
    }


def build_model(spec: Mapping[str, Any]) -> nn.Module:
    """The model of a ``model_spec``, weights not yet loaded. Raises CannotLoad."""
    need("transformers", "a language model")
    config_class, model_class = _imported(spec["config_class"]), _imported(spec["class"])
    try:
        config = config_class.from_dict(dict(spec["config"]))
        if spec.get("attention") is not None:
            config._attn_implementation = spec["attention"]
        with torch.random.fork_rng(devices=[]):  # initial weights are overwritten
            model = model_class(config)
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CannotLoad(
            f"{spec['class']}: cannot be made again from its configuration ({first}); pass the model"
            " yourself: microtome.load(path, module=...)"
        ) from error
    return model.to(_DTYPES.get(spec["dtype"], torch.float32)).eval()


def tokenizer_spec(tokenizer: Any) -> dict[str, Any] | None:
    """JSON-able: the whole of a tokenizer of the tokenizers library, of others the name."""
    if tokenizer is None:
        return None
    spec: dict[str, Any] = {"name": str(getattr(tokenizer, "name_or_path", "")) or None}
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        packed = zlib.compress(backend.to_str().encode(), 9)
        spec["tokenizer_json"] = base64.b64encode(packed).decode()
        spec["special_tokens"] = {
            k: str(v) for k, v in tokenizer.special_tokens_map.items() if isinstance(v, str)
        }
    return spec


def build_tokenizer(spec: Mapping[str, Any] | None) -> Any:
    """The tokenizer of a ``tokenizer_spec``; None where there was none or it cannot be had offline."""
    if spec is None:
        return None
    transformers = need("transformers", "a language model")
    if "tokenizer_json" in spec:
        from tokenizers import Tokenizer

        text = zlib.decompress(base64.b64decode(spec["tokenizer_json"])).decode()
        return transformers.PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_str(text), **spec.get("special_tokens", {})
        )
    try:
        return transformers.AutoTokenizer.from_pretrained(spec["name"], local_files_only=True)
    except Exception:  # what is missing is told by whoever needs it
        return None


def _imported(name: str) -> Any:
    module_name, _, class_name = name.partition(":")
    try:
        return getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError):
        raise CannotLoad(
            f"{name}: this class cannot be imported here; install the transformers version that has it, or"
            " pass the model yourself: microtome.load(path, module=...)"
        ) from None
