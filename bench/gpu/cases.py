"""Timed cases: each kernel of the backend beside its public peers, same shapes, same run.

A case yields rows (kernel, shape, who, ms, bytes, flops): bytes and flops are the least the work
needs, so that the report can say how far from the card's ceilings a time is.
"""
import torch
import torch.nn.functional as F

import checks
import library
import softmax_checks
from timing import time_graph_ms, time_ms

BF16, F32 = checks.BF16, checks.F32


with_peers = True


def peer(name, make):
    """A peer that is missing or fails costs its own row only."""
    if not with_peers:
        return None
    try:
        return make()
    except Exception as error:  # noqa: BLE001 - any failure of a peer is reported, not fatal
        print(f"peer {name}: {type(error).__name__}: {str(error)[:200]}", flush=True)
        return None


def experts_cases(lib, layer, weights, rows):
    gate, up, down = weights
    stacked = torch.cat([gate, up], 1)  # [E, 2 inner, hidden], the peers' layout
    expert_bytes = 3 * layer.hidden * layer.inner * 2
    plan = [(1, 0.0), (4, 0.0), (16, 0.0), (64, 0.0), (256, 0.0), (1024, 0.0), (256, 1.0), (1024, 1.0),
            (4096, 0.0), (16384, 0.0)]
    for tokens, skew in plan:
        x = torch.randn(tokens, layer.hidden, **BF16)
        ids = checks.route_ids(tokens, layer.experts, layer.k, skew)
        out = torch.empty(tokens * layer.k, layer.hidden, **BF16)
        flat = ids.int().view(-1)
        hit = torch.unique(flat).numel()
        moved = hit * expert_bytes + tokens * layer.hidden * 2 * (1 + layer.k)
        flops = 2 * tokens * layer.k * 3 * layer.hidden * layer.inner
        shape = f"T={tokens}" + (" skewed" if skew else "")
        repeats = 5 if tokens > 2000 else 15
        run = [lambda: layer.run(x, ids, out)]
        rows.append(("experts", shape, "fulgur", time_graph_ms(run, repeats), moved, flops))
        if tokens <= 1024:
            with lib.without_overlap():
                ms = time_graph_ms(run, repeats)
            rows.append(("experts", shape, "without overlap", ms, moved, flops))
        if tokens <= 4 and skew == 0:
            rows += experts_in_a_row(lib, layer, tokens, shape)
        if skew == 0:  # what surrounds the products, alone
            *_, capacity = layer.plan(ids)
            ms = time_graph_ms([lambda: layer.plan(ids)] * 10)
            rows.append(("experts: plan", shape, "fulgur", ms, flat.numel() * 10, 0))
            ms = time_graph_ms([lambda: layer.gather(x, capacity)])
            rows.append(("experts: gather", shape, "fulgur", ms, flat.numel() * layer.hidden * 4, 0))
        order = flat.argsort(stable=True)
        counts = torch.bincount(flat, minlength=layer.experts)
        offsets = counts.cumsum(0).to(torch.int32)
        source = order // layer.k

        def grouped():
            inner = torch._grouped_mm(x[source], stacked.transpose(1, 2), offs=offsets)
            h = F.silu(inner[:, :layer.inner]) * inner[:, layer.inner:]
            return torch._grouped_mm(h, down.transpose(1, 2), offs=offsets)

        ms = peer("torch._grouped_mm", lambda: time_ms(grouped, repeats))
        if ms:
            rows.append(("experts", shape, "torch._grouped_mm", ms, moved, flops))
        if skew == 0:
            sizes = counts.tolist()

            def loop():
                at = 0
                xs = x[source]
                for e, n in enumerate(sizes):
                    if n:
                        inner = xs[at:at + n] @ stacked[e].T
                        (F.silu(inner[:, :layer.inner]) * inner[:, layer.inner:]) @ down[e].T
                        at += n

            ms = peer("cuBLAS loop", lambda: time_ms(loop, repeats))
            if ms:
                rows.append(("experts", shape, "cuBLAS loop", ms, moved, flops))


