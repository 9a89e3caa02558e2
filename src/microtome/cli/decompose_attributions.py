"""``microtome decompose attributions``: what components pass on to each other."""

from collections.abc import Sequence

from microtome.cli.flags import build, parse
from microtome.cli.mechanisms import Options, one_run
from microtome.core.device import say

ABOUT = (
    "Measures what every component passes on to every later one and to the output: gradient times activation,"
    " mean over inputs. --prompt TEXT adds the graph of a text, token by token. Written into the run:"
    " results/component_attributions.npz and .csv, plots/component_attributions.png, graphs/prompt_<n>.json."
)
TOLD = 10


def main(arguments: Sequence[str]) -> int:
    """Attribute, and print the strongest edges."""
    from microtome.decomposition.mechanisms.config import AttributionsConfig

    parsed = parse(arguments, "decompose attributions RUN", ABOUT, Options, AttributionsConfig)
    options: Options = parsed.options
    run_name = one_run(parsed.positional, "attributions")
    config = build(AttributionsConfig, {}, parsed.values, "config", note=say)
    from microtome.decomposition.mechanisms.store import run_attributions

    found, graph, _, files = run_attributions(run_name, config, options.runs_root, not options.quiet)
    edges = found.edges(TOLD)
    width = max((len(f"{e['source']} -> {e['target']}") for e in edges), default=0)
    print(f"Strongest edges over {found.n_places} places (mean, mean absolute):")
    for e in edges:
        print(f"  {e['source'] + ' -> ' + e['target']:<{width}}  {e['signed']: .4g}  {e['absolute']:.4g}")
    if graph is not None:
        print(f"{graph.prompt!r}: {len(graph.nodes)} nodes, {graph.n_edges} edges, then {graph.likeliest!r}")
    print("\n".join(map(str, files)))
    return 0
