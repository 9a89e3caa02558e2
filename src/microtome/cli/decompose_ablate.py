"""``microtome decompose ablate``: what happens without chosen components, and with nothing but them."""

from collections.abc import Sequence

from microtome.cli.flags import build, parse
from microtome.cli.mechanisms import Options, one_run
from microtome.core.device import say
from microtome.core.errors import MicrotomeError

ABOUT = (
    "Removes components from the weights, and keeps nothing but them, and measures the loss each time beside"
    " random sets of as many components of the same sites. --components site:3,site:7 or --cluster 0 (of"
    " `decompose cluster`). Written into the run: a line of ablations.jsonl, plots/ablation.png."
)
WORDS = {"removed": "without them", "only": "only them"}


def main(arguments: Sequence[str]) -> int:
    """Ablate, and print the measures."""
    from microtome.decomposition.mechanisms.config import AblateConfig

    parsed = parse(arguments, "decompose ablate RUN", ABOUT, Options, AblateConfig)
    options: Options = parsed.options
    run_name = one_run(parsed.positional, "ablate")
    config = build(AblateConfig, {}, parsed.values, "config", note=say)
    if not config.components and config.cluster is None:
        raise MicrotomeError("decompose ablate: name some with --components site:3,site:7 or --cluster 0")
    from microtome.decomposition.mechanisms.store import run_ablate

    found, _, files = run_ablate(run_name, config, options.runs_root, not options.quiet)
    print(f"{len(found.names)} components, {found.n_inputs} inputs:")
    print(f"  {'':<28} {'target':>10} {'chosen':>10} {'random sets':>22} {'p':>7}")
    for row in found.rows:
        random = "none to compare with"
        if row["n_random"]:
            sd = f" ± {row['random_sd']:.2g}" if row["random_sd"] is not None else ""
            random = f"{row['random_mean']:.4g}{sd}"
        p = "" if row["p"] is None else f"{row['p']:.3f}"
        words = f"{row['measure'].replace('_', ' ')}, {WORDS[row['change']]}"
        print(f"  {words:<28} {row['target']:>10.4g} {row['value']:>10.4g} {random:>22} {p:>7}")
    n = found.rows[0]["n_random"]
    print(
        f"p: share of {n} random sets (and the chosen one) that are as extreme." if n else "",
        end="\n" if n else "",
    )
    print("\n".join(map(str, files)))
    return 0
