"""What a run was made with: versions, seed, device, command line, git state."""

import datetime
import importlib.metadata
import platform
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import microtome


def describe_environment(
    kind: str, command: Sequence[str] = (), seed: int | None = None, device: str = "cpu"
) -> dict[str, Any]:
    """The contents of ``environment.json``; imports nothing heavy."""
    torch = sys.modules.get("torch")
    return {
        "kind": kind,
        "started": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="microseconds"),
        "seed": seed,
        "device": str(device),
        "threads": torch.get_num_threads() if torch is not None else None,
        "command": list(command),
        "versions": {
            "microtome": microtome.__version__,
            "python": platform.python_version(),
            "torch": version_of("torch"),
            "numpy": version_of("numpy"),
        },
        "platform": platform.platform(),
        "git": git_state(),
    }


def version_of(distribution: str) -> str | None:
    """The installed version of a distribution, without importing it; None when it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def git_state() -> dict[str, Any] | None:
    """Commit, and whether files were changed, of the repository we are in; None outside one."""
    commit = _git("rev-parse", "HEAD")
    if not commit:
        return None
    return {"commit": commit, "changed": bool(_git("status", "--porcelain", "--untracked-files=no"))}


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
