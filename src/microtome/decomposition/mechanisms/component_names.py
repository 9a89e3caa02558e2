"""Components by name: ``site:number``, as commands and files write them."""

from collections.abc import Mapping, Sequence

from microtome.core.config_keys import nearest
from microtome.core.errors import MicrotomeError, bad_value


def name_of(site: str, component: int) -> str:
    """``site:component``."""
    return f"{site}:{component}"


def parse_components(names: Sequence[str], sizes: Mapping[str, int]) -> dict[str, list[int]]:
    """Site to numbers, rising, of ``site:3``, ``site:3-7`` and ``site:*``; sites in their order.

    ``sizes``: every site's number of components. Raises ``MicrotomeError`` for what is not there.
    """
    found: dict[str, set[int]] = {}
    for name in names:
        site, _, which = name.rpartition(":")
        if site not in sizes:
            near = nearest(site, list(sizes)) if site else None
            mend = (
                f"did you mean {near}:{which}?" if near else f"write site:number; sites: {', '.join(sizes)}"
            )
            raise bad_value("components", name, "no such site", mend)
        found.setdefault(site, set()).update(_numbers(name, which, sizes[site]))
    return {site: sorted(found[site]) for site in sizes if site in found}


def _numbers(name: str, which: str, size: int) -> range:
    if which == "*":
        return range(size)
    first, dash, last = which.partition("-")
    if not (first.isdigit() and (last.isdigit() or not dash)):
        raise bad_value("components", name, "no number", "write site:3, site:3-7 or site:*")
    low, high = int(first), int(last or first)
    if high >= size or low > high:
        raise bad_value("components", name, f"the site has {size} components", f"use 0 to {size - 1}")
    return range(low, high + 1)


def count(components: Mapping[str, Sequence[int]]) -> int:
    """How many there are. Raises ``MicrotomeError`` for none."""
    n = sum(map(len, components.values()))
    if n == 0:
        raise MicrotomeError("components: none are named; write --components site:3,site:7 or --cluster 0")
    return n
