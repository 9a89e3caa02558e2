"""Hyperband by W&B's definition: at certain iterations only the best 1/eta of the trials go on.

Li et al. 2018 (arXiv 1603.06560) as asynchronous halving. An iteration is one report of the metric; bracket b
looks at the b-th report.
"""

from collections.abc import Mapping, Sequence

from microtome.sweep.spec import EarlyTerminate

FURTHEST = 10**9


def brackets(rule: EarlyTerminate, upto: int = FURTHEST) -> list[int]:
    """The iterations at which trials are judged, in order.

    ``min_iter``: min_iter, min_iter*eta, min_iter*eta^2, ... up to ``upto``. ``max_iter`` and ``s``:
    max_iter/eta, ..., max_iter/eta^s, those of at least 1. Cut to whole iterations.
    """
    found: list[int] = []
    if rule.min_iter is not None:
        band = float(rule.min_iter)
        while band <= upto:
            found.append(int(band))
            band *= rule.eta
    else:
        assert rule.max_iter is not None and rule.s is not None
        band = float(rule.max_iter)
        for _ in range(rule.s):
            band /= rule.eta
            if band < 1:
                break
            found.append(int(band))
    return sorted(set(found))


def losing(
    histories: Mapping[int, Sequence[float]], running: Sequence[int], rule: EarlyTerminate, minimize: bool
) -> list[int]:
    """The running trials that hyperband stops now.

    ``histories``: trial -> every report of the metric so far, of running and ended trials. A trial is judged
    at the last bracket it reached: it goes on when it is no worse than the value that a share 1/eta of the
    trials which reached that bracket have there. Its own value is the best so far, or with ``strict`` the
    one at the bracket.
    """
    signed = {trial: [v if minimize else -v for v in values] for trial, values in histories.items()}
    longest = max(map(len, signed.values()), default=0)
    stopped = []
    for trial in running:
        own = signed.get(trial, [])
        reached = [band for band in brackets(rule, longest) if band <= len(own)]
        if not reached:
            continue
        band = reached[-1]
        there = sorted(values[band - 1] for values in signed.values() if len(values) >= band)
        threshold = there[int(len(there) / rule.eta)]
        if (own[band - 1] if rule.strict else min(own)) > threshold:
            stopped.append(trial)
    return stopped
