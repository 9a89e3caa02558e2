"""``microtome dynamics validate``: a detector on series with nothing to find, and with planted changes."""

from collections.abc import Sequence

from microtome.cli.flags import parse
from microtome.core.config import Config
from microtome.core.errors import MicrotomeError

ABOUT = (
    "Tests a detector: false detections per series on noise, drift, decay, memory, wandering, changing noise"
    " and rounding, and the share of planted steps that it finds. Left to itself it tests the detector of"
    " jumps that analyses use, and the detector of ramps. Exits with 1 when a detector fails."
)


class ValidateOptions(Config):
    """Which detector, and how long it is tested."""

    method: str = "level_shift"
    """The detector of jumps: level_shift, zscore, rolling, change_points, or package.module:function (of one
    series of 400 values; gives the indices of the first record after each jump)."""
    seeds: int = 40
    """Series of each kind."""
    alpha: float = 0.01
    """The level of the default detector."""
    ramps: bool = True
    """Test the detector of ramps too, beside the default method."""


def main(arguments: Sequence[str]) -> int:
    """Print the tables."""
    parsed = parse(arguments, "dynamics validate", ABOUT, ValidateOptions)
    options: ValidateOptions = parsed.options
    if parsed.positional:
        raise MicrotomeError(f"dynamics validate: takes no {parsed.positional[0]}; name it with --method")
    from microtome.dynamics.validate import detector, validate, validate_ramps

    reports = [validate(detector(options.method), options.seeds, options.alpha)]
    print("\n".join(reports[0].told()))
    if options.ramps and options.method == "level_shift":
        reports.append(validate_ramps(options.seeds))
        print("\n" + "\n".join(reports[1].told()))
    return 0 if all(report.valid for report in reports) else 1
