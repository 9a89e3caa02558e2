"""Which of a target's sites a configuration decomposes, and into how many subcomponents each."""

from collections.abc import Mapping

from microtome.decomposition.site_configs import PRE_IDENTITY
from microtome.decomposition.spd_config import SPDConfig
from microtome.targets.network import Site


def site_patterns(config: SPDConfig) -> tuple[str, ...]:
    """Patterns of all sites to decompose, inserted identities too."""
    return (*config.site_patterns, *(pattern + PRE_IDENTITY for pattern in config.identity_patterns))


def site_counts(config: SPDConfig, sites: Mapping[str, Site]) -> dict[str, int]:
    """Subcomponents of every site; a tied site has those of the site whose factors it uses."""
    counts = config.subcomponents(sites)
    for name, site in sites.items():
        if site.tied_to is not None and site.tied_to in counts:
            counts[name] = counts[site.tied_to]
    return counts
