"""Correctness on the GPU: every kernel against float64 on fresh random inputs with poisoned outputs,
and bit equality of exact mode across batch sizes, companies and cuts of a sequence.

The seed is printed; a check is one number, |out - ref| / |ref|, and a limit that bf16 explains.
"""
import torch

import library

NAN = float("nan")
BF16 = dict(dtype=torch.bfloat16, device="cuda")
F32 = dict(dtype=torch.float32, device="cuda")


class Report:
    def __init__(self):
        self.rows = []

    def error(self, name, out, reference, limit):
        out, reference = out.double(), reference.double()
        value = ((out - reference).norm() / reference.norm()).item()
        self.add(name, value <= limit, f"rel. error {value:.2e} (limit {limit:.0e})")

    def same(self, name, a, b):
        a, b = a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8)
        differing = (a != b).sum().item()
        self.add(name, differing == 0, "bit-equal" if differing == 0 else f"{differing} bytes differ")

    def add(self, name, passed, text):
        self.rows.append((name, passed, text))
        print(f"{'ok  ' if passed else 'FAIL'} {name}: {text}", flush=True)


def lightning_rates(heads, layer=10, layers=80):
    slopes = torch.tensor([2.0 ** (-8.0 * (h + 1) / heads) for h in range(heads)], dtype=torch.float64)
    return slopes * (1 - layer / (layers - 1) + 1e-5)


def lightning_powers(rates):
    return torch.exp(-rates[:, None] * torch.arange(65)).float().cuda().contiguous()


def lightning_reference(qkv, rates, state):
    """float64 block form. qkv [T, H, 3, 128]; state [H, 128, 128] -> out [T, H, 128], state."""
    x = qkv.double()
    q, k, v = (x[:, :, n].transpose(0, 1) for n in range(3))
    rates = rates.cuda()
    out, state, total = torch.empty_like(q), state.double(), q.shape[1]
    for start in range(0, total, 64):
        n = min(64, total - start)
        i = torch.arange(n, device="cuda", dtype=torch.float64)
        b = slice(start, start + n)
        decay = torch.exp(-rates[:, None, None] * (i[:, None] - i[None]).clamp(min=0))
        decay = torch.where(i[:, None] >= i[None], decay, 0.0)
        inter = torch.exp(-rates[:, None] * (i + 1))[..., None] * (q[:, b] @ state)
        out[:, b] = inter + ((q[:, b] @ k[:, b].transpose(1, 2)) * decay) @ v[:, b]
        left = torch.exp(-rates[:, None] * (n - 1 - i))[..., None]
        state = torch.exp(-rates * n)[:, None, None] * state + (k[:, b] * left).transpose(1, 2) @ v[:, b]
    return out.transpose(0, 1), state


def silu_qkv(tokens, heads):
    return torch.nn.functional.silu(torch.randn(tokens, heads, 3, 128, **F32)).bfloat16()


def run_lightning(lib, qkv, heads, powers, cuts, slot, start=0):
    """Cuts a sequence into calls; a cut of one token is decoded. Returns out."""
    out = torch.full((qkv.shape[0], heads, 128), NAN, **BF16)
    at = 0
    for rows in cuts:
        segment = lib.segments([(at, rows, start + at, slot)])
        lib.lightning(rows == 1, qkv, segment, heads, powers, out)
        at += rows
    assert at == qkv.shape[0]
    return out


