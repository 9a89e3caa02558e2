"""From measurements to a table of checks. Each says what it asks, what it found, and why it matters."""

from collections.abc import Mapping

import numpy as np

from microtome.decomposition.evaluation.checks import Check, judged, margins_of, not_measured, number
from microtome.decomposition.evaluation.config import Thresholds
from microtome.decomposition.evaluation.measured import Measured
from microtome.decomposition.evaluation.series import estimate

# Masking -> name of the check, its question, and what a failure means.
_RECOVERY = {
    "unmasked": (
        "all components on",
        "Do the components together do what the weights did?",
        "the components lack something that the weights have; train longer, or raise C or faithfulness",
    ),
    "ci": (
        "only what matters on",
        "Is what is called unimportant really not needed?",
        "the output needs what is called unimportant; lower the importance-minimality coefficient",
    ),
    "rounded": (
        "importances rounded",
        "Are components clearly on or off?",
        "the output hangs on values between 0 and 1: components are not clearly on or off",
    ),
    "stochastic": (
        "random in between",
        "Does it hold whatever else is switched on or off?",
        "what is called unimportant changes the output when it is partly on",
    ),
}
_ATTACKS = {
    "pgd": (
        "adversarial masks",
        "Does the worst choice of unimportant components, the same for a whole batch, hurt?",
    ),
    "pgd_per_input": ("adversarial, each input", "Does the worst choice for each single input hurt?"),
}


def verdict(m: Measured, t: Thresholds) -> list[Check]:
    """Every check, in the order in which they build on each other."""
    return [
        _weights(m, t),
        *(_recovered(m, t, masking) for masking in _RECOVERY),
        *(_attack(m, t, masking) for masking in _ATTACKS),
        _other_inputs(m, t),
        _few(m, t),
        _alive(m),
        _identity(m, t),
        _features(m, t),
        _finished(m),
    ]


def _weights(m: Measured, t: Thresholds) -> Check:
    name, question = "weights", "Do the components add up to the weights?"
    wanted = f"at most {number(t.max_weight_error)} at every site"
    errors = m.by_site("weight_error", m.sites)
    if not errors:
        return _absent(m, name, question, wanted, "faithfulness")
    stacked = np.nan_to_num(np.stack(list(errors.values())))
    worst = list(errors)[int(stacked.max(1).argmax())]
    return judged(
        name,
        question,
        stacked.max(0),
        None,
        limit=t.max_weight_error,
        at_most=True,
        wanted=wanted,
        passed=f"share of the squared weights that is missing, at the worst site ({worst})",
        failed=f"{worst} is not the sum of its components: its mechanisms are partly missing",
    )


def _recovered(m: Measured, t: Thresholds, masking: str) -> Check:
    name, question, failed = _RECOVERY[masking]
    if masking == "ci" and m.method == "apd":
        failed = "the output needs more than the top-k components; raise topk, or train longer"
    limit = t.min_recovered_unmasked if masking == "unmasked" else t.min_recovered
    wanted = f"at least {number(100 * limit)} % recovered"
    if not m.has(f"{m.quality}/{masking}", f"{m.quality}/ablated"):
        return _absent(m, name, question, wanted, masking if masking in m.refused else "recon")
    if not _ablating_costs(m):
        why = "ablating every component costs no more than the spread over batches: nothing to recover"
        return not_measured(name, question, wanted, why)
    value, error = m.share_recovered(masking)
    n = len(m.series[f"{m.quality}/{masking}"])
    what = "cross-entropy" if m.quality == "ce" else f"{m.distance} to the target"
    return judged(
        name,
        question,
        100 * value,
        margins_of(None if error is None else 100 * error, n),
        limit=100 * limit,
        at_most=False,
        wanted=wanted,
        unit=" %",
        passed=f"share of the {what} that ablating everything costs",
        failed=failed,
    )


