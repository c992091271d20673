"""What exact mode costs: each kernel that has both with fixed and with free sums, by turns.

Rows of the table as in cases.py, `fixed` and `free`; a line of cost for each shape.
"""
import torch

import checks
import library
import softmax_checks
from timing import alternate_ms

BF16, F32 = checks.BF16, checks.F32
WEIGHT_BYTES = 400 << 20  # together, so that the cache does not serve them


def compare(rows, kernel, shape, fixed, free, moved, flops, rounds=21):
    """fixed, free: lists of functions, the same work on different data."""
    times = alternate_ms(fixed, free, rounds)
    for who, ms in zip(("fixed", "free"), times):
        rows.append((kernel, shape, who, ms, moved, flops))
    print(f"exact mode: {kernel:20s} {shape:12s} fixed {times[0]:8.4f} ms, free {times[1]:8.4f} ms, "
          f"cost {100 * (times[0] / times[1] - 1):+6.1f} %", flush=True)


def products(lib, rows, kernel, features, cols, store, kind, tokens, partials):
    copies = max(1, -(-WEIGHT_BYTES // (features * cols * 2)))
    packed = [lib.pack(torch.randn(features, cols, **BF16).mul_(cols ** -0.5)) for _ in range(copies)]
    for count in tokens:
        tiled, capacity = lib.tile(torch.randn(count, cols, **BF16))
        out = torch.empty(count, features, **kind)
        fixed, free = ([lambda w=w, p=p: lib.dense(tiled, capacity, count, w, cols, features, store,
                                                   out, p) for w in packed] for p in (None, partials))
        moved = features * cols * 2 + count * (cols * 2 + features * out.element_size())
        compare(rows, kernel, f"T={count}", fixed, free, moved, 2 * count * cols * features,
                9 if count > 4000 else 21)


def product_cases(lib, rows):
    partials = lib.partials()
    products(lib, rows, "24576 x 6144, SiLU", 24576, 6144, library.STORE_SILU_BF16, BF16,
             (1, 16, 64, 128, 256, 512, 1024, 2048, 8192), partials)
    products(lib, rows, "6144 x 8192, f32", 6144, 8192, library.STORE_F32, F32,
             (1, 16, 64, 128, 256, 512, 1024, 2048, 8192), partials)
    products(lib, rows, "8192 x 6144, bf16", 8192, 6144, library.STORE_BF16, BF16,
             (1, 16, 64, 128, 256, 512, 1024, 2048, 8192), partials)
    products(lib, rows, "head 200064 x 6144", 200064, 6144, library.STORE_F32, F32, (1, 16, 64, 128),
             partials)


def expert_cases(lib, layer, rows):
    partials = lib.partials()
    expert_bytes = 3 * layer.hidden * layer.inner * 2
    for tokens in (1, 16, 256, 1024):
        # A token's two experts fit into no cache; of more tokens all are hit.
        x = torch.randn(tokens, layer.hidden, **BF16)
        ids = checks.route_ids(tokens, layer.experts, layer.k)
        out = torch.empty(tokens * layer.k, layer.hidden, **BF16)
        hit = torch.unique(ids.int()).numel()
        moved = hit * expert_bytes + tokens * layer.hidden * 2 * (1 + layer.k)
        flops = 2 * tokens * layer.k * 3 * layer.hidden * layer.inner
        compare(rows, "experts", f"T={tokens}", [lambda: layer.run(x, ids, out)],
                [lambda: layer.run(x, ids, out, partials)], moved, flops)


def softmax_cases(lib, rows):
    for count, length in ((1, 8192), (8, 8192), (64, 8192), (16, 32768), (1, 131072)):
        calls = ([], [])
        for _ in range(4 if count * length <= 65536 else 1):
            table, stride, pages, q = softmax_checks.softmax_setup(lib, [length] * count)
            lengths = torch.full((count,), length, dtype=torch.int32, device="cuda")
            out = torch.empty(count, 64, 128, **BF16)
            for which, sums in enumerate((library.SUMS_FIXED, library.SUMS_FREE)):
                partial = torch.empty(lib.lib.fg_softmax_scratch(count, 64, length, sums) // 4, **F32)
                calls[which].append(
                    lambda a=(q, pages, table, stride, lengths, length, count, 64, 8, partial, out, sums):
                    lib.call("fg_softmax_decode", *a))
        moved = count * length * 4096 + count * 64 * 512
        compare(rows, "softmax decode", f"{count}x{length}", *calls, moved,
                count * length * 64 * 128 * 4)
        del calls, pages
