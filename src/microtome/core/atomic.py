"""Writing files so that a reader never sees half of one: a temporary name first, then one rename."""

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from microtome.core.errors import MicrotomeError

FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def cannot_write(path: Path, error: OSError) -> MicrotomeError:
    """The one-line error for a file that the system did not let us write."""
    if error.errno in FULL_DISK:
        return MicrotomeError(f"{path}: the disk is full ({error.strerror}); free some space and run again")
    reason = error.strerror or str(error)
    return MicrotomeError(f"{path}: cannot be written ({reason}); choose a folder you can write to")


@contextlib.contextmanager
def atomic_path(final: str | Path) -> Iterator[Path]:
    """A temporary path beside ``final``, renamed onto it when the block ends well and removed when it fails.

    Missing parent folders are made. An ``OSError`` (a full disk, a folder that cannot be written) becomes a
    ``MicrotomeError`` in one line; the file that was there before stays as it was.
    """
    final = Path(final)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{final.name}.", suffix=".partial", dir=final.parent)
    except OSError as error:
        raise cannot_write(final, error) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        _flush_to_disk(temporary)
        # mkstemp makes private files; a finished one gets the rights that open() would have given it.
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(final)
    except OSError as error:
        raise cannot_write(final, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> Path:
    """Write ``text`` as UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)


def _flush_to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