def _ablating_costs(m: Measured) -> bool:
    """Whether in any seed the cost of ablating everything can be told from nothing."""
    ablated = m.series[f"{m.quality}/ablated"]
    if m.quality == "ce":
        cost, error = estimate(lambda a, t: a - t, ablated, m.series["ce/target"])
    else:
        cost, error = estimate(lambda a: a, ablated)
    margins = margins_of(error, len(ablated))
    return bool((cost - (0.0 if margins is None else np.array(margins)) > 0).any())


def _attack(m: Measured, t: Thresholds, masking: str) -> Check:
    name, question = _ATTACKS[masking]
    wanted = f"at most {number(t.max_pgd_ratio)} x the error under random masks"
    found, base = f"{m.distance}/{masking}", f"{m.distance}/stochastic"
    if not m.has(found, base):
        return _absent(m, name, question, wanted, "pgd_recon" if not m.has(found) else "recon")
    void = np.zeros(m.n_seeds, dtype=bool)
    if m.has(f"{m.quality}/ablated"):
        void = ~(m.share_recovered("stochastic")[0] >= t.min_recovered)
    if void.all():
        why = "the error under random masks is too large itself for a comparison to mean anything"
        return not_measured(name, question, wanted, why)
    value, error = m.ratio(masking, "stochastic")
    value = np.where(void, np.nan, value)
    how = m.facts.get(masking, "")
    hurt = ""
    if m.has(f"{m.quality}/ablated"):
        hurt = f"{number(100 * float(m.share_recovered(masking)[0].min()))} % recovered at the least"

    def failed(worst: int) -> str:
        if void[worst]:
            return "the error under random masks is too large itself to compare with"
        return f"some unimportant components matter when the worst of them are on together ({hurt}; {how})"

    return judged(
        name,
        question,
        value,
        margins_of(error, len(m.series[found])),
        limit=t.max_pgd_ratio,
        at_most=True,
        wanted=wanted,
        unit=" x",
        ratio=True,
        passed=f"the worst found in {how}; {hurt}" if hurt else f"the worst found in {how}",
        failed=failed,
    )


def _other_inputs(m: Measured, t: Thresholds) -> Check:
    name, question = "importances are the input's", "Would another input's importances do as well?"
    wanted = f"error at least {number(t.min_other_inputs_ratio)} x with another input's"
    if not m.has(f"{m.distance}/other_inputs", f"{m.distance}/ci"):
        return _absent(m, name, question, wanted, "other_inputs" if "other_inputs" in m.refused else "recon")
    value, error = m.ratio("other_inputs", "ci")
    return judged(
        name,
        question,
        value,
        margins_of(error, len(m.series[f"{m.distance}/ci"])),
        limit=t.min_other_inputs_ratio,
        at_most=False,
        wanted=wanted,
        unit=" x",
        ratio=True,
        passed="which components matter depends on the input",
        failed="the same components serve every input: this prunes, it does not tell inputs apart",
    )


def _few(m: Measured, t: Thresholds) -> Check:
    name, question = "few at a time", "Do few components matter for an input?"
    wanted = f"at most {number(100 * t.max_l0_share)} % of the components"
    by_site = m.by_site("l0")
    if not by_site:
        return _absent(m, name, question, wanted, "ci_l0")
    whole = f"l0/{'all' if len(by_site) > 1 else next(iter(by_site))}"
    total = sum(m.components.values())
    margins = margins_of(_error_of_mean(m, whole), len(m.series[whole]))
    shares = {site: float(value.max()) / m.components[site] for site, value in by_site.items()}
    densest = max(shares, key=lambda site: shares[site])
    found = f"{number(float(m.series[whole].mean.mean()))} of {total:,} per input"
    mend = "lower topk" if m.method == "apd" else "raise the importance-minimality coefficient"
    if len(shares) > 1:
        found += f"; most at {densest} ({number(100 * shares[densest])} %)"
    return judged(
        name,
        question,
        100 * m.series[whole].mean / total,
        None if margins is None else tuple(100 * margin / total for margin in margins),
        limit=100 * t.max_l0_share,
        at_most=True,
        unit=" %",
        wanted=wanted,
        passed=found,
        failed=f"{found}; {mend}",
    )


