"""The analysis as one Python call."""

from collections.abc import Sequence
from typing import Any

from microtome.core.errors import MicrotomeError
from microtome.gradients.config import FeaturesConfig, GradientConfig, LayersConfig
from microtome.gradients.result import GradientResult
from microtome.gradients.run import run
from microtome.targets.language_model import LanguageModel, wrap


def layer_importance(
    model: Any, texts: Sequence[str] | str = "builtin", *, tokenizer: Any = None, **settings: Any
) -> GradientResult:
    """Which dimensions of each layer's activations move the loss.

    ``model``: a name or folder, a ``LanguageModel``, or a Hugging Face model with its ``tokenizer``;
    ``texts``: the samples, or a dataset as for ``--dataset``; ``settings``: fields of ``LayersConfig``, as in
    ``layers="0-5"``. Raises ``MicrotomeError``.
    """
    return _importance(LayersConfig, model, texts, tokenizer, settings)


def feature_importance(
    model: Any,
    texts: Sequence[str] | str = "builtin",
    sae: str | None = None,
    *,
    tokenizer: Any = None,
    **settings: Any,
) -> GradientResult:
    """Which dictionary features of each layer move the loss; ``.top(20, layer=5)`` ranks by attribution.

    ``sae``: the dictionaries, as ``--sae_path`` takes them. The rest as for ``layer_importance``, with the
    fields of ``FeaturesConfig``.
    """
    return _importance(FeaturesConfig, model, texts, tokenizer, {"sae_path": sae, **settings})


def _importance(
    kind: type[GradientConfig],
    model: Any,
    texts: Sequence[str] | str,
    tokenizer: Any,
    settings: dict[str, Any],
) -> GradientResult:
    settings = {"device": "auto", **settings}
    if isinstance(texts, str):
        settings.setdefault("dataset", texts)
    else:
        texts = list(texts)
        settings.setdefault("num_samples", max(len(texts), 1))
    lm = None
    if isinstance(model, LanguageModel):
        lm = model
    elif not isinstance(model, str) and hasattr(model, "get_input_embeddings"):
        if tokenizer is None:
            raise MicrotomeError("tokenizer=None: a model needs its tokenizer beside it; give tokenizer=...")
        name = str(getattr(model.config, "_name_or_path", "") or type(model).__name__)
        lm = wrap(model, tokenizer, name, settings.get("module_path"))
    settings["model_name"] = lm.name if lm is not None else str(model)
    config = kind.from_mapping(settings)
    finished = run(
        config,
        lm=lm,
        texts=None if isinstance(texts, str) else texts,
        show_progress=False,
        command=("python",),
    )
    assert finished is not None, "the result is with the main process"
    return finished.result
