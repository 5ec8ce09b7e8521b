from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from castline.compiler.targets.tensorrt.cuda import Cuda, Stream
from castline.compiler.targets.tensorrt.replay import Replay


class Worker:
    """Puts a note into a stream, and counts how often it was asked to."""

    def __init__(self, driver: Any, stream: Stream) -> None:
        self.context: Any = SimpleNamespace(changes=0)
        self.replay = Replay(self.context, stream)
        self.asked = 0
        self.done: list[str] = []
        self._stream = driver.stream(stream.handle)

    def work(self) -> None:
        self.asked += 1
        number = self.asked
        self._stream.put(lambda: self.done.append(f"work {number}"))

    def run(self) -> None:
        self.replay.run(self.work)


@pytest.fixture
def worker(fake_gpu: ModuleType) -> tuple[Worker, Stream]:
    driver = fake_gpu.FakeDriver()
    stream = Cuda(driver).stream()
    return Worker(driver, stream), stream


def test_the_first_run_is_plain_the_second_recorded_and_the_rest_replayed(
    worker: tuple[Worker, Stream],
) -> None:
    doing, stream = worker
    for _ in range(4):
        doing.run()
    stream.wait()
    assert doing.done == ["work 1", "work 2", "work 2", "work 2"]


def test_a_change_is_run_plainly_and_recorded_anew(worker: tuple[Worker, Stream]) -> None:
    doing, stream = worker
    for changed in (False, False, True, False, False):
        doing.context.changes += changed
        doing.run()
    stream.wait()
    assert doing.done == ["work 1", "work 2", "work 3", "work 4", "work 4"]


def test_what_changes_in_every_run_is_never_recorded(worker: tuple[Worker, Stream]) -> None:
    doing, stream = worker
    for _ in range(3):
        doing.context.changes += 1
        doing.run()
    stream.wait()
    assert doing.done == ["work 1", "work 2", "work 3"]
