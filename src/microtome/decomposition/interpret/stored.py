"""The stored arrays of a run, as the pictures are drawn from them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from matplotlib.figure import Figure

from microtome.core.errors import bad_value
from microtome.core.runs import RunFolder
from microtome.decomposition.interpret.config import InterpretConfig
from microtome.decomposition.picture_data import by_prefix

Arrays = dict[str, np.ndarray]
Pictures = Iterator[tuple[str, Figure]]


class LeftOut(Exception):
    """A picture that does not apply; says why, in words that follow its name."""


@dataclass
class Stored:
    """What ``results/`` of a run holds, read when asked for. Pictures show one of its K instances."""

    run: RunFolder
    method: str
    config: InterpretConfig = field(default_factory=InterpretConfig)
    _read: dict[str, Arrays] = field(default_factory=dict)

    @classmethod
    def of(cls, run: RunFolder, config: InterpretConfig | None = None) -> "Stored":
        """The results of a run. Raises ``MicrotomeError`` when it has no such instance."""
        method = "apd" if "apd" in run.kind else "spd"
        stored = cls(run, method, config or InterpretConfig())
        if stored.instance >= stored.n_instances > 0:
            mend = f"choose 0 to {stored.n_instances - 1}"
            raise bad_value("instance", stored.instance, f"the run has {stored.n_instances}", mend)
        return stored

    @property
    def instance(self) -> int:
        """Which network or seed is shown."""
        return self.config.instance

    @property
    def n_instances(self) -> int:
        """K; 0 when no weights are stored."""
        return next((len(value) for value in self.arrays("weights").values()), 0)

    @property
    def kind(self) -> str:
        """``tms``, ``resid_mlp`` or ``other``, told from what is stored."""
        if "target/linear1" in self.arrays("weights"):
            return "tms"
        return "resid_mlp" if self.has("embedding") else "other"

    def has(self, name: str) -> bool:
        """Whether ``results/<name>.npz`` is there."""
        return (self.run.path / "results" / f"{name}.npz").is_file()

    def arrays(self, name: str) -> Arrays:
        """The arrays of ``results/<name>.npz``; none when it is not there."""
        if name not in self._read:
            self._read[name] = self.run.load_arrays(name) if self.has(name) else {}
        return self._read[name]

    def shown(self, name: str, prefix: str) -> Arrays:
        """The shown instance of every ``<prefix>/<key>`` of a file, by key."""
        return {key: value[self.instance] for key, value in by_prefix(self.arrays(name), prefix).items()}

    def factors(self) -> tuple[Arrays, Arrays, Arrays]:
        """Targets ``[d_in, d_out]`` and the components' left and right factors, by site."""
        return self.shown("weights", "target"), self.shown("weights", "left"), self.shown("weights", "right")


@dataclass(frozen=True)
class Picture:
    """One picture (or family of pictures): what it answers, and how it is drawn from stored arrays.

    ``needs``: the files in ``results/`` without which it is left out. ``basic`` ones are drawn at the end of
    every decomposition; the others need ``microtome interpret``.
    """

    name: str
    question: str
    needs: tuple[str, ...]
    draw: Callable[[Stored], Pictures]
    basic: bool = True


def resid_mlp_only(stored: Stored) -> None:
    """Leave the picture out unless the target is a residual MLP."""
    if stored.kind != "resid_mlp":
        raise LeftOut("needs a residual MLP")


def tms_only(stored: Stored) -> None:
    """Leave the picture out unless the target is a toy model of superposition."""
    if stored.kind != "tms":
        raise LeftOut("needs a toy model of superposition (TMS)")