def experts_in_a_row(lib, layer, tokens, shape):
    """Layers one after the other in one graph, each of other experts than the last ones, so that the
    cache does not serve them: a call among others, where the start of a graph is not part of it."""
    calls = 8
    distinct = min(tokens * layer.k, layer.experts)
    x = torch.randn(tokens, layer.hidden, **BF16)
    out = torch.empty(tokens * layer.k, layer.hidden, **BF16)
    runs = []
    for call in range(calls):
        ids = (torch.arange(tokens * layer.k) + call * distinct) % layer.experts
        ids = ids.view(tokens, layer.k).cuda().to(torch.uint16)
        runs.append(lambda ids=ids: layer.run(x, ids, out))
    moved = (distinct * 3 * layer.hidden * layer.inner * (1 if layer.fp8 else 2)
             + tokens * layer.hidden * 2 * (1 + layer.k))
    flops = 2 * tokens * layer.k * 3 * layer.hidden * layer.inner
    name = "experts fp8" if layer.fp8 else "experts"
    rows = [(name, shape, f"{calls} in a row", time_graph_ms(runs, 15), moved, flops)]
    with lib.without_overlap():
        ms = time_graph_ms(runs, 15)
    return rows + [(name, shape, f"{calls} in a row, no overlap", ms, moved, flops)]


def fp8_cases(lib, layer, layer_fp8, rows):
    """Our bf16 and FP8 experts side by side; `fp8` in the name doubles the rate of the bound."""
    for tokens, skew in ((1, 0.0), (4, 0.0), (16, 0.0), (64, 0.0), (256, 0.0), (1024, 0.0), (256, 1.0),
                         (1024, 1.0), (4096, 0.0), (16384, 0.0)):
        x = torch.randn(tokens, layer.hidden, **BF16)
        ids = checks.route_ids(tokens, layer.experts, layer.k, skew)
        out = torch.empty(tokens * layer.k, layer.hidden, **BF16)
        hit = torch.unique(ids.int()).numel()
        weights = hit * 3 * layer.hidden * layer.inner
        around = tokens * layer.hidden * 2 * (1 + layer.k)
        flops = 2 * tokens * layer.k * 3 * layer.hidden * layer.inner
        shape = f"T={tokens}" + (" skewed" if skew else "")
        repeats = 5 if tokens > 2000 else 15
        times = []
        for name, which, size in (("experts", layer, 2), ("experts fp8", layer_fp8, 1)):
            times.append(time_graph_ms([lambda w=which: w.run(x, ids, out)], repeats))
            rows.append((name, shape, "fulgur", times[-1], weights * size + around, flops))
            if tokens <= 4 and size == 1:
                with lib.without_overlap():
                    ms = time_graph_ms([lambda w=which: w.run(x, ids, out)], repeats)
                rows.append((name, shape, "without overlap", ms, weights * size + around, flops))
                rows += experts_in_a_row(lib, which, tokens, shape)
        print(f"fp8 against bf16, {shape}: {times[0] / times[1]:.2f}x", flush=True)


def lightning_prefill_cases(lib, rows):
    heads = 64
    rates = checks.lightning_rates(heads)
    powers = checks.lightning_powers(rates)
    chunk = peer("flash-linear-attention", lambda: __import__(
        "fla.ops.simple_gla", fromlist=["chunk_simple_gla"]).chunk_simple_gla)
    for count, length in ((1, 2048), (1, 8192), (1, 32768), (8, 4096)):
        tokens = count * length
        qkv = checks.silu_qkv(tokens, heads)
        slots = lib.slots(count, heads)
        out = torch.empty(tokens, heads, 128, **BF16)
        # Position 64: the state is read as well as written, like the peer's.
        segments = lib.segments([(n * length, length, 64, slots[n]) for n in range(count)])
        moved = tokens * heads * 128 * 8 + count * heads * 2 * 65536
        flops = tokens * heads * 2 * (64 * 128 + 2 * 128 * 128)
        ms = time_graph_ms([lambda: lib.lightning(False, qkv, segments, heads, powers, out)], 15)
        shape = f"{count}x{length}"
        rows.append(("lightning prefill", shape, "fulgur", ms, moved, flops))
        if chunk is None:
            continue
        q, k, v = (qkv.view(count, length, heads, 3, 128)[:, :, :, n].contiguous() for n in range(3))
        state = torch.zeros(count, heads, 128, 128, **F32)
        gamma = (-rates).float().cuda()
        run = lambda: chunk(q, k, v, g_gamma=gamma, scale=1.0, initial_state=state,
                            output_final_state=True)
        with torch.no_grad():
            ms = peer("chunk_simple_gla", lambda: time_graph_ms([run], 15))
        if ms:
            rows.append(("lightning prefill", shape, "fla chunk_simple_gla", ms, moved, flops))


