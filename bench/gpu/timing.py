"""Timing by CUDA events, and the two ceilings of the card measured in the same run."""
import statistics

import torch


def time_ms(function, repeats=20, warmup=3):
    """Median time of one eager call in ms."""
    for _ in range(warmup):
        function()
    torch.cuda.synchronize()
    times = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        function()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def captured(functions):
    """A graph of one call of each function, after they have run once."""
    for function in functions:
        function()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for function in functions:
            function()
    return graph


def time_graph_ms(functions, repeats=20):
    """Median time of one call in ms, launch gaps of the host removed: the functions (same work on
    different inputs, so that the cache does not serve them) are captured in one graph."""
    return time_ms(captured(functions).replay, repeats) / len(functions)


def alternate_ms(first, second, rounds=21):
    """Medians of one call of each of two lists of functions, captured as in time_graph_ms(). The two
    graphs take turns, so that what the card does meanwhile (clocks, power) happens to both."""
    graphs = [(captured(functions), len(functions)) for functions in (first, second)]
    for graph, _ in graphs * 2:
        graph.replay()
    torch.cuda.synchronize()
    times = [[], []]
    for n in range(rounds):
        for which in ((0, 1) if n % 2 == 0 else (1, 0)):
            graph, calls = graphs[which]
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            graph.replay()
            end.record()
            end.synchronize()
            times[which].append(start.elapsed_time(end) / calls)
    return [statistics.median(t) for t in times]


def copy_bandwidth():
    """Bytes read and written a second by a large device copy."""
    a = torch.empty(2 << 30, dtype=torch.uint8, device="cuda").random_(0, 255)
    b = torch.empty_like(a)
    return 2 * a.numel() / (time_ms(lambda: b.copy_(a)) * 1e-3)


def product_rate():
    """FLOP/s of an 8192^3 bf16 product by the vendor's library."""
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    b = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    return 2 * 8192**3 / (time_ms(lambda: a @ b) * 1e-3)
