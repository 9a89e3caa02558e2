"""The files of a folder or of a zip archive, in sorted order, read the same way."""

import os
import zipfile
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath

from microtome.core.errors import CannotLoad

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")


class Files:
    """Names are paths inside, with ``/`` between folders; hidden ones are left out.

    ``inside`` is the part of the place that is looked at. Raises ``CannotLoad`` when the place is not there.
    """

    def __init__(self, place: str | Path, inside: str = "") -> None:
        self.place, self.inside = Path(place).expanduser(), inside
        if not self.place.exists():
            raise CannotLoad(f"{place}: no such folder or file; check the path of the images")
        self.archive = None
        if self.place.is_file():
            try:
                self.archive = zipfile.ZipFile(self.place)
            except (OSError, zipfile.BadZipFile) as error:
                raise CannotLoad(
                    f"{self.place}: truncated or not a zip file ({error}); fetch it again"
                ) from None

    def __str__(self) -> str:
        return f"{self.place}/{self.inside}" if self.inside else str(self.place)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Every file, sorted by the code points of its path."""
        prefix = f"{self.inside}/" if self.inside else ""
        if self.archive is not None:
            found = [info.filename for info in self.archive.infolist() if not info.is_dir()]
            found = [name.removeprefix(prefix) for name in found if name.startswith(prefix)]
        else:
            root = self.place / self.inside
            found = [path.relative_to(root).as_posix() for path in _walk(root)]
        return tuple(sorted(name for name in found if not _is_hidden(name)))

    @property
    def images(self) -> list[str]:
        """The names that end as images do."""
        return [name for name in self.names if name.lower().endswith(IMAGE_SUFFIXES)]

    @cached_property
    def folders(self) -> tuple[str, ...]:
        """The folders on top, sorted; in a folder found without walking through all of it."""
        if self.archive is not None:
            return tuple(dict.fromkeys(name.split("/", 1)[0] for name in self.names if "/" in name))
        inside = self.place / self.inside
        found = (path.name for path in inside.iterdir() if path.is_dir())
        return tuple(sorted(name for name in found if not _is_hidden(name)))

    def under(self, folder: str) -> "Files":
        """The files in one of the folders."""
        return Files(self.place, f"{self.inside}/{folder}" if self.inside else folder)

    def unwrapped(self, means: Callable[[str], bool]) -> "Files":
        """Below folders that hold nothing but one more folder with folders in it, as archives often begin.

        A folder whose name ``means`` something is not passed through.
        """
        files = self
        while len(files.folders) == 1 and not means(files.folders[0]):
            inner = files.under(files.folders[0])
            if not inner.folders or any("/" not in name for name in files.images):
                break
            files = inner
        return files

    def read(self, name: str) -> bytes:
        """The content of one file. Raises ``CannotLoad``."""
        inner = f"{self.inside}/{name}" if self.inside else name
        try:
            if self.archive is not None:
                return self.archive.read(inner)
            return (self.place / inner).read_bytes()
        except (OSError, KeyError, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
            raise CannotLoad(f"{self.place}: {inner} cannot be read ({error}); fetch it again") from None


def _walk(root: Path) -> Iterator[Path]:
    """Every file below ``root``, linked folders included, each folder once."""
    seen: set[Path] = set()
    for folder, inner, names in os.walk(root, followlinks=True):
        real = Path(folder).resolve()
        if real in seen:
            inner.clear()
            continue
        seen.add(real)
        yield from (Path(folder) / name for name in names)


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)
