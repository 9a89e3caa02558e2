"""Settings of a gradient analysis. Imports no torch."""

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from microtome.core.config import Config
from microtome.core.errors import bad_value

AggregateBy = Literal["gradients", "active_gradients", "attribution", "values"]


class GradientConfig(Config):
    """What layers and features have in common."""

    renamed: ClassVar[dict[str, str]] = {"normalize_mode": "normalize_gradients"}

    model_name: str = "Qwen/Qwen2.5-0.5B"
    """A Hugging Face name, a local folder, a `microtome train language-model` run, or latest."""
    num_samples: int = Field(500, ge=1)
    """Number of text samples."""
    batch_size: int = Field(4, ge=1)
    """Samples a pass; results do not depend on it."""
    max_length: int = Field(128, ge=2)
    """Tokens of a sample that are read at most."""
    layers: str | None = None
    """Layers such as 0-23, 0,5,10 or 0-5,10; null takes all."""
    device: str = "cuda"
    """cuda, cpu, mps or auto; without a GPU the CPU is taken, with a notice."""
    aggregation_mode: Literal["mean", "mean_abs", "both"] = "mean_abs"
    """mean (signed: direction), mean_abs (magnitude), or both."""
    aggregate_by: AggregateBy = "gradients"
    """What is averaged: gradients, active_gradients (where a feature fires), attribution (gradient times
    activation), or values (activations)."""
    power: float = Field(1.0, gt=0)
    """Means are raised to this power, keeping their sign."""
    normalize_gradients: Literal["none", "sum", "sum_abs", "both", "all"] = "none"
    """Scale each layer so that its absolute values (sum_abs) or values (sum) add up to their number. The bare
    flag means sum_abs."""
    save_outputs: bool = False
    """Write pictures, arrays and metadata into an automatically named folder."""
    save_consolidated: Path | None = None
    """Write all layers into this .npz file; save_outputs alone writes consolidated_results.npz."""
    output_root: Path = Path()
    """Where the automatically named folder is made; the working folder unless given."""
    dataset: str | None = None
    """builtin, a text file or folder, or a dataset on the Hugging Face hub. null: wikitext-2, or the builtin
    text for a model that microtome trained."""
    text_field: str | None = None
    """The column of the dataset that holds the text."""
    split: str = "train"
    """The part of the dataset."""
    site: Literal["mlp", "mlp_out", "resid"] | None = None
    """The MLP's output, its contribution to the residual stream (after a norm, where there is one), or the
    residual stream after the layer. null: mlp, or what the dictionary says."""
    module_path: str | None = None
    """Module of a layer, such as model.layers.{layer}.mlp, for an unknown architecture."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Number type of the model's weights; sums are in float64."""
    device_map: str | None = None
    """Spread the model over several devices, such as auto (needs accelerate)."""
    activation_checkpointing: bool = False
    """Keep one layer's activations instead of all, for one more forward pass."""
    loss_scale: Literal["sum", "batch_mean"] = "sum"
    """sum: the summed loss of real tokens, independent of batches. batch_mean: the original's mean over a
    padded batch, padding scored, averaged over batches."""
    position_stride: int = Field(1, ge=1)
    """Count every such position only; the original took every 4th for features."""
    skip_special_tokens: bool = False
    """Leave positions of special tokens (such as the first) out of the means."""
    max_norm_multiple: float | None = Field(None, gt=0)
    """Leave out positions whose activation is so many times longer than the layer's median."""
    max_tokens_in_memory: int = Field(2048, ge=1)
    """Tokens whose activations and gradients are held at a time; lower it when memory runs out."""
    top_tokens: int = Field(5, ge=0, le=100)
    """Tokens listed for each of the strongest values."""
    validate_top: int = Field(0, ge=0)
    """Check the scores of so many values a layer by true ablation (also: --validate N)."""
    no_plots: bool = False
    """Draw no pictures."""
    threads: int | None = Field(None, ge=1)
    """Threads of torch; null chooses by the size of the model."""
    seed: int = 0
    """Seed of the features that are drawn for validation."""

    @field_validator("layers", mode="before")
    @classmethod
    def _as_words(cls, value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return ",".join(str(item) for item in value)
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("layers")
    @classmethod
    def _readable(cls, value: str | None) -> str | None:
        from microtome.targets.layer_list import parse_layers

        if value is not None and value.strip() != "all":
            parse_layers(value)
        return value

    @field_validator("normalize_gradients", mode="before")
    @classmethod
    def _switch(cls, value: Any) -> Any:
        # The README's flag is a switch; later versions give it a value.
        words = {True: "sum_abs", False: "none", "true": "sum_abs", "false": "none", None: "none"}
        return words.get(value, value) if isinstance(value, (bool, str, type(None))) else value


class LayersConfig(GradientConfig):
    """Which dimensions of each layer's activations move a language model's loss."""

    @model_validator(mode="after")
    def _always_active(self) -> "LayersConfig":
        if self.aggregate_by == "active_gradients":
            mend = "choose gradients, attribution or values"
            raise bad_value("aggregate_by", self.aggregate_by, "raw activations are always active", mend)
        return self


class FeaturesConfig(GradientConfig):
    """Which dictionary (sparse autoencoder) features of each layer move a language model's loss."""

    sae_path: str | None = None
    """The dictionaries: a path with {layer} in it, a folder with one for each layer, or a hub name. null:
    where the original looked, or the newest that microtome trained."""
    sae_mode: Literal["error_term", "reconstruction"] = "error_term"
    """error_term: gradients at the unmodified model. reconstruction: the original's splice of the
    dictionary's output into the model, one pass a layer."""
    sae_dtype: Literal["float32", "bfloat16"] | None = None
    """Number type of the products with encoder and decoder; null: the model's."""
    attribution: bool = True
    """Write gradient times activation beside what was asked for; it takes one product with the encoder."""
    check_dictionary: bool = True
    """Refuse a dictionary that does not reconstruct the activations of its layer."""
