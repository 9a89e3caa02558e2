"""Numberings of units, tied to each other as it turns out that they must be alike."""

from dataclasses import dataclass


@dataclass
class Numbering:
    """The numbering of some units. ``parent``: it is really (part of) another one."""

    size: int
    fixed: str = ""
    parent: "Axis | None" = None


@dataclass(frozen=True)
class Axis:
    """An axis whose index is ``(o * size + unit) * inner + i``."""

    numbering: Numbering
    outer: int = 1
    inner: int = 1

    @property
    def bare(self) -> bool:
        """Whether it holds single units, one after the other."""
        return self.outer == 1 and self.inner == 1


Label = Axis | None
Labels = tuple[Label, ...]


def resolved(axis: Axis) -> Axis:
    """The axis in terms of the numbering that its own turned out to be."""
    while axis.numbering.parent is not None:
        up = axis.numbering.parent
        axis = Axis(up.numbering, axis.outer * up.outer, up.inner * axis.inner)
    return axis


def fix(axis: Label, reason: str) -> None:
    """The units of an axis keep their numbers."""
    if axis is not None:
        numbering = resolved(axis).numbering
        numbering.fixed = numbering.fixed or reason


def tie(a: Label, b: Label, reason: str) -> None:
    """Both axes are numbered alike from now on."""
    if a is None or b is None:
        fix(a, reason)
        fix(b, reason)
        return
    a, b = resolved(a), resolved(b)
    if a.numbering is b.numbering:
        if (a.outer, a.inner) != (b.outer, b.inner):
            fix(a, reason)
        return
    same = (a.outer, a.inner, a.numbering.size) == (b.outer, b.inner, b.numbering.size)
    if not a.bare and b.bare:
        a, b = b, a
    if not (same or a.bare):
        fix(a, reason)
        fix(b, reason)
        return
    # Same structure, or a bare axis that turns out to be a structured one.
    a.numbering.parent = Axis(b.numbering) if same else b
    if a.numbering.fixed:
        fix(b, a.numbering.fixed)
