"""What the command tells when a comparison is done."""

from collections.abc import Iterator

from microtome.comparison.result import Comparison

CLAIMS_TOLD = 12


def told(comparison: Comparison) -> Iterator[str]:
    """The lines: what was looked at, which differences stand, what to beware of, where the files are."""
    facts, judged = comparison.facts, comparison.judged
    arms = ", ".join(f"{name} ({len(files)})" for name, files in facts["arms"].items())
    yield f"Compared {arms} on {facts['images']} images of {facts['data']}, {len(facts['layers'])} layers."
    standing = [one for one in judged if one.distinguishable]
    yield (
        f"{len(standing)} of {len(judged)} tested differences stand above noise"
        " (95 %, corrected for the number of tests)."
        if judged
        else "No difference was tested: " + "; ".join(comparison.remarks[:1])
    )
    sentences = comparison.headlines[: min(CLAIMS_TOLD, len(standing))]
    yield from (f"  {sentence}" for sentence in sentences)
    if len(standing) > CLAIMS_TOLD:
        yield f"  and {len(standing) - CLAIMS_TOLD} more in claims.csv"
    for line in comparison.remarks:
        yield f"  note: {line}"
    yield f"Results: {comparison.folder.path}"
