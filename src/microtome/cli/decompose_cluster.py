"""``microtome decompose cluster``: components that act together."""

from collections.abc import Sequence

from microtome.cli.flags import build, parse
from microtome.cli.mechanisms import Options, one_run
from microtome.core.device import say

ABOUT = (
    "Merges components that fire together, pair by pair, and keeps the merges that give the shortest"
    " description of which components fire. Written into the run: clusters.json, results/clusters.npz (every"
    " merge and its cost), plots/component_clusters.png, plots/merge_costs.png."
)
NAMES = 6  # of a cluster
LITTLE = 0.05  # share of the description


def main(arguments: Sequence[str]) -> int:
    """Cluster, and print the clusters."""
    from microtome.decomposition.mechanisms.config import ClusterConfig

    parsed = parse(arguments, "decompose cluster RUN", ABOUT, Options, ClusterConfig)
    options: Options = parsed.options
    run_name = one_run(parsed.positional, "cluster")
    config = build(ClusterConfig, {}, parsed.values, "config", note=say)
    from microtome.decomposition.mechanisms.store import run_cluster

    found, _, files = run_cluster(run_name, config, options.runs_root, not options.quiet)
    told = found.told()
    single = found.n_clusters - len(told)
    print(
        f"{len(found.names)} components that fire: {len(told)} clusters of several, {single} by themselves."
    )
    for one in told[: config.n_drawn]:
        names = one["components"]
        more = f", {len(names) - NAMES} more" if len(names) > NAMES else ""
        print(f"  {one['cluster']:>3}  {one['density']:6.1%} of inputs  {', '.join(names[:NAMES])}{more}")
    chance = found.saved_by_chance()
    beside = f"; {max(chance):.1%} where firings are shuffled" if chance else ""
    print(f"Merging saves {found.saved():.1%} of the description{beside}.")
    if chance and found.saved() < max(chance) + LITTLE:
        print("That is little more than by chance: these components do not form clusters.")
    if len(found.histories) > 1:
        rand = found.distances()["adjusted_rand"]
        mean = (rand.sum() - len(rand)) / (len(rand) * (len(rand) - 1))
        print(f"{len(rand)} runs agree: adjusted Rand index {mean:.3f} on average (1: fully, 0: by chance).")
    print("\n".join(map(str, files)))
    return 0
