"""Time launches on a GPU: graphs of calls over weights that no cache holds, and ceilings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from statistics import median

import torch

ROTATED_BYTES = 300e6  # of distinct weights: several times the cache of a GPU
REPLAYS = 10
REPEATS = 3
GRAPH_SECONDS = 2e-3  # that a replay takes at least, so that the clock's steps do not show
FEWEST_CALLS, MOST_CALLS = 4, 40


@dataclass(frozen=True)
class Timing:
    """Microseconds of a call: the median of all replays, and of the fastest and slowest repeat."""

    us: float
    fastest_us: float
    slowest_us: float


def copies_of(weight_bytes: int) -> int:
    """Return how many sets of weights to rotate."""
    return max(2, -(-int(ROTATED_BYTES) // weight_bytes))


def captured(calls: Sequence[Callable[[int], None]]) -> tuple[torch.cuda.CUDAGraph, int]:
    """Return a graph that calls each of `calls` on a stream, in turn, and how many it makes."""
    for each in calls:
        each(torch.cuda.current_stream().cuda_stream)
    torch.cuda.synchronize()
    single = _milliseconds(lambda: calls[0](torch.cuda.current_stream().cuda_stream)) / 1e3
    wanted = int(GRAPH_SECONDS / max(single, 1e-7)) + 1
    count = min(max(wanted, FEWEST_CALLS), MOST_CALLS)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        stream = torch.cuda.current_stream().cuda_stream
        for each in islice(cycle(calls), count):
            each(stream)
    return graph, count


def interleaved(candidates: Sequence[Sequence[Callable[[int], None]]]) -> list[Timing]:
    """Return the time of a call of each candidate; all are timed in turn, several times."""
    graphs = [captured(calls) for calls in candidates]
    found: list[list[list[float]]] = [[] for _ in graphs]
    for _ in range(REPEATS):
        for runs, (graph, count) in zip(found, graphs, strict=True):
            graph.replay()
            runs.append([1e3 * _milliseconds(graph.replay) / count for _ in range(REPLAYS)])
    return [summary(runs) for runs in found]


def summary(repeats: Sequence[Sequence[float]]) -> Timing:
    """Return the statistic of microseconds, by repeat."""
    typical = [median(runs) for runs in repeats]
    return Timing(median(us for runs in repeats for us in runs), min(typical), max(typical))


def ceilings() -> dict[str, float]:
    """Return what this GPU can do: bytes and operations per second, and the time of a launch."""
    source = torch.empty(2**32, dtype=torch.int8, device="cuda")
    target = torch.empty_like(source)
    wide = source.view(torch.int64)
    one = torch.zeros(1, device="cuda")
    side = 8192
    floats = torch.randn(side, side, dtype=torch.bfloat16, device="cuda")
    codes = torch.randint(-128, 128, (side, side), device="cuda").to(torch.int8)
    operations = 2.0 * side**3
    return {
        "copy_bytes_per_s": 2 * source.numel() / _seconds(lambda: target.copy_(source)),
        "read_bytes_per_s": source.numel() / _seconds(wide.sum),
        "bfloat16_operations_per_s": operations / _seconds(lambda: floats @ floats.T),
        "int8_operations_per_s": operations / _seconds(lambda: torch._int_mm(codes, codes.T)),
        "launch_us": interleaved([[lambda _: one.add_(1)]])[0].us,
    }


def _seconds(call: Callable[[], object]) -> float:
    call()
    return median(_milliseconds(call) for _ in range(REPLAYS)) / 1e3


def _milliseconds(call: Callable[[], object]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end))