def _error_of_mean(m: Measured, name: str) -> np.ndarray | None:
    values = m.series[name].values
    return None if len(values) < 2 else values.std(axis=0, ddof=1) / np.sqrt(len(values))


def _alive(m: Measured) -> Check:
    name, question = "components alive", "Is every site taken apart at all, with components to spare?"
    wanted = "at least 1 at every site"
    alive, dead = m.by_site("alive"), m.by_site("dead")
    if not alive:
        return _absent(m, name, question, wanted, "alive")
    fewest = np.stack(list(alive.values())).min(0)
    none = [site for site, count in alive.items() if (count < 1).any()]
    full = [site for site, count in alive.items() if (count >= m.components[site]).any()]
    total = sum(value.mean() for value in alive.values())
    told = f"{number(total)} of {sum(m.components.values()):,} fire, {_count(dead)} dead"
    told += _undecided(m, alive, dead)
    if full:
        told += f"; all fire at {_few_names(full)}: raise C to see whether more are needed"
    return judged(
        name,
        question,
        fewest,
        None,
        limit=1.0,
        at_most=False,
        wanted=wanted,
        passed=told,
        failed=f"nothing ever fires at {_few_names(none)}",
    )


def _count(found: Mapping[str, np.ndarray]) -> str:
    return number(float(sum(value.mean() for value in found.values())))


def _undecided(m: Measured, alive: Mapping[str, np.ndarray], dead: Mapping[str, np.ndarray]) -> str:
    rest = sum(m.components.values()) - sum(float(v.mean()) for v in (*alive.values(), *dead.values()))
    return f", {number(rest)} seen for too short to tell" if rest > 0.5 else ""


def _few_names(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _identity(m: Measured, t: Thresholds) -> Check:
    name, question = "one component a feature", "Does each feature have a component of its own?"
    wanted = f"at most {number(t.max_identity_error)} entries off by more than 0.1"
    if "identity_error" not in m.fixed:
        return _absent(m, name, question, wanted, "identity_ci_error")
    by_site = {
        site: number(float(value.mean())) for site, value in m.by_site("identity_error", m.sites).items()
    }
    told = ", ".join(f"{site} {value}" for site, value in by_site.items())
    return judged(
        name,
        question,
        m.fixed["identity_error"],
        None,
        limit=t.max_identity_error,
        at_most=True,
        wanted=wanted,
        passed="causal importances of single features are the right pattern at every site",
        failed=f"off by site (mean over seeds): {told}",
    )


def _features(m: Measured, t: Thresholds) -> Check:
    name, question = "features recovered", "Does a component point along each feature's weights?"
    wanted = f"at least {number(100 * t.min_recovered_features)} % of the features"
    if "recovered_features" not in m.fixed:
        return _absent(m, name, question, wanted, "recovery")
    mmcs, ml2r = (number(float(m.fixed[key].mean())) for key in ("mmcs", "ml2r"))
    return judged(
        name,
        question,
        100 * m.fixed["recovered_features"],
        None,
        limit=100 * t.min_recovered_features,
        at_most=False,
        unit=" %",
        wanted=wanted,
        passed=f"mean cosine {mmcs}, mean length {ml2r} of the target's",
        failed=f"mean cosine {mmcs}, mean length {ml2r} of the target's",
    )


def _finished(m: Measured) -> Check:
    name, question, wanted = "training finished", "Did it run to its end?", "all of its steps"
    if "steps_done" not in m.fixed:
        return not_measured(name, question, wanted, m.refused.get("steps", "the files do not tell"))
    return judged(
        name,
        question,
        100 * m.fixed["steps_done"] / m.fixed["steps"],
        None,
        limit=100.0,
        at_most=False,
        unit=" %",
        wanted=wanted,
        passed=f"{int(m.fixed['steps'][0]):,} steps",
        failed=f"stopped after {int(m.fixed['steps_done'][0]):,} of {int(m.fixed['steps'][0]):,} steps",
    )


def _absent(m: Measured, name: str, question: str, wanted: str, metric: str) -> Check:
    return not_measured(name, question, wanted, m.refused.get(metric, f"{metric} was not asked for"))
