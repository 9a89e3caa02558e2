"""Change points by the optional ``ruptures`` library: PELT with a squared-error cost.

It assumes independent noise around constant levels; on drift and on noise with memory it finds changes that
are not there, so it is an option and never the default.
"""

import numpy as np

from microtome.core.errors import MicrotomeError

PENALTY = 3.0  # times log(n) times the variance of the noise


def pelt(series: np.ndarray) -> list[int]:
    """The first record of each new level. Raises ``MicrotomeError`` when ``ruptures`` is not installed."""
    try:
        import ruptures
    except ImportError:
        raise MicrotomeError(
            "method=change_points: needs ruptures; pip install 'microtome[changepoints]'"
        ) from None
    # The noise, from what neighbours differ by, so that the levels themselves do not count.
    deviation = 1.4826 * np.median(np.abs(np.diff(series))) / np.sqrt(2)
    if len(series) < 4 or deviation == 0:
        return []
    found = ruptures.Pelt(model="l2", min_size=2, jump=1).fit(series / deviation)
    return [int(index) for index in found.predict(pen=PENALTY * np.log(len(series))) if index < len(series)]
