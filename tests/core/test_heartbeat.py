"""Signs of life: a silent process ends the others, a suspended job does not end itself."""

import threading

from microtome.core.heartbeat import MISSED, Heartbeat, first_to_tell


class Store:
    """What the processes of a job share, in one process."""

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}
        self.counts: dict[str, int] = {}
        self.gone = False

    def _ask(self) -> None:
        if self.gone:
            raise RuntimeError("Connection reset by peer")

    def set(self, key: str, value: str) -> None:
        self._ask()
        self.held[key] = value.encode()

    def get(self, key: str) -> bytes:
        return self.held[key]

    def check(self, keys: list[str]) -> bool:
        return all(key in self.held for key in keys)

    def add(self, key: str, amount: int) -> int:
        self._ask()
        self.counts[key] = self.counts.get(key, 0) + amount
        return self.counts[key]


def beat(store: Store, rank: int = 0, size: int = 3, **more: object) -> Heartbeat:
    return Heartbeat(rank, size, lambda lost: f"process {lost} fell silent", store=store, **more)


def test_a_process_that_falls_silent_is_named():
    store = Store()
    first, second = beat(store), beat(store, rank=1)
    for sign in range(1, 4):
        assert second._look(sign) is None
        store.set("alive/2", str(sign))
        assert first._look(sign) is None
    for sign in range(4, 4 + MISSED - 1):
        assert second._look(sign) is None  # it watches the first one only
        assert first._look(sign) is None
    assert first._look(99) == 2


def test_one_that_comes_back_in_time_is_not_lost():
    store = Store()
    first = beat(store, size=2)
    for sign in range(5 * MISSED):
        if sign % (MISSED - 1) == 0:
            store.set("alive/1", str(sign))
        assert first._look(sign) is None


def test_a_store_that_is_gone_is_a_loss_too():
    store = Store()
    last = beat(store, rank=2)
    store.set("alive/0", "1")
    assert last._look(1) is None
    store.gone = True
    found = [last._look(sign) for sign in range(MISSED)]
    assert found == [None] * (MISSED - 1) + [0]


def test_only_the_first_one_tells(capsys):
    store, ended = Store(), threading.Event()
    codes: list[int] = []

    def end(code: int) -> None:
        codes.append(code)
        ended.set()

    for rank in (0, 1):
        ended.clear()
        with beat(store, rank=rank, size=2, every=0.001, end=end):
            store.held.pop(f"alive/{rank}", None)
            assert ended.wait(20)
    assert codes == [2, 2]
    assert capsys.readouterr().err == "microtome: process 1 fell silent\n"
    store.gone = True
    assert first_to_tell(store)  # nobody knows: rather twice than never
