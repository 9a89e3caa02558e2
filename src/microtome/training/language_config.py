"""Configuration of small language models trained from nothing. Torch free."""

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from microtome.core.config import Config, Probability
from microtome.core.errors import bad_value

__all__ = ["LanguageModelTrainConfig"]


class LanguageModelTrainConfig(Config):
    """Training of a small Llama- or Qwen-shaped language model, with a byte-level BPE tokenizer of its own.

    The defaults take about 90 CPU seconds and reach about 4.1 nats a token on held-out text: enough to try
    the other commands on real language, not enough to say anything about large models.
    """

    dataset: str = "builtin"
    """Text to train on: builtin (the topics of Python's own documentation), a .txt, .jsonl, .csv or .parquet
    file, a folder of those, or a dataset on the Hugging Face hub. Every tenth part is held out."""
    text_field: str | None = None
    """The column that holds the text; left out, `text` or the only one."""
    architecture: Literal["qwen2", "llama"] = "qwen2"
    """Whose layers: Qwen 2 (biases in the attention) or Llama."""
    vocab_size: int = Field(default=2048, ge=257)
    """Tokens of the vocabulary, the 256 bytes and the end-of-text token among them."""
    d_model: PositiveInt = 128
    """Width of the residual stream."""
    n_layers: PositiveInt = 4
    n_heads: PositiveInt = 4
    n_key_value_heads: PositiveInt | None = 2
    """Heads of keys and values; null: as many as n_heads."""
    d_mlp: PositiveInt = 344
    """Width of the MLPs."""
    tie_embeddings: bool = True
    """Read tokens out by the matrix that reads them in."""
    context_length: int = Field(default=128, ge=2)
    """Tokens of one training sequence, and the longest input of the model."""
    batch_size: PositiveInt = 16
    """Sequences of a step."""
    steps: PositiveInt = 400
    lr: PositiveFloat = 2e-3
    lr_schedule: Literal["constant", "linear", "cosine", "cosine_half"] = "cosine_half"
    """`cosine_half` is what most code calls cosine; `cosine` the quarter wave of the APD and SPD codes."""
    lr_warmup_pct: Probability = 0.05
    """Share of the steps in which the learning rate rises from zero."""
    weight_decay: float = Field(default=0.1, ge=0)
    """AdamW's, on matrices only."""
    grad_clip: PositiveFloat | None = 1.0
    """Longest gradient; null: no clipping."""
    seed: NonNegativeInt = 0
    """Start values and the order of the text."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    threads: PositiveInt | None = None
    """Threads of one operation; left out, OMP_NUM_THREADS or as many as there are idle cores."""
    print_freq: PositiveInt = 20
    """Steps between two lines of ``metrics.jsonl``."""
    eval_freq: PositiveInt | None = 100
    """Steps between two measurements of the held-out loss; null: at the end only."""
    tracker: Literal["none", "wandb", "tensorboard"] | None = None
    """Where metrics go besides the run folder; null: `wandb` when wandb_project is set, else none."""
    wandb_project: str | None = None
    """Weights & Biases project; naming one turns that tracking on."""

    @model_validator(mode="after")
    def _check(self) -> "LanguageModelTrainConfig":
        if self.d_model % (2 * self.n_heads):
            raise bad_value(
                "d_model",
                self.d_model,
                f"does not split into {self.n_heads} heads of even width",
                f"make it a multiple of {2 * self.n_heads}",
            )
        if self.n_heads % self.key_value_heads:
            raise bad_value(
                "n_key_value_heads",
                self.n_key_value_heads,
                f"does not divide n_heads={self.n_heads}",
                "give a divisor of n_heads, or null",
            )
        return self

    @property
    def key_value_heads(self) -> int:
        """Heads of keys and values."""
        return self.n_key_value_heads or self.n_heads
