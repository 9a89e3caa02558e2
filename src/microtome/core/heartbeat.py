"""Signs of life between the processes of one job: one that fell silent stops the others in half a minute.

A process that is killed closes its connections, and its partners hear of it at their next exchange. One that
hangs, or whose machine is gone, is only missed: without this they would wait as long as a slow one may take.
"""

import contextlib
import datetime
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

EVERY = 3.0  # seconds
MISSED = 10  # signs in a row
_KEY = "alive/{}"
_TOLD = "told"


def job_store(group: int = 0, timeout: datetime.timedelta = datetime.timedelta(seconds=20)) -> Any:
    """An own connection to the store that the processes of the job found each other by.

    What it holds belongs to the ``group``-th group that this job makes, and to this start of it by torchrun.
    """
    import torch.distributed as dist

    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore  # pyright: ignore[reportPrivateImportUsage]
    prefixed = dist.PrefixStore  # pyright: ignore[reportPrivateImportUsage]
    start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    own = store(host, port, is_master=False, wait_for_workers=False, timeout=timeout)
    return prefixed(f"microtome/{start}/{group}", own)


def first_to_tell(store: Any) -> bool:
    """Whether no other process of the job has told the user yet what went wrong. True where nobody knows."""
    try:
        return store is None or store.add(_TOLD, 1) == 1
    except RuntimeError:
        return True


class Heartbeat:
    """A thread that says that this process lives, and ends the process when another one no longer does.

    ``lost`` makes the line to tell from the silent process' rank. Silence is counted in our own signs, not in
    seconds: a job that is suspended and taken up again goes on.
    """

    def __init__(
        self,
        rank: int,
        size: int,
        lost: Callable[[int], str],
        *,
        store: Any,
        every: float = EVERY,
        end: Callable[[int], None] = os._exit,
    ) -> None:
        self.rank, self.lost, self.every, self.end = rank, lost, every, end
        # The first process watches all, and all watch the first: a few questions a second in any job.
        self.others = list(range(1, size)) if rank == 0 else [0]
        self.store = store
        self.stopping = threading.Event()
        self.last: dict[int, bytes | None] = {}
        self.missed = dict.fromkeys(self.others, 0)
        self.unheard = 0
        self.thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> "Heartbeat":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self.thread.join(2 * self.every)

    def _run(self) -> None:
        signs = 0
        while not self.stopping.wait(self.every if signs else 0.0):
            signs += 1
            silent = self._look(signs)
            if silent is not None and not self.stopping.is_set():
                self._give_up(silent)
                return

    def _look(self, signs: int) -> int | None:
        """Give a sign, and the rank of a process that has given none for too long."""
        try:
            self.store.set(_KEY.format(self.rank), str(signs))
            for other in self.others:
                key = _KEY.format(other)
                found = self.store.get(key) if self.store.check([key]) else None
                self.missed[other] = self.missed[other] + 1 if found == self.last.get(other) else 0
                self.last[other] = found
        except RuntimeError:  # the store is gone, and with it the launcher or the first machine
            self.unheard += 1
            return self.others[0] if self.unheard >= MISSED else None
        self.unheard = 0
        return next((other for other in self.others if self.missed[other] >= MISSED), None)

    def _give_up(self, silent: int) -> None:
        if first_to_tell(self.store):
            with contextlib.suppress(OSError, ValueError):
                sys.stderr.write(f"microtome: {self.lost(silent)}\n")
                sys.stderr.flush()
        self.end(2)
