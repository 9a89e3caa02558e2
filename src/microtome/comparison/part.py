"""What every analysis of a comparison gives: tidy rows, arrays to draw from, and claims to be judged."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Row:
    """One number of the tidy table. Names that do not apply are empty, numbers that are not known None.

    ``arm`` is what the number is of, ``other`` what it is set against where it is of a pair. ``low`` and
    ``high`` bound the 95 % interval; ``floor`` is the same statistic with an untrained network, ``ceiling``
    that of two seeds of one arm, ``null`` that under permutation. ``n`` counts inputs, ``seeds`` networks.
    """

    analysis: str
    statistic: str
    value: float
    layer: str = ""
    arm: str = ""
    other: str = ""
    label: str = ""
    stage: str = ""  # "", or before | after adaptation
    low: float | None = None
    high: float | None = None
    floor: float | None = None
    ceiling: float | None = None
    null: float | None = None
    n: int | None = None
    seeds: int | None = None
    p: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Claim:
    """A difference that might be stated in the report, with what is needed to judge it.

    ``p`` is its own two-sided p-value against seed and input noise; whether it is stated is decided for all
    claims of a report together. ``about`` reads after "a and b" and ``verb``, such as "how decodable
    the character is after conv3 (accuracy)"; ``control`` says what it stands beside, in words and numbers.
    """

    analysis: str
    about: str
    a: str
    b: str
    effect: float  # value of a minus value of b, or the distance in question
    low: float
    high: float
    p: float
    n: int
    seeds: tuple[int, int]
    control: str
    layer: str = ""
    unit: str = ""
    verb: str = "differ in"


@dataclass
class Part:
    """The result of one analysis. ``arrays`` and ``rows`` suffice to draw every picture of it again."""

    name: str
    rows: list[Row] = field(default_factory=list)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    claims: list[Claim] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)  # warnings: a dead dictionary, a skipped layer
    texts: dict[str, str] = field(default_factory=dict)  # documented text files, path in the output folder
    tensors: Mapping[str, Mapping[str, "Tensor"]] = field(default_factory=dict)  # .pt files, likewise
