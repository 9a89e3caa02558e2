"""One writer a run: two processes that carry the same run on would write over each other."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from microtome.core.errors import MicrotomeError
from microtome.core.run_start import MARKER


@contextmanager
def only_writer(run: Path) -> Iterator[None]:
    """Hold the run folder; the system lets go of it when the process ends, however it ends.

    Raises ``MicrotomeError`` while another process holds it. Where the system or the disk has no such locks
    (Windows, some network folders) nothing is checked.
    """
    try:
        import fcntl

        file = (run / MARKER).open("rb")
    except (ImportError, OSError):
        yield
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MicrotomeError(
                f"{run}: another process is working on this run; wait for it, or stop it with Ctrl-C"
            ) from None
        except OSError:
            pass  # a disk without locks
        yield
