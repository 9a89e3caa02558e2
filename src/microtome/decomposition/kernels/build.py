"""Compile the C kernels once with the system's C compiler and load them through ctypes.

Every kernel has an equal in PyTorch: without a compiler, or with ``MICROTOME_NO_COMPILER=1``, that one runs.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from importlib import resources
from pathlib import Path

# No -ffast-math: it would make the library switch the whole process to flush-to-zero, and hide NaN.
_FLAGS = (
    "-O3",
    "-march=native",
    "-fPIC",
    "-shared",
    "-std=gnu11",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fassociative-math",
    "-fno-signed-zeros",
    "-ffp-contract=fast",
)


def _cache_folder() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(root) / "microtome" / "kernels"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def _compile(source: str, target: Path, compiler: str) -> bool:
    """Compile to a temporary name and move it into place, so that a killed compile leaves nothing behind."""
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        text = Path(scratch) / "kernel.c"
        built = Path(scratch) / "kernel.so"
        text.write_text(source)
        for wide in (("-mprefer-vector-width=512",), ()):
            command = [compiler, *_FLAGS, *wide, "-o", str(built), str(text), "-lm"]
            done = subprocess.run(command, capture_output=True, timeout=120, check=False)
            if done.returncode == 0:
                built.replace(target)
                return True
    return False


def _cpu_name() -> str:
    """What the machine code depends on: a cache on a shared disk may serve several kinds of processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "".join(sorted({line for line in lines if line.startswith(("model name", "flags"))}))


@cache
def load_library(name: str) -> ctypes.CDLL | None:
    """The compiled ``<name>.c`` of this folder, or None where it cannot be compiled."""
    if os.environ.get("MICROTOME_NO_COMPILER"):
        return None
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or os.name == "nt":
        return None
    source = resources.files("microtome.decomposition.kernels").joinpath(f"{name}.c").read_text()
    identity = "\n".join([source, *_FLAGS, compiler, platform.machine(), _cpu_name()])
    try:
        target = _cache_folder() / f"{name}-{hashlib.sha256(identity.encode()).hexdigest()[:20]}.so"
        if not target.exists() and not _compile(source, target, compiler):
            return None
        return ctypes.CDLL(str(target))
    except (OSError, subprocess.SubprocessError):
        return None
