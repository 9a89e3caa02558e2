"""Settings of dictionary training. Torch free."""

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from microtome.core.config import Config, Probability
from microtome.core.errors import bad_value
from microtome.dictionaries.config import Architecture, DictionaryConfig, Site

SPARSE = ("topk", "batch_topk", "matryoshka")  # architectures whose step touches active features only


class DictionaryTraining(Config):
    """Training of one dictionary on each site that is given, on whatever activations."""

    architecture: Architecture = "batch_topk"
    """batch_topk, topk, matryoshka, jumprelu, gated or relu."""
    n_features: PositiveInt | None = None
    """Features of each dictionary; null: ``expansion`` times the width of the activations."""
    expansion: PositiveInt = 16
    k: PositiveInt = 32
    """Features that act on one input: of every one (topk), on average (batch_topk, matryoshka), or the mean
    that the sparsity penalty is steered to (jumprelu, gated, relu)."""
    prefixes: list[PositiveInt] | None = None
    """Sizes of the nested dictionaries of matryoshka; null: 1/16, 1/8, 1/4, 1/2 and all features."""
    steps: PositiveInt = 2000
    batch_size: PositiveInt = 1024
    """Inputs (tokens) a step, over all processes together."""
    lr: PositiveFloat | None = None
    """Adam's; null: 3e-4 sqrt(16384 / n_features), and sqrt(20000 / steps) times as much for fewer than
    20,000 steps, at most 6e-3; jumprelu half of it."""
    lr_warmup_pct: Probability = 0.05
    """Share of the steps in which the learning rate rises from 0."""
    lr_decay_pct: Probability = 0.2
    """Share of the steps, at the end, in which it falls to 0."""
    encoder_dtype: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 chooses the active features by a product in half the precision, twice as fast or more; their
    values are float32 all the same. Sparse architectures only."""
    normalise: bool = True
    """Train on activations times one factor that makes their mean length sqrt(width); folded into the
    weights afterwards."""
    centre: Literal["mean", "geometric_median", "zero"] = "mean"
    """Where the decoder's bias starts."""
    aux_weight: float = Field(default=1 / 32, ge=0)
    """Weight of the loss that lets dead features reconstruct what is left over (sparse architectures)."""
    resample: tuple[Probability, ...] = (0.25, 0.5, 0.75)
    """When dead features are started again from badly reconstructed inputs, in shares of the steps (gated,
    relu; those of jumprelu get lower thresholds until they act)."""
    dead_after: PositiveInt | None = None
    """A feature is dead when it did not act on that many inputs; null: a tenth of all, at most 10 million."""
    penalty: PositiveFloat = 0.1
    """First weight of the sparsity penalty, which is then steered to ``k`` (jumprelu, gated, relu)."""
    bandwidth: PositiveFloat = 0.3
    """Width of the straight-through estimator of jumprelu, in shares of its first threshold."""
    shuffle: bool = True
    """Mix inputs within the buffer."""
    buffer: PositiveInt | None = None
    """Inputs kept to be mixed; null: 64 batches, at most 1 GiB for all sites together."""
    seed: int = 0
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    print_freq: PositiveInt = 50
    """Steps between two lines of ``metrics.jsonl``."""
    save_freq: PositiveInt | None = None
    """Steps between two checkpoints; null: every 30 seconds."""

    @model_validator(mode="after")
    def _check(self) -> "DictionaryTraining":
        if self.architecture == "groupmax":
            raise bad_value("architecture", "groupmax", "can be read, not trained", "choose topk")
        if self.n_features is not None and self.k > self.n_features:
            raise bad_value("k", self.k, f"there are only n_features={self.n_features}", "make it smaller")
        if self.prefixes is not None and self.architecture != "matryoshka":
            raise bad_value("prefixes", self.prefixes, "only matryoshka has them", "leave them out")
        if self.lr_warmup_pct + self.lr_decay_pct > 1:
            raise bad_value("lr_decay_pct", self.lr_decay_pct, "warm-up and decay exceed 1", "lower it")
        return self

    def dictionary(self, d_in: int, **place: object) -> DictionaryConfig:
        """The configuration of a dictionary of activations ``d_in`` wide. Raises ``MicrotomeError``."""
        n_features = self.n_features or self.expansion * d_in
        if self.k > n_features:
            raise bad_value("k", self.k, f"there are only {n_features} features", "make it smaller")
        prefixes: list[int] = []
        if self.architecture == "matryoshka":
            prefixes = self.prefixes or sorted({max(n_features >> i, 1) for i in range(5)})
            prefixes = prefixes if prefixes[-1] >= n_features else [*prefixes, n_features]
        return DictionaryConfig.from_mapping(
            {
                "architecture": self.architecture,
                "d_in": d_in,
                "n_features": n_features,
                "k": self.k,
                "prefixes": prefixes,
                **place,
            }
        )

    def learning_rate(self, n_features: int) -> float:
        """The base learning rate."""
        if self.lr is not None:
            return self.lr
        rate = min(3e-4 * (16384 / n_features * max(20000 / self.steps, 1.0)) ** 0.5, 6e-3)
        return rate / 2 if self.architecture == "jumprelu" else rate

    def rate_factor(self, step: int) -> float:
        """The factor on the learning rate at ``step``: up linearly, flat, down linearly."""
        up = (step + 1) / max(self.steps * self.lr_warmup_pct, 1)
        down = (self.steps - step) / max(self.steps * self.lr_decay_pct, 1)
        return min(up, down, 1.0)

    def patience(self) -> int:
        """Inputs without acting after which a feature counts as dead."""
        return self.dead_after or max(min(self.steps * self.batch_size // 10, 10_000_000), 1)


class DictionaryTrainConfig(DictionaryTraining):
    """Training of dictionaries on the activations of a language model, one a layer, on the same pass."""

    model: str = "latest"
    """A `microtome train language-model` run, latest, a local folder or a Hugging Face name."""
    layers: str = "all"
    """Layers such as 0-3 or 0,5,10; one dictionary each."""
    site: Site = "mlp"
    """mlp (what the MLP gives out), mlp_out (what reaches the residual stream, after a norm where there is
    one), or resid (the residual stream after the layer)."""
    dataset: str = "builtin"
    """builtin, a text file or folder, or a dataset on the Hugging Face hub."""
    text_field: str | None = None
    """The column of the dataset that holds the text."""
    split: str = "train"
    """The part of the dataset."""
    max_length: PositiveInt = 128
    """Tokens of one text."""
    texts_at_once: PositiveInt = 32
    """Texts in one forward pass."""
    skip_first: bool = False
    """Leave the first token of every text out, whose activations are huge in many models."""
    max_norm_multiple: PositiveFloat | None = 10.0
    """Leave out tokens whose activation is longer than this many times the median; null: none."""
    model_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Number type of the language model."""
    device_map: str | None = None
    """`auto` spreads the language model over all devices."""
    module_path: str | None = None
    """Module of a layer, such as model.layers.{layer}.mlp, for an unknown architecture."""
    format: Literal["sparsify", "saelens", "dictionary_learning"] | None = None
    """How the dictionaries are written; null: sparsify where it can hold them, else saelens."""
    evaluate: bool = True
    """Measure the dictionaries on held-out text at the end."""
    threads: PositiveInt | None = None
    """Threads of one operation; null chooses by the size of the work."""
    tracker: Literal["none", "wandb", "tensorboard"] = "none"
    """Where metrics go besides the run folder."""
    wandb_project: str | None = None