def lightning_decode_cases(lib, rows):
    heads = 64
    rates = checks.lightning_rates(heads)
    powers = checks.lightning_powers(rates)
    recurrent = peer("flash-linear-attention", lambda: __import__(
        "fla.ops.simple_gla", fromlist=["x"]).fused_recurrent_simple_gla)
    for count in (1, 16, 64, 256):
        sets = max(1, 128 // count)  # other states each call: more than the cache holds
        sets = min(sets, 16)
        qkv = checks.silu_qkv(count, heads)
        out = torch.empty(count, heads, 128, **BF16)
        all_slots = [lib.slots(count, heads) for _ in range(sets)]
        # Every place of a block is equally likely, one fold in 64 tokens included.
        place = lambda n: 64 + (n * 64 // count if count >= 64 else (n * 37 + 31) % 63)
        segments = [lib.segments([(n, 1, place(n), s[n]) for n in range(count)]) for s in all_slots]
        moved = sum(heads * (65536 + (place(n) % 64) * 512 + 4 * 256) for n in range(count))
        calls = [lambda g=g: lib.lightning(True, qkv, g, heads, powers, out) for g in segments]
        ms = time_graph_ms(calls)
        rows.append(("lightning decode", f"B={count}", "fulgur", ms, moved, 0))
        single = time_ms(calls[0])
        rows.append(("lightning decode", f"B={count}", "fulgur, one eager call", single, moved, 0))
        if recurrent is None:
            continue
        q, k, v = (qkv[:, None, :, n].contiguous() for n in range(3))
        states = [torch.zeros(count, heads, 128, 128, **F32) for _ in range(sets)]
        gamma = (-rates).float().cuda()
        both = count * heads * (2 * 65536 + 4 * 256)
        runs = [lambda s=s: recurrent(q, k, v, g_gamma=gamma, scale=1.0, initial_state=s,
                                      output_final_state=True) for s in states]
        with torch.no_grad():
            ms = peer("fused_recurrent_simple_gla", lambda: time_graph_ms(runs))
            if ms:
                rows.append(("lightning decode", f"B={count}", "fla fused_recurrent", ms, both, 0))
            ms = peer("fused_recurrent_simple_gla", lambda: time_ms(runs[0]))
            if ms:
                rows.append(("lightning decode", f"B={count}", "fla, one eager call", ms, both, 0))
        del all_slots, states


def softmax_cases(lib, rows):
    from torch.nn.attention import SDPBackend, sdpa_kernel
    for count, length in ((1, 8192), (1, 32768), (1, 131072), (16, 8192), (64, 8192)):
        sets = 4 if count * length <= 32768 else 1
        calls, plain = [], []
        for _ in range(sets):
            table, stride, pages, q = softmax_checks.softmax_setup(lib, [length] * count)
            lengths = torch.full((count,), length, dtype=torch.int32, device="cuda")
            floats = lib.lib.fg_softmax_scratch(count, 64, length, library.SUMS_FIXED) // 4
            partial = torch.empty(floats, **F32)
            out = torch.empty(count, 64, 128, **BF16)
            calls.append(lambda a=(q, pages, table, stride, lengths, length, count, 64, 8, partial, out,
                                   library.SUMS_FIXED):
                         lib.call("fg_softmax_decode", *a))
        moved = count * length * 4096 + count * 64 * 512
        flops = count * length * 64 * 128 * 4
        shape = f"{count}x{length}"
        rows.append(("softmax decode", shape, "fulgur", time_graph_ms(calls), moved, flops))
        del calls, pages
        for _ in range(sets):
            plain.append((torch.randn(count, 64, 1, 128, **BF16), torch.randn(count, 8, length, 128, **BF16),
                          torch.randn(count, 8, length, 128, **BF16)))
        for name, backend in (("torch SDPA cuDNN", SDPBackend.CUDNN_ATTENTION),
                              ("torch SDPA flash", SDPBackend.FLASH_ATTENTION)):
            def run(q, k, v, backend=backend):
                with sdpa_kernel(backend):
                    return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)

            runs = [lambda a=a, run=run: run(*a) for a in plain]
            ms = peer(name, lambda: time_graph_ms(runs))
            if ms:
                rows.append(("softmax decode", shape, name, ms, moved, flops))
        del plain


def softmax_prefill_cases(lib, rows):
    from torch.nn.attention import SDPBackend, sdpa_kernel
    for length in (2048, 8192, 32768):
        table, stride, pages, _ = softmax_checks.softmax_setup(lib, [length])
        q = torch.randn(length, 64, 128, **BF16)
        out = torch.empty(length, 64, 128, **BF16)
        tiles = softmax_checks.softmax_tiles([(0, length, 0, 0)])
        run = lambda: lib.call("fg_softmax_prefill", q, pages, table, stride, tiles, tiles.shape[0],
                               64, 8, out)
        moved = length * (4096 + 64 * 512)
        flops = length * (length + 1) // 2 * 64 * 128 * 4
        shape = f"1x{length}"
        rows.append(("softmax prefill", shape, "fulgur", time_graph_ms([run], 10), moved, flops))
        plain = [torch.randn(1, heads, length, 128, **BF16) for heads in (64, 8, 8)]
        for name, backend in (("torch SDPA cuDNN", SDPBackend.CUDNN_ATTENTION),
                              ("torch SDPA flash", SDPBackend.FLASH_ATTENTION)):
            def run_peer(backend=backend):
                with sdpa_kernel(backend):
                    return F.scaled_dot_product_attention(*plain, is_causal=True, enable_gqa=True)

            ms = peer(name, lambda: time_graph_ms([run_peer], 10))
            if ms:
                rows.append(("softmax prefill", shape, name, ms, moved, flops))


def dense_cases(lib, rows):
    cols, features = 6144, 24576  # the lightning layer's q, k, v projection
    weight = torch.randn(features, cols, **BF16).mul_(cols ** -0.5)
    packed = lib.pack(weight)
    for tokens in (1, 16, 64, 128, 256, 2048, 8192):
        x = torch.randn(tokens, cols, **F32)
        half = x.bfloat16()
        out = torch.empty(tokens, features, **BF16)
        tiled, capacity = lib.tile(x)
        moved = features * cols * 2 + tokens * (cols + features) * 2
        flops = 2 * tokens * cols * features
        run = lambda: lib.dense(tiled, capacity, tokens, packed, cols, features,
                                library.STORE_SILU_BF16, out)
        rows.append(("qkv product + SiLU", f"T={tokens}", "fulgur", time_graph_ms([run]), moved, flops))
        ms = peer("cuBLAS", lambda: time_graph_ms([lambda: torch.matmul(half, weight.T, out=out)]))
        if ms:
            rows.append(("qkv product + SiLU", f"T={tokens}", "cuBLAS (no SiLU)", ms, moved, flops))


def row_cases(lib, rows):
    for tokens in (128, 8192):
        dim = 6144
        x, y = torch.randn(tokens, dim, **F32), torch.randn(tokens, dim, **F32)
        weight = torch.randn(dim, **F32)
        out = torch.empty(tokens, dim, **F32)
        capacity = tokens + 256
        tiled = torch.empty(capacity * dim, **BF16)
        run = lambda: lib.call("fg_residual_norm", x, y, 3.5, 1.0, weight, 1e-5, tokens, dim, out,
                               tiled, capacity)
        rows.append(("residual + norm", f"T={tokens}", "fulgur", time_graph_ms([run]),
                     tokens * dim * 14, 0))
        outputs, w = torch.randn(tokens * 2, dim, **BF16), torch.rand(tokens, 2, **F32)
        run = lambda: lib.call("fg_combine", y, tokens, dim, 2, w, outputs, 3.5, 1.0, out)
        rows.append(("combine", f"T={tokens}", "fulgur", time_graph_ms([run]), tokens * dim * 12, 0))
        o, gate = torch.randn(tokens, 8192, **BF16), torch.randn(tokens, 8192, **BF16)
        tiled = torch.empty(capacity * 8192, **BF16)
        wide = torch.randn(8192, **F32)
        run = lambda: lib.call("fg_norm_gate", o, gate, wide, 1e-5, tokens, 8192, tiled, capacity)
        rows.append(("norm + gate", f"T={tokens}", "fulgur", time_graph_ms([run]), tokens * 8192 * 6, 0))
        router = torch.randn(32, dim, **F32)
        chosen = torch.zeros(tokens, 2, dtype=torch.uint16, device="cuda")
        run = lambda: lib.call("fg_route", x, tokens, dim, router, 32, 2, chosen, w)
        rows.append(("route", f"T={tokens}", "fulgur", time_graph_ms([run]), tokens * dim * 4,
                     tokens * dim * 64))


def draw_cases(lib, rows):
    vocab = 200064
    for count in (1, 16, 128):
        # Together more than the cache holds.
        inputs = [torch.randn(count, vocab, **F32) * 3 for _ in range(max(2, 256 // count))]
        moved = count * vocab * 4
        for who, make in (("greedy", lambda x: lib.draw(x, 0.0, 0.0)[0]),
                          ("temperature", lambda x: lib.draw(x, 1.0, 0.5)[0])):
            runs = [make(x) for x in inputs]
            rows.append((f"draw, {who}", f"B={count}", "fulgur", time_graph_ms(runs), moved, 0))
        runs = [lib.rank(x)[0] for x in inputs]
        rows.append(("rank", f"B={count}", "fulgur", time_graph_ms(runs), moved, 0))
        if with_peers:
            runs = [lambda x=x: torch.topk(x, 256) for x in inputs]
            rows.append(("rank", f"B={count}", "torch.topk", time_graph_ms(runs), moved, 0))