def check_lightning(lib, report):
    heads, tokens = 64, 333
    rates = lightning_rates(heads)
    powers = lightning_powers(rates)
    qkv = silu_qkv(tokens, heads)
    zero = torch.zeros(heads, 128, 128, **F32)
    reference, _ = lightning_reference(qkv, rates, zero)
    _, state = lightning_reference(qkv[:320], rates, zero)
    slots = lib.slots(4, heads)
    slots.fill_(0xff)  # NaN everywhere: position 0 must ignore it
    whole = run_lightning(lib, qkv, heads, powers, [tokens], slots[0])
    report.error("lightning prefill, 64 heads, 333 tokens", whole, reference, 6e-3)
    report.error("lightning state after 320 tokens", lib.states(slots[:1], heads)[0], state, 4e-3)
    cut = run_lightning(lib, qkv, heads, powers, [1, 62, 1, 1, 30, 97, 64, 1, 1, 75], slots[1])
    report.same("lightning: cut into chunks and decodes = whole", whole, cut)
    single = run_lightning(lib, qkv, heads, powers, [1] * tokens, slots[2])
    report.same("lightning: decoded token by token = whole", whole, single)
    states = lib.states(slots[:3], heads)
    report.same("lightning state: cut = whole", states[0], states[1])
    report.same("lightning state: decode = whole", states[0], states[2])

    # Company: sequences of other lengths and positions in the same call.
    lengths = [1, 63, 64, 65, 200, 7, 128]
    many = silu_qkv(sum(lengths), heads)
    shared, alone = lib.slots(len(lengths), heads), lib.slots(len(lengths), heads)
    out = torch.full((many.shape[0], heads, 128), NAN, **BF16)
    entries, row = [], 0
    for n, length in enumerate(lengths):
        entries.append((row, length, 0, shared[n]))
        row += length
    lib.lightning(False, many, lib.segments(entries), heads, powers, out)
    parts = [run_lightning(lib, many[r:r + n].contiguous(), heads, powers, [n], alone[i])
             for i, (r, n, _, _) in enumerate(entries)]
    report.same("lightning prefill: company of 7 = alone", out, torch.cat(parts))
    token = silu_qkv(len(lengths), heads)
    batch = [(n, 1, lengths[n], shared[n]) for n in range(len(lengths))]
    together = torch.full((len(lengths), heads, 128), NAN, **BF16)
    lib.lightning(True, token, lib.segments(batch), heads, powers, together)
    parts = [run_lightning(lib, token[n:n + 1].contiguous(), heads, powers, [1], alone[n], lengths[n])
             for n in range(len(lengths))]
    report.same("lightning decode: company of 7 = alone (other grid)", together, torch.cat(parts))


def expert_weights(experts, hidden, inner):
    scale = lambda n: n ** -0.5
    gate = torch.randn(experts, inner, hidden, **BF16).mul_(scale(hidden))
    up = torch.randn(experts, inner, hidden, **BF16).mul_(scale(hidden))
    down = torch.randn(experts, hidden, inner, **BF16).mul_(scale(inner))
    return gate, up, down


def route_ids(tokens, experts, k, skew=0.0):
    """Distinct random experts a token; skew > 0 prefers low numbers (Zipf)."""
    weight = 1.0 / torch.arange(1, experts + 1, dtype=torch.float32) ** skew
    ids = torch.multinomial(weight.expand(tokens, experts), k)
    return ids.cuda().to(torch.uint16)


