"""Errors a user can cause: one line that names the field, the value and the mend."""


class MicrotomeError(ValueError):
    """A problem the user can mend. The command line prints it as one line and exits with code 2."""


class CannotLoad(MicrotomeError):
    """A file or folder that is missing, truncated, unsafe or of another kind."""


class Diverged(MicrotomeError):
    """A loss or a weight is no longer a finite number."""


def bad_value(field: str, value: object, problem: str, mend: str) -> MicrotomeError:
    """The error for one bad field: ``field=value: problem; mend``."""
    return MicrotomeError(f"{field}={value!r}: {problem}; {mend}")
