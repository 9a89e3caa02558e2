"""Settings of an evaluation. Torch free."""

from typing import Literal

from pydantic import PositiveFloat, PositiveInt

from microtome.core.config import Config
from microtome.dictionaries.config import Site


class DictionaryEvaluateConfig(Config):
    """Measures dictionaries on the held-out activations of the language model they belong to.

    Without a model, what a dictionary is worth is not known: give the one that it was trained on.
    """

    path: str = "latest"
    """A run of `microtome dictionary train`, or a dictionary or folder of them in any known format."""
    model: str | None = None
    """The language model; null: the one that the run or the dictionary names."""
    layers: str | None = None
    """Layers such as 0-3; null: all that there are dictionaries of."""
    site: Site | None = None
    """Where the activations are taken; null: what the dictionary says."""
    dataset: str = "builtin"
    """builtin, a text file or folder, or a dataset on the Hugging Face hub."""
    text_field: str | None = None
    """The column of the dataset that holds the text."""
    split: str = "test"
    """The part to judge by; of files and of builtin, the tenth that training leaves out."""
    fit_split: str = "train"
    """The part that the principal components and the mean are fitted on."""
    max_tokens: PositiveInt = 50_000
    """Tokens of each part that are read at most."""
    max_length: PositiveInt = 128
    """Tokens of one text."""
    texts_at_once: PositiveInt = 32
    """Texts in one forward pass."""
    skip_first: bool = False
    """Leave the first token of every text out."""
    max_norm_multiple: PositiveFloat | None = 10.0
    """Leave out tokens whose activation is longer than this many times the median; null: none."""
    splice: bool = True
    """Also measure the loss with the reconstruction in the activation's place."""
    model_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Number type of the language model."""
    device_map: str | None = None
    """`auto` spreads the language model over all devices."""
    module_path: str | None = None
    """Module of a layer, such as model.layers.{layer}.mlp, for an unknown architecture."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    threads: PositiveInt | None = None
    """Threads of one operation; null chooses by the size of the work."""
