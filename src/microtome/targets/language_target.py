"""Any Hugging Face causal language model as a target: token ids in, logits out."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from microtome.core.errors import MicrotomeError, bad_value
from microtome.targets.batched import check_instances
from microtome.targets.language_spec import model_spec, tokenizer_spec
from microtome.targets.module_target import ModuleTarget
from microtome.targets.network import SiteFunction
from microtome.targets.recomputing import blocks_of, recomputed
from microtome.targets.site_calls import SiteCalls


def is_language_model(model: Any) -> bool:
    """Whether it is a model of transformers with a head that predicts tokens."""
    head = getattr(model, "get_output_embeddings", None)
    return hasattr(model, "config") and callable(head) and head() is not None


class LanguageTarget(ModuleTarget):
    """A frozen causal language model: ids ``[K, B, T]`` to logits ``[K, B, T, vocab]``.

    ``model`` is what transformers' ``AutoModelForCausalLM`` makes; ``patterns`` and ``identities`` choose its
    sites as in ``ModuleTarget``. No cache, no dropout, every position sees those before it. ``tokenizer`` may
    be None where no text is read. ``checkpointing`` keeps only the input of every decoder layer and computes
    the layer again in the backward pass. ``copy=False`` takes the model itself instead of a copy.

    Raises MicrotomeError for what is no causal language model and for a pattern that matches nothing.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any = None,
        patterns: Sequence[str] = ("*",),
        identities: Sequence[str] = (),
        *,
        n_instances: int = 1,
        checkpointing: bool = False,
        sharing: Mapping[str, Mapping[str, str]] | None = None,
        copy: bool = True,
    ) -> None:
        if not is_language_model(model):
            raise bad_value(
                "model",
                type(model).__name__,
                "no Hugging Face causal language model",
                "load one with its head",
            )
        super().__init__(model, patterns, n_instances, "logits", sharing, identities, copy=copy)
        self.tokenizer = tokenizer
        self.checkpointing = checkpointing

    @property
    def n_tokens(self) -> int:
        """Rows of the embedding: ids run from 0 to one less."""
        return int(self.module.get_input_embeddings().weight.shape[0])  # pyright: ignore

    @property
    def context_length(self) -> int | None:
        """The longest text the model was made for, in tokens, where its configuration tells."""
        config = self.module.config.get_text_config()  # pyright: ignore
        fields = ("max_position_embeddings", "n_positions", "n_ctx", "seq_length", "max_seq_len")
        values = [getattr(config, field, None) for field in fields]
        return next((value for value in values if isinstance(value, int) and value > 0), None)

    def forward(
        self, x: Shaped[Tensor, "K B *T"], site: SiteFunction | None = None
    ) -> Float[Tensor, "K B *d_out"]:
        """Logits. Raises MicrotomeError for inputs that are no ids of this model."""
        if x.is_floating_point() or x.ndim != 3:
            raise MicrotomeError(
                f"x of type {x.dtype} and shape {list(x.shape)}: not token ids [K, B, T]; "
                "give the tokenizer's ids"
            )
        try:
            return super().forward(x, site)
        except IndexError as error:
            raise self._out_of_range(x) or error from error

    def select(self, instances: Sequence[int]) -> "LanguageTarget":
        """The instances share this target's model: a language model is not copied for each."""
        check_instances(instances, self.n_instances)
        chosen = LanguageTarget(
            self.module,
            self.tokenizer,
            self.patterns,
            self.identities,
            n_instances=len(instances),
            checkpointing=self.checkpointing,
            sharing=self.sharing,
            copy=False,
        )
        chosen.probed = self.probed
        return chosen

    def spec(self) -> dict[str, Any]:
        return {
            "kind": "language_model",
            "model": model_spec(self.module),
            "tokenizer": tokenizer_spec(self.tokenizer),
            "patterns": self.patterns,
            "n_instances": self.n_instances,
            "sharing": self.sharing,
            "identities": self.identities,
            "checkpointing": self.checkpointing,
        }

    def _run(self, rows: Tensor, calls: SiteCalls | None) -> Any:
        if calls is not None and self.checkpointing and torch.is_grad_enabled():
            with recomputed(blocks_of(self.module), calls):
                return self.module(rows, use_cache=False)
        return self.module(rows, use_cache=False)

    def _out_of_range(self, x: Tensor) -> MicrotomeError | None:
        low, high = int(x.min()), int(x.max())
        if low < 0 or high >= self.n_tokens:
            return bad_value(
                "x",
                high if low >= 0 else low,
                f"no token of this model, which has {self.n_tokens}",
                "use the model's own tokenizer",
            )
        longest = self.context_length
        if longest is not None and x.shape[-1] > longest:
            return bad_value(
                "context_length", x.shape[-1], f"the model reads {longest} tokens", "use shorter windows"
            )
        return None
