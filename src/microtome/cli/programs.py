"""What a sweep asks of the command line: our commands by any of their names, and what they would run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from microtome.cli import decompose, train
from microtome.cli.aliases import resolve
from microtome.cli.flags import parse
from microtome.cli.recipes import find_config
from microtome.cli.sweep_parameters import dotted
from microtome.core.config import Config, Note

SWEPT = ("decompose", "train", "magnitude")


class OurPrograms:
    """The commands that read a sweep's parameters, and the packaged recipes."""

    def resolve(self, program: str) -> tuple[str, ...] | None:
        """The words of our command that a program or an old script stands for; None for other programs."""
        words = program.split()
        if words and words[0] == "microtome":
            words = words[1:]
        if not words:
            return None
        if words[0] in SWEPT:
            return tuple(words)
        found = resolve(words[0]) if len(words) == 1 else None
        return found if found is not None and found[0] in SWEPT else None

    def find_config(self, text: str) -> Path:
        """The file or recipe that a configuration's name stands for. Raises ``MicrotomeError``."""
        return find_config(text)

    def read(
        self, words: Sequence[str], parameters: Mapping[str, Any], note: Note
    ) -> tuple[Config, Path | None] | None:
        """The configuration that our command would run, and its file; None where that is not known."""
        command, *rest = words
        values = dotted(parameters)
        if command == "decompose":
            parsed = decompose.read_words(rest)
            parsed.values |= values
            return decompose.configuration(parsed, note)
        if command == "train" and rest and (subject := rest[0].replace("_", "-")) in train.SUBJECTS:
            model = train.model_of(subject)
            parsed = parse(rest[1:], f"train {subject} [CONFIG.yaml]", "", train.Options, model)
            parsed.values |= values
            return train.configuration(model, parsed, f"train {subject}", note)
        return None
