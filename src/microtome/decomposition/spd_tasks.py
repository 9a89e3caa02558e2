"""What inputs SPD runs on. Imports no torch."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt

from microtome.core.config import Config, Probability
from microtome.data.generation import DataGenerationType


class SPDTMSTask(Config):
    """Inputs of a Toy Model of Superposition."""

    task_name: Literal["tms"] = "tms"
    feature_probability: Probability = 0.05
    """Probability that a feature is on in one sample."""
    data_generation_type: DataGenerationType = "at_least_zero_active"


class SPDResidMLPTask(Config):
    """Inputs of a residual MLP."""

    task_name: Literal["residual_mlp", "resid_mlp"] = "residual_mlp"
    feature_probability: Probability = 0.01
    """Probability that a feature is on in one sample."""
    data_generation_type: DataGenerationType = "at_least_zero_active"


class SPDTargetTask(Config):
    """The inputs that the target was trained on (digits, or data handed over from Python)."""

    task_name: Literal["target_data", "digits"] = "target_data"


class SPDInductionTask(Config):
    """Sequences of random tokens that repeat, for the induction-head toy."""

    task_name: Literal["ih", "induction_head", "induction"] = "induction"
    prefix_window: PositiveInt | None = None
    """Tokens at the start among which the repeated pair may first stand; null takes what the target was
    trained on."""


class SPDLanguageTask(Config):
    """Text for a language model."""

    renamed: ClassVar[dict[str, str]] = {"max_seq_len": "context_length", "dataset_name": "dataset"}

    task_name: Literal["lm"] = "lm"
    context_length: PositiveInt = 512
    """Tokens a row."""
    buffer_size: PositiveInt = 1000
    """Windows of tokens that a streamed data set is shuffled among."""
    dataset: str = "lennart-finke/SimpleStories"
    """A text file, a folder of them, the name of a Hugging Face data set, `builtin`, or `target`: the text
    that a model of `microtome train language-model` was trained on."""
    column_name: str | None = None
    """The data set's column that holds the text (or the ids); null takes `text`, `story` or the only one."""
    train_data_split: str = "train"
    eval_data_split: str = "test"
    shuffle_each_epoch: bool = True
    """Read from old files: texts in memory are drawn anew for every batch, streams keep their order."""
    is_tokenized: bool = False
    """Whether the column holds ids already."""
    streaming: bool = False
    """Read a Hugging Face data set piece by piece, instead of downloading it first."""


Task = Annotated[
    SPDTMSTask | SPDResidMLPTask | SPDTargetTask | SPDInductionTask | SPDLanguageTask,
    Field(discriminator="task_name"),
]
