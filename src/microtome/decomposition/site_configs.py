"""Which of a network's layers are decomposed, each into how many subcomponents. Imports no torch."""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from pydantic import PositiveInt

from microtome.core.config import Config

PRE_IDENTITY = ".pre_identity"


class ModuleSites(Config):
    """The layers whose names match a pattern, and how many subcomponents each gets."""

    module_pattern: str
    """A shell-style pattern of names, such as `h.*.mlp.c_fc`."""
    C: PositiveInt
    """Subcomponents at each of these sites."""


def components_of(sites: Iterable[str], info: Sequence[ModuleSites], otherwise: int) -> dict[str, int]:
    """Each site's number of subcomponents: that of the first pattern it matches, else ``otherwise``."""
    return {
        site: next((part.C for part in info if fnmatchcase(site, part.module_pattern)), otherwise)
        for site in sites
    }
