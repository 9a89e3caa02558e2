"""``microtome doctor``: what this machine has to work with, one line each."""

import os
import platform
import shutil
from collections.abc import Sequence
from pathlib import Path

from microtome import __version__
from microtome.cli.flags import parse
from microtome.core.config import Config
from microtome.core.environment import version_of
from microtome.core.errors import MicrotomeError

ABOUT = "Says what this machine has to work with: versions, devices, threads, compiler, extras and disk."


def main(arguments: Sequence[str]) -> int:
    """Print the lines."""
    parsed = parse(arguments, "doctor", ABOUT, Config)
    if parsed.positional:
        raise MicrotomeError(f"doctor: takes no arguments, not {parsed.positional[0]!r}")
    for name, text in findings():
        print(f"{name:<12} {text}")
    return 0


def findings() -> list[tuple[str, str]]:
    """What was found, in the order it is printed."""
    return [
        ("microtome", f"{__version__} in {Path(__file__).parents[1]}"),
        ("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        *_torch(),
        ("C compiler", _compiler()),
        ("wandb", _extra("wandb")),
        ("tensorboard", _extra("tensorboard")),
        ("disk", _disk(Path.cwd())),
    ]


def _torch() -> list[tuple[str, str]]:
    try:
        import torch
    except ImportError as error:
        return [("torch", f"cannot be imported ({error}); run `pip install 'torch>=2.6'`")]
    cuda = "none: runs on the CPU"
    if torch.cuda.is_available():
        cuda = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return [
        ("torch", str(torch.__version__)),
        ("CUDA", cuda),
        ("threads", f"{cores} cores to use; small networks run on 1 thread (--threads changes it)"),
    ]


def _compiler() -> str:
    for name in (os.environ.get("CC"), "cc", "gcc", "clang"):
        if name and shutil.which(name):
            return f"{shutil.which(name)}: the hot loops run as compiled kernels"
    return "none: the hot loops run in PyTorch, slower but with the same results"


def _extra(name: str) -> str:
    version = version_of(name)
    return version or f"not installed (optional): pip install 'microtome[{name}]'"


def _disk(folder: Path) -> str:
    free = shutil.disk_usage(folder).free / 2**30
    rights = "" if os.access(folder, os.W_OK) else "; this folder cannot be written, use --runs_root"
    return f"{free:.1f} GiB free in {folder}{rights}"
