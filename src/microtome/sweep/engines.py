"""Where trials run: processes of this machine, or Ray's workers on many."""

import os
import socket
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, Protocol, runtime_checkable

from microtome.core.errors import MicrotomeError
from microtome.sweep.trial import Job, Outcome, run_trial


@runtime_checkable
class Engine(Protocol):
    """Runs jobs side by side."""

    slots: int
    """How many jobs may run at a time."""

    def submit(self, job: Job) -> None:
        """Start a job."""
        ...

    def wait(self, timeout: float) -> list[Outcome]:
        """The jobs that ended, after at most ``timeout`` seconds."""
        ...

    def close(self) -> None:
        """Let go of what the engine holds; no job is running any more."""
        ...


def cores() -> int:
    """The cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


class ProcessEngine:
    """Processes of this machine, each watched by a thread."""

    def __init__(self, slots: int, run: Callable[[Job], Outcome] = run_trial) -> None:
        self.slots, self._run = slots, run
        self._pool = ThreadPoolExecutor(slots, thread_name_prefix="trial")
        self._running: dict[Future[Outcome], Job] = {}

    def submit(self, job: Job) -> None:
        """Start a job in a process of its own."""
        self._running[self._pool.submit(self._run, job)] = job

    def wait(self, timeout: float) -> list[Outcome]:
        """The jobs that ended, after at most ``timeout`` seconds."""
        ended, _ = wait(self._running, timeout=timeout, return_when=FIRST_COMPLETED)
        return [_outcome(self._running.pop(future), future.result) for future in ended]

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()


class RayEngine:
    """Ray tasks of one CPU each: on the cluster at ``address``, or on a local one started for the sweep.

    Every machine needs microtome installed and sees the sweep's folder under the same path.
    """

    def __init__(self, slots: int | None, address: str | None) -> None:
        self._ray = _ray()
        self._started = not self._ray.is_initialized()
        if self._started:
            self._connect(slots, address)
        self.slots = slots or max(int(self._ray.cluster_resources().get("CPU", 1)), 1)
        self._task = self._ray.remote(run_trial).options(num_cpus=1, max_retries=0)
        self._running: dict[Any, Job] = {}

    def _connect(self, slots: int | None, address: str | None) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "error")
        # Threads are the trials' own business: without this Ray would set OMP_NUM_THREADS itself.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        settings: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if address is None:
            settings |= {"num_cpus": slots or cores(), "include_dashboard": False}
        try:
            _knock(address)  # Ray itself waits for minutes where nobody listens
            self._ray.init(address=address or "local", **settings)
        except Exception as error:
            line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise MicrotomeError(
                f"--address {address}: cannot reach a Ray cluster ({line}); start one with `ray start --head`"
                " (where it asks for a token, set RAY_AUTH_MODE=token here too)"
            ) from None

    def submit(self, job: Job) -> None:
        """Hand a job to Ray."""
        self._running[self._task.remote(job)] = job

    def wait(self, timeout: float) -> list[Outcome]:
        """The jobs that ended, after at most ``timeout`` seconds."""
        if not self._running:
            return []
        ended, _ = self._ray.wait(list(self._running), num_returns=1, timeout=timeout)
        return [_outcome(self._running.pop(ref), lambda ref=ref: self._ray.get(ref)) for ref in ended]

    def close(self) -> None:
        """Leave the cluster; a local one ends."""
        if self._started:
            self._ray.shutdown()


def _knock(address: str | None) -> None:
    """Raise ``OSError`` when nobody listens at ``host:port``; other addresses are Ray's to find."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def _outcome(job: Job, result: Callable[[], Outcome]) -> Outcome:
    """A job's outcome; a worker that is lost is a failure, not the end of the sweep."""
    try:
        return result()
    except Exception as error:
        line = (str(error).strip().splitlines() or [""])[0]
        return Outcome(job.trials, 1, 0.0, "", f"{type(error).__name__}: {line}"[:240])


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise MicrotomeError(
            "--engine ray: Ray is not installed; pip install 'microtome[ray]', or use --engine processes"
        ) from None
    return ray
