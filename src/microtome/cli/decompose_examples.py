"""``microtome decompose examples``: what every component fires on."""

from collections.abc import Sequence
from pathlib import Path

from microtome.cli.flags import build, parse
from microtome.cli.mechanisms import Options, one_run
from microtome.core.device import say

ABOUT = (
    "Collects what every component fires on: examples at every strength, the tokens that go with it, those"
    " that are predicted, and the components that it fires with. Written into the run: results/examples.jsonl"
    " (a line a component), results/examples.npz, examples.html (a page to search)."
)


def main(arguments: Sequence[str]) -> int:
    """Collect, write the page, and say where it is."""
    from microtome.decomposition.mechanisms.config import ExamplesConfig

    parsed = parse(arguments, "decompose examples RUN", ABOUT, Options, ExamplesConfig)
    options: Options = parsed.options
    run_name = one_run(parsed.positional, "examples")
    config = build(ExamplesConfig, {}, parsed.values, "config", note=say)
    from microtome.decomposition.mechanisms.store import own_name, run_examples

    found, run, lines = run_examples(run_name, config, options.runs_root, not options.quiet)
    h = found.harvest
    total = sum(len(site.fired) for site in h.sites.values())
    places = "token positions" if found.is_text else "inputs"
    told = f"{len(found.alive())} of {total} components fire on {h.n_positions} {places}"
    print(f"{told}.\n{lines}")
    if h.config.coactivations and h.together is None:
        print(f"Too many components ({total}) to count which fire together; --sites looks at fewer.")
    if config.page:
        from microtome.explorer.mechanisms import write_examples_page

        out: Path = run.path / f"{own_name('examples', config)}.html"
        note = f"Of {total}, on {h.n_positions} {places}."
        page = write_examples_page(lines, out, f"Components of {run.path.name}", config.page_megabytes, note)
        print(page)
    return 0
