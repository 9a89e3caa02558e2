"""The architectures by name."""

from microtome.dictionaries.batch_topk import BatchTopKDictionary
from microtome.dictionaries.config import DictionaryConfig
from microtome.dictionaries.dictionary import Dictionary
from microtome.dictionaries.gated import GatedDictionary
from microtome.dictionaries.groupmax import GroupMaxDictionary
from microtome.dictionaries.jumprelu import JumpReLUDictionary
from microtome.dictionaries.matryoshka import MatryoshkaDictionary
from microtome.dictionaries.relu import ReLUDictionary
from microtome.dictionaries.topk import TopKDictionary

ARCHITECTURES: dict[str, type[Dictionary]] = {
    "relu": ReLUDictionary,
    "gated": GatedDictionary,
    "topk": TopKDictionary,
    "groupmax": GroupMaxDictionary,
    "batch_topk": BatchTopKDictionary,
    "jumprelu": JumpReLUDictionary,
    "matryoshka": MatryoshkaDictionary,
}


def new_dictionary(config: DictionaryConfig) -> Dictionary:
    """A dictionary of that configuration with all weights 0."""
    return ARCHITECTURES[config.architecture](config)
