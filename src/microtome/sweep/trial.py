"""Running one command to its end: the same function in a thread of ours and in a Ray worker."""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from microtome.sweep.command import with_interpreter

POLL = 0.1
KILL_AFTER = 20.0
LONGEST_REASON = 240
StopKind = Literal["", "early", "interrupt"]
PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG, prctl(2)

# Runs the command in place of itself, after asking the system to end it when the sweep is killed.
_LAUNCH = (
    "import ctypes, os, signal, sys\n"
    f"ctypes.CDLL(None).prctl({PARENT_DEATH_SIGNAL}, signal.SIGTERM)\n"
    "os.getppid() == int(sys.argv[1]) or sys.exit(143)\n"
    "os.execvp(sys.argv[2], sys.argv[2:])\n"
)


@dataclass(frozen=True)
class Job:
    """One process to run, for one trial or for several that are batched."""

    trials: tuple[int, ...]
    command: tuple[str, ...]
    environment: dict[str, str]
    """What is added to the environment."""
    working: str
    log: str
    stop: str
    """A file that, once there, asks the process to stop; it holds why."""
    ours: bool = False
    """Our own commands stop cleanly on Ctrl-C, others get SIGTERM."""


@dataclass(frozen=True)
class Outcome:
    """How a process ended."""

    trials: tuple[int, ...]
    code: int
    seconds: float
    stopped: StopKind = ""
    reason: str = ""


def run_trial(job: Job) -> Outcome:
    """Run the command until it ends or the stop file appears; its output goes to the log.

    A command that cannot be started is an outcome, not an error.
    """
    began = time.monotonic()
    stopped: StopKind = ""
    words = with_interpreter(job.command)
    if shutil.which(words[0]) is None:
        return Outcome(job.trials, 127, 0.0, "", f"{words[0]}: no such program")
    try:
        with Path(job.log).open("ab") as log:
            process = _start(words, job, log)
            while True:
                try:
                    process.wait(POLL)
                    break
                except subprocess.TimeoutExpired:
                    if not stopped and Path(job.stop).exists():
                        stopped = _why(job)
                        _end(process, job)
    except OSError as error:
        return Outcome(
            job.trials, 126, time.monotonic() - began, "", f"{words[0]}: {error.strerror or error}"
        )
    code = process.returncode
    reason = "" if code == 0 or stopped else _reason(code, Path(job.log))
    return Outcome(job.trials, code, time.monotonic() - began, stopped, reason)


def _start(words: Sequence[str], job: Job, log: BinaryIO) -> "subprocess.Popen[bytes]":
    launcher = []
    if sys.platform == "linux" and hasattr(ctypes.CDLL(None), "prctl"):
        launcher = [sys.executable, "-I", "-S", "-c", _LAUNCH, str(os.getpid())]
    environment = {**os.environ, **job.environment}
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        environment.setdefault(name, "1")
    return subprocess.Popen(
        [*launcher, *words],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=environment,
        cwd=job.working,
        # A Ctrl-C in the terminal is for the sweep, which then stops its trials.
        start_new_session=True,
    )


def _end(process: "subprocess.Popen[bytes]", job: Job) -> None:
    _signal(process, signal.SIGINT if job.ours else signal.SIGTERM)
    patience = time.monotonic() + KILL_AFTER
    while process.poll() is None:
        if time.monotonic() > patience or Path(job.stop).read_text(encoding="utf-8") == "now":
            _signal(process, signal.SIGKILL)
            process.wait()
        time.sleep(POLL)


def _signal(process: "subprocess.Popen[bytes]", number: int) -> None:
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):
        process.send_signal(number)


def _why(job: Job) -> StopKind:
    return "early" if Path(job.stop).read_text(encoding="utf-8").strip() == "early" else "interrupt"


def _reason(code: int, log: Path) -> str:
    """The last line that says something, or the signal that ended the process."""
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    lines = [line.strip() for line in text.splitlines() if any(letter.isalnum() for letter in line)]
    last = lines[-1].removeprefix("microtome: ") if lines else f"ended with exit code {code}, no output"
    return last if len(last) <= LONGEST_REASON else last[: LONGEST_REASON - 3] + "..."