def check_experts(lib, layer, weights, report):
    gate, up, down = weights
    k = layer.k
    first = None
    for tokens in (1, 5, 40, 300, 1024, 9000):
        x = torch.randn(tokens, layer.hidden, **BF16)
        ids = route_ids(tokens, layer.experts, k, skew=0.7)
        if first is None:
            first = (x[0].clone(), ids[0].clone())
        x[tokens // 2], ids[tokens // 2] = first
        out = torch.full((tokens * k, layer.hidden), NAN, **BF16)
        layer.poison()
        layer.run(x, ids, out)
        name = f"experts, {tokens} tokens"
        report.add(f"{name}: every row written", not out.isnan().any().item(), "no NaN left")
        flat = ids.int().view(-1)
        rows, references = [], []
        for e in torch.unique(flat)[[0, -1]].tolist():
            mine = (flat == e).nonzero().view(-1)[:400]
            a = x[mine // k].float()
            inner = (torch.nn.functional.silu(a @ gate[e].float().T) * (a @ up[e].float().T)).bfloat16()
            rows.append(out[mine])
            references.append(inner.float() @ down[e].float().T)
        report.error(name, torch.cat(rows), torch.cat(references), 6e-3)
        row = out[tokens // 2 * k:(tokens // 2 + 1) * k]
        if tokens == 1:
            alone = row.clone()
        else:
            report.same(f"{name}: the token alone = in company", row, alone)


def e4m3_scales(amax):
    """amax float32 -> (scale, inverse) as common/base/e4m3.hpp; divided on the CPU, because torch
    multiplies by reciprocals of scalars on the GPU."""
    top = amax.float().cpu().clamp(min=2.0 ** -100)
    most = torch.full_like(top, 448.0)
    return (top / most).cuda(), (most / top).cuda()


def quantize_weight(weight):
    """[rows, cols] -> codes [rows, cols] uint8, scales [rows / 128, cols / 128] by torch."""
    rows, cols = weight.shape
    blocks = weight.float().view(rows // 128, 128, cols // 128, 128)
    scale, inverse = e4m3_scales(blocks.abs().amax((1, 3)))
    codes = (blocks * inverse[:, None, :, None]).to(torch.float8_e4m3fn)
    return codes.view(rows, cols).view(torch.uint8), scale


def quantize_rows(x):
    """[rows, cols] -> codes uint8, scales [rows, cols / 128] by torch."""
    rows, cols = x.shape
    blocks = x.float().view(rows, cols // 128, 128)
    scale, inverse = e4m3_scales(blocks.abs().amax(2))
    codes = (blocks * inverse[:, :, None]).to(torch.float8_e4m3fn)
    return codes.view(rows, cols).view(torch.uint8), scale


def dequantize(codes, scales):
    """codes [rows, cols] uint8, scales [rows, cols / 128] -> float64."""
    values = codes.contiguous().view(torch.float8_e4m3fn).float().double()
    return values * scales.double().repeat_interleave(128, 1)


def uneven(rows, cols, kind=F32):
    """Values over many magnitudes: zeros, e4m3's subnormals, blocks of zeros and of tiny numbers."""
    x = torch.randn(rows, cols, **F32) * (2 * torch.randn(rows, cols, **F32)).exp()
    x[:128, :128] = 0
    x[128:256, :128] *= 1e-38
    x[:, 200] = -0.0
    return x.to(kind["dtype"])


def check_quantizers(lib, report):
    for kind, name in ((BF16, "bf16"), (F32, "f32")):
        gate, up, down = uneven(640, 768, kind), uneven(640, 768, kind), uneven(512, 640, kind)
        codes, scales = library.unpack_fp8(lib.pack_fp8(down), 512, 640)
        want, want_scales = quantize_weight(down)
        report.same(f"quantiser: codes of {name} weights = torch's", codes, want)
        report.same(f"quantiser: scales of {name} weights", scales,
                    want_scales.repeat_interleave(128, 0))
        codes, scales = library.unpack_fp8(lib.pack_gate_up_fp8(gate, up), 1280, 768)
        place = library.gate_rows_fp8(640)
        for part, at, which in ((gate, place, "gate"), (up, place + 8, "up")):
            want, want_scales = quantize_weight(part)
            report.same(f"quantiser: codes of {name} {which} rows", codes[at], want)
            report.same(f"quantiser: scales of {name} {which} rows", scales[at],
                        want_scales.repeat_interleave(128, 0))
        x = uneven(301, 768, kind)
        capacity = 512
        source = torch.full((capacity,), -1, dtype=torch.int32, device="cuda")
        source[3:304] = torch.randperm(301, device="cuda").int()
        codes, scales = library.untile_fp8(lib.gather_fp8(x, source), capacity, 768)
        want, want_scales = quantize_rows(x[source[3:304].long()])
        report.same(f"quantiser: codes of gathered {name} rows", codes[3:304], want)
        report.same(f"quantiser: scales of gathered {name} rows", scales[3:304], want_scales)
        report.add(f"quantiser: {name} rows without a source untouched",
                   bool((codes[:3] == 255).all() and (codes[304:] == 255).all()), "still poisoned")


GROUP_SIZES = [0, 1, 2, 300, 8, 9, 15, 16, 17, 32, 33, 0, 64, 65, 96, 97, 128, 129, 200, 257, 0]
# Rows a group that the launcher is told of: it chooses tiles by them, whatever the counts are. 0: 16
# rows in all.
TILE_SHAPES = (("16 rows", 0), ("64 rows", 4), ("128 rows", 64), ("128 rows, clusters", 200))


def place_groups(sizes):
    """counts, offsets (int32, device), the tiled rows of each group, capacity."""
    offsets, at = [], 0
    for size in sizes:
        offsets.append(at)
        at += (size + 7) // 8 * 8
    ints = dict(dtype=torch.int32, device="cuda")
    rows = [torch.arange(o, o + s, device="cuda") for o, s in zip(offsets, sizes)]
    return torch.tensor(sizes, **ints), torch.tensor(offsets, **ints), rows, at + 256


def grouped(lib, tiled, capacity, weights, weight_rows, cols, groups, mean, features, store, out,
            out_rows=None, fp8=True):
    counts, offsets = groups
    table = torch.tensor([w.data_ptr() for w in weights], dtype=torch.int64, device="cuda")
    lib.call("fg_product", int(fp8), tiled, capacity, max(16, mean * len(weights)), cols,
             table, weight_rows,
             counts, offsets, len(weights), features, store, out, out_rows)


def check_plan(lib, report):
    """Groups of routes against a stable sort, whatever cuts them; targets of padding untouched."""
    for tokens, experts, k, skew in ((1, 32, 2, 0.0), (1000, 256, 2, 1.0), (1024, 32, 2, 0.0),
                                     (1025, 32, 2, 0.0), (9001, 7, 3, 1.0), (16384, 32, 2, 0.0),
                                     (16384, 256, 2, 0.0), (50000, 32, 2, 2.0)):
        ids = route_ids(tokens, experts, k, skew)
        flat = ids.int().view(-1)
        capacity = lib.lib.fg_tiled_capacity(tokens * k, experts)
        ints = dict(dtype=torch.int32, device="cuda")
        got = [torch.full((n,), -77, **ints) for n in (experts, experts, capacity, capacity)]
        lib.call("fg_plan_groups", ids, tokens, k, *got, experts, capacity)
        counts = torch.bincount(flat, minlength=experts)
        padded = (counts + 7) // 8 * 8
        offsets = padded.cumsum(0) - padded
        order = flat.argsort(stable=True)
        place = (offsets - (counts.cumsum(0) - counts))[flat[order].long()]
        place = place + torch.arange(tokens * k, device="cuda")
        source, target = torch.full((capacity,), -1, **ints), torch.full((capacity,), -77, **ints)
        source[place], target[place] = (order // k).int(), order.int()
        for name, a, b in zip(("counts", "offsets", "sources", "targets"), got,
                              (counts.int(), offsets.int(), source, target)):
            report.same(f"plan, {tokens * k} routes, {experts} groups: {name}", a, b)


def check_products(lib, report):
    """Each tile shape and store on ragged groups, in place and scattered: against float64, each other,
    and what lies beside. 328 features end within a tile, 330 within 16 bytes."""
    sizes = GROUP_SIZES[:-1] + [1030, 513, 0]
    cols = 1152
    counts, offsets, places, capacity = place_groups(sizes)
    used = torch.cat(places)
    source = torch.full((capacity,), -1, dtype=torch.int32, device="cuda")
    source[used] = torch.arange(used.numel(), device="cuda", dtype=torch.int32)
    x = torch.randn(used.numel(), cols, **BF16)
    first = x[0].clone()
    chosen = [place[len(place) * 2 // 3].item() for place in places if len(place)]
    x[source[chosen].long()] = first
    tiled = torch.full((capacity * cols,), NAN, **BF16)
    lib.call("fg_gather", x, 0, cols, source, capacity, tiled)
    a = x.double()
    blank = torch.ones(capacity, dtype=torch.bool, device="cuda")
    blank[used] = False
    moved = torch.full((capacity,), -1, dtype=torch.int32, device="cuda")
    moved[used] = used[torch.randperm(used.numel(), device="cuda")].int()
    for features in (1536, 328, 330):
        weight_rows = (features + 255) // 256 * 256
        plain = torch.randn(features, cols, **BF16).mul_(cols ** -0.5)
        packed = lib.pack(plain)
        sums = a @ plain.double().T
        for store, kind, limit in ((library.STORE_F32, F32, 1e-5), (library.STORE_BF16, BF16, 3e-3),
                                   (library.STORE_SILU_BF16, BF16, 3e-3)):
            want = torch.nn.functional.silu(sums) if store == library.STORE_SILU_BF16 else sums
            kept = None
            for shape, mean in TILE_SHAPES:
                name = f"product {features} x {cols}, store {store}, tiles of {shape}"
                outs = []
                for to in (None, moved):
                    out = torch.full((capacity, features), NAN, **kind)
                    grouped(lib, tiled, capacity, [packed] * len(sizes), weight_rows, cols,
                            (counts, offsets), mean, features, store, out, to, fp8=False)
                    report.add(f"{name}: nothing beside", bool(out[blank].isnan().all()),
                               "still poisoned")
                    outs.append(out[used] if to is None else out[moved[used].long()])
                report.error(name, outs[0], want, limit)
                report.same(f"{name}: scattered = in place", *outs)
                kept = outs[0] if kept is None else kept
                report.same(f"{name}: as the first shape's", outs[0], kept)
                rows = outs[0][source[chosen].long()]
                report.same(f"{name}: a row in groups of 1 to 1030", rows,
                            rows[:1].expand_as(rows).contiguous())
    inner = 768
    gate, up = (torch.randn(inner, cols, **BF16).mul_(cols ** -0.5) for _ in range(2))
    packed = lib.pack_gate_up(gate, up)
    want = torch.nn.functional.silu(a @ gate.double().T) * (a @ up.double().T)
    kept = None
    for shape, mean in TILE_SHAPES:
        name = f"SwiGLU {inner} x {cols}, tiles of {shape}"
        out = torch.full((capacity * inner,), NAN, **BF16)
        grouped(lib, tiled, capacity, [packed] * len(sizes), 2 * inner, cols, (counts, offsets), mean,
                inner, library.STORE_SWIGLU, out, fp8=False)
        plain = untile(lib, out, capacity, capacity - 16, inner)
        report.error(name, plain[used], want, 4e-3)
        # The last eight rows of a group may be filled; beyond the last group nothing is.
        report.add(f"{name}: nothing beside", bool(plain[capacity - 256:].isnan().all()),
                   "still poisoned")
        kept = plain[used] if kept is None else kept
        report.same(f"{name}: as the first shape's", plain[used], kept)
        rows = plain[chosen]
        report.same(f"{name}: a row in groups of 1 to 1030", rows,
                    rows[:1].expand_as(rows).contiguous())


def check_products_fp8(lib, report):
    """Each tile shape on ragged groups: against float64 of the very operands, bits of a row that is
    in every group, and the quantised SwiGLU against float64's."""
    for cols, rows in ((1152, 1536), (256, 768)):  # 768 rows are too few for clusters
        sizes = GROUP_SIZES
        counts, offsets, places, capacity = place_groups(sizes)
        used = torch.cat(places)
        source = torch.full((capacity,), -1, dtype=torch.int32, device="cuda")
        source[used] = torch.arange(used.numel(), device="cuda", dtype=torch.int32)
        x = torch.randn(used.numel(), cols, **BF16)
        first = x[0].clone()
        chosen = [place[len(place) * 2 // 3].item() for place in places if len(place)]
        x[source[chosen].long()] = first
        tiled = lib.gather_fp8(x, source)
        codes, scales = library.untile_fp8(tiled, capacity, cols)
        a = dequantize(codes, scales)[used]
        plain = torch.randn(rows, cols, **BF16).mul_(cols ** -0.5)
        packed = lib.pack_fp8(plain)
        want = a @ dequantize(*library.unpack_fp8(packed, rows, cols)).T
        gate = torch.randn(rows // 2, cols, **BF16).mul_(cols ** -0.5)
        up = torch.randn(rows // 2, cols, **BF16).mul_(cols ** -0.5)
        both = lib.pack_gate_up_fp8(gate, up)
        stacked = a @ dequantize(*library.unpack_fp8(both, rows, cols)).T
        at = library.gate_rows_fp8(rows // 2)
        inner = torch.nn.functional.silu(stacked[:, at]) * stacked[:, at + 8]
        top = inner.view(len(inner), -1, 128).abs().amax(2)
        kept, kept_inner = None, None
        for shape, mean in TILE_SHAPES:
            name = f"fp8 product {rows} x {cols}, tiles of {shape}"
            out = torch.full((capacity, rows), NAN, **F32)
            run = (capacity, [packed] * len(sizes), rows, cols, (counts, offsets), mean)
            grouped(lib, tiled, *run, rows, library.STORE_F32, out)
            report.error(name, out[used], want, 2e-3)
            blank = torch.ones(capacity, dtype=torch.bool, device="cuda")
            blank[used] = False
            report.add(f"{name}: nothing beside", bool(out[blank].isnan().all()), "still poisoned")
            half = torch.full((capacity, rows), NAN, **BF16)
            grouped(lib, tiled, *run, rows, library.STORE_BF16, half)
            report.same(f"{name}: bf16 = rounded f32", half[used], out[used].bfloat16())
            kept = out[used].clone() if kept is None else kept
            report.same(f"{name}: as the first shape's", out[used], kept)
            alone = out[chosen[0]]
            report.same(f"{name}: a row in groups of 1 to 300", out[chosen],
                        alone.expand(len(chosen), rows))
            tiles = torch.full((library.tiled_fp8_bytes(capacity, rows // 2),), 0xff,
                               dtype=torch.uint8, device="cuda")
            run = (capacity, [both] * len(sizes), rows, cols, (counts, offsets), mean)
            grouped(lib, tiled, *run, rows // 2, library.STORE_SWIGLU, tiles)
            codes, scales = library.untile_fp8(tiles, capacity, rows // 2)
            got, got_scales = codes[used], scales[used]
            report.error(f"{name}: SwiGLU scales", got_scales * 448, top, 2e-3)
            # A code is right when it lies within half a step, and a step is at most amax / 14.
            off = (dequantize(got, got_scales) - inner).abs().view(len(inner), -1, 128)
            worst = (off / top[..., None]).max().item()
            report.add(f"{name}: SwiGLU codes", worst <= 0.5 / 14 + 2e-3,
                       f"at most {worst:.4f} of a block's largest away (a half step: {0.5 / 14:.4f})")
            report.error(f"{name}: SwiGLU, quantised", dequantize(got, got_scales), inner, 3.2e-2)
            report.add(f"{name}: SwiGLU, nothing beside",
                       bool((codes[blank] == 255).all() and scales[blank].isnan().all()),
                       "still poisoned")
            kept_inner = tiles.clone() if kept_inner is None else kept_inner
            report.same(f"{name}: SwiGLU as the first shape's", tiles, kept_inner)
            report.same(f"{name}: SwiGLU of a row in groups of 1 to 300", codes[chosen],
                        codes[chosen[0]].expand(len(chosen), rows // 2))


def check_experts_fp8(lib, layer, weights, report):
    """The whole layer: down against float64 of the codes it multiplied (tight), the result against
    the unquantised weights (loose: e4m3 keeps 3 bits, some 2.6 % of every factor), bits in company."""
    gate, up, down = weights
    k = layer.k
    first = None
    for tokens in (1, 5, 40, 300, 1024, 9000):
        x = torch.randn(tokens, layer.hidden, **BF16)
        ids = route_ids(tokens, layer.experts, k, skew=0.7)
        if first is None:
            first = (x[0].clone(), ids[0].clone())
        x[tokens // 2], ids[tokens // 2] = first
        out = torch.full((tokens * k, layer.hidden), NAN, **BF16)
        layer.poison()
        layer.run(x, ids, out)
        name = f"fp8 experts, {tokens} tokens"
        report.add(f"{name}: every row written", not out.isnan().any().item(), "no NaN left")
        capacity = lib.lib.fg_tiled_capacity(tokens * k, layer.experts)
        used = library.tiled_fp8_bytes(capacity, layer.inner)
        codes, scales = library.untile_fp8(layer.tiled_inner[:used], capacity, layer.inner)
        flat = ids.int().view(-1)
        rows, tight, loose = [], [], []
        for e in torch.unique(flat)[[0, -1]].tolist():
            begin, count = layer.offsets[e].item(), min(layer.counts[e].item(), 400)
            mine = layer.target[begin:begin + count].long()
            inner = dequantize(codes[begin:begin + count], scales[begin:begin + count])
            weight = dequantize(*library.unpack_fp8(layer.down[e], layer.hidden, layer.inner))
            rows.append(out[mine])
            tight.append(inner @ weight.T)
            a = x[mine // k].float()
            plain = torch.nn.functional.silu(a @ gate[e].float().T) * (a @ up[e].float().T)
            loose.append(plain @ down[e].float().T)
            del weight
        report.error(f"{name}: down", torch.cat(rows), torch.cat(tight), 3e-3)
        report.error(f"{name}: against unquantised", torch.cat(rows), torch.cat(loose), 1e-1)
        row = out[tokens // 2 * k:(tokens // 2 + 1) * k]
        if tokens == 1:
            alone = row.clone()
        else:
            report.same(f"{name}: the token alone = in company", row, alone)
    # Float32 input of the same values.
    x = torch.randn(33, layer.hidden, **BF16)
    ids = route_ids(33, layer.experts, k)
    outs = []
    for rows in (x, x.float()):
        out = torch.full((33 * k, layer.hidden), NAN, **BF16)
        layer.run(rows, ids, out)
        outs.append(out)
    report.same("fp8 experts: float32 input = bf16 input", *outs)


def check_dense(lib, report):
    cols, features = 6144, 2304
    weight = torch.randn(features, cols, **BF16).mul_(cols ** -0.5)
    packed = lib.pack(weight)
    first = torch.randn(cols, **BF16)
    kept = None
    for rows in (1, 3, 16, 64, 100, 128, 200, 256, 1000, 5000):
        x = torch.randn(rows, cols, **BF16)
        x[rows // 3] = first
        tiled, capacity = lib.tile(x)
        out = torch.full((rows, features), NAN, **F32)
        lib.dense(tiled, capacity, rows, packed, cols, features, library.STORE_F32, out)
        report.error(f"product f32, {rows} rows", out, x.double() @ weight.double().T, 1e-5)
        half = torch.full((rows, features), NAN, **BF16)
        lib.dense(tiled, capacity, rows, packed, cols, features, library.STORE_BF16, half)
        report.same(f"product bf16, {rows} rows = rounded f32", half, out.bfloat16())
        kept = out[rows // 3].clone() if kept is None else kept
        report.same(f"product: a row in {rows} = alone", out[rows // 3], kept)


def untile(lib, tiled, capacity, rows, dim):
    """The tiled left operand as plain rows, through a product with the identity."""
    identity = lib.pack(torch.eye(dim, **BF16))
    out = torch.full((rows, dim), NAN, **BF16)
    lib.dense(tiled, capacity, rows, identity, dim, dim, library.STORE_BF16, out)
    return out


def check_rows(lib, report):
    rows, dim = 77, 6144
    x, y = torch.randn(rows, dim, **F32), torch.randn(rows, dim, **F32)
    weight = torch.randn(dim, **F32)
    out = torch.full((rows, dim), NAN, **F32)
    capacity = 80 + 256
    tiled = torch.zeros(capacity * dim, **BF16)
    lib.call("fg_residual_norm", x, y, 3.5, 0.7, weight, 1e-5, rows, dim, out, tiled, capacity)
    h = 3.5 * x.double() + 0.7 * y.double()
    norm = lambda h, w: w.double() * h / (h.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
    report.error("residual + norm", out, norm(h, weight), 1e-6)
    report.same("residual + norm: tiled copy", untile(lib, tiled, capacity, rows, dim), out.bfloat16())
    single = torch.full((1, dim), NAN, **F32)
    lib.call("fg_residual_norm", x[5:6], y[5:6], 3.5, 0.7, weight, 1e-5, 1, dim, single, None, 8)
    report.same("residual + norm: alone = in company", single[0], out[5])

    wide = 8192
    o, gate = torch.randn(rows, wide, **BF16), torch.randn(rows, wide, **BF16)
    weight = torch.randn(wide, **F32)
    tiled = torch.zeros(capacity * wide, **BF16)
    lib.call("fg_norm_gate", o, gate, weight, 1e-5, rows, wide, tiled, capacity)
    reference = norm(o.double(), weight) * gate.double().sigmoid()
    report.error("norm + gate", untile(lib, tiled, capacity, rows, wide), reference, 3e-3)

    router = torch.randn(32, dim, **F32).mul_(dim ** -0.5)
    probability = (x.double() @ router.double().T).softmax(-1)
    top, ids = probability.topk(2)
    got = []
    for n in (rows, 1, 600):
        rows_in = x if n == rows else x[:1] if n == 1 else x.repeat(8, 1)[:600].contiguous()
        chosen = torch.zeros(n, 2, dtype=torch.uint16, device="cuda")
        weights = torch.full((n, 2), NAN, **F32)
        lib.call("fg_route", rows_in, n, dim, router, 32, 2, chosen, weights)
        got.append((chosen, weights))
    report.add("route: the two largest", bool((got[0][0].int() == ids).all()), "equal to float64")
    report.error("route: weights", got[0][1], top / top.sum(-1, keepdim=True), 1e-5)
    report.same("route: 1 row = 77 rows", got[1][1], got[0][1][:1])
    report.same("route: 600 rows = 77 rows", got[2][1][:77], got[0][1])

    outputs, weights = torch.randn(rows * 2, dim, **BF16), torch.rand(rows, 2, **F32)
    out = torch.full((rows, dim), NAN, **F32)
    lib.call("fg_combine", y, rows, dim, 2, weights, outputs, 3.5, 0.7, out)
    total = (outputs.double().view(rows, 2, dim) * weights.double()[..., None]).sum(1)
    report.error("combine", out, 3.5 * y.double() + 0.7 * total, 1e-6)

    table = torch.randn(1000, dim, **BF16)
    ids = torch.randint(0, 1000, (rows,), dtype=torch.int32, device="cuda")
    out = torch.full((rows, dim), NAN, **F32)
    lib.call("fg_embed", table, ids, rows, dim, out)
    report.same("embed", out, table[ids.long()].float())


def check_draws(lib, report):
    vocab = 200064
    logits = torch.randn(40, vocab, **F32) * 3
    logits[1] = logits[1].round()  # thousands of ties
    logits[2] = 1.5
    logits[3, ::3] = -float("inf")
    run, out = lib.rank(logits)
    run()
    values, ids = torch.sort(logits, dim=-1, descending=True, stable=True)
    report.same("rank: logits", out[:, :, 0].view(torch.float32), values[:, :256] + 0.0)
    report.same("rank: tokens, ties to the lower", out[:, :, 1], ids[:, :256].int())
    run, out = lib.draw(logits, 0.0, 0.0)
    run()
    report.same("draw: the most likely token", out[:, 0], ids[:, 0].int())
    report.error("draw: its log-probability", out[:, 1].contiguous().view(torch.float32),
                 logits.double().log_softmax(-1).gather(1, ids[:, :1])[:, 0], 1e-6)
