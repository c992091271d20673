"""Softmax attention and the rotation that feeds its pages: decode against float64, prefill against
tokens alone, on random pages."""
import torch

import library
from checks import BF16, F32, NAN


def softmax_setup(lib, lengths, heads=64, kv_heads=8):
    """Random paged KV with garbage beyond each length; returns call arguments and dense K, V."""
    count = len(lengths)
    pages_each = [(n + 63) // 64 for n in lengths]
    total = sum(pages_each)
    order = torch.randperm(total, dtype=torch.int32)
    stride = max(pages_each)
    table = torch.zeros(count, stride, dtype=torch.int32)
    at = 0
    for s, n in enumerate(pages_each):
        table[s, :n] = order[at:at + n]
        at += n
    pages = torch.randn(total, kv_heads, 2, 64, 128, **BF16)  # already in swizzled order
    q = torch.randn(count, heads, 128, **BF16)
    return table.cuda(), stride, pages, q


def unswizzle(pages):
    """[..., 64 tokens, 128] as page_chunk_byte() lays them out -> plain."""
    j = torch.arange(64, device="cuda")[:, None]
    c = torch.arange(8, device="cuda")[None]
    halves = pages.view(*pages.shape[:-2], 2, 64, 8, 8)
    plain = halves[..., j, c ^ (j & 7), :]  # [..., half, token, chunk, 8]
    return plain.transpose(-4, -3).reshape(pages.shape)


def hide_tail(pages, page, length):
    """NaN for what a sequence's last page holds beyond its end: it must not matter."""
    if length % 64:
        pages[page].view(*pages.shape[1:-2], 2, 64, 64)[..., length % 64:, :] = NAN


def run_softmax(lib, q, pages, table, stride, lengths, lengths_max, heads=64, kv_heads=8,
                sums=library.SUMS_FIXED):
    count = q.shape[0]
    bytes_ = lib.lib.fg_softmax_scratch(count, heads, lengths_max, sums)
    partial = torch.full((bytes_ // 4,), NAN, **F32)
    out = torch.full((count, heads, 128), NAN, **BF16)
    lib.call("fg_softmax_decode", q, pages, table, stride, lengths, lengths_max, count, heads,
             kv_heads, partial, out, sums)
    return out


def ragged(lib):
    """Sequences for short and long merges, NaN behind every end, and their result in float64."""
    lengths = [1, 64, 65, 511, 512, 513, 1000, 3000, 5, 40000, 7777]
    table, stride, pages, q = softmax_setup(lib, lengths)
    for s, length in enumerate(lengths):  # garbage beyond the end must not matter
        page = table[s, (length - 1) // 64].item()
        hide_tail(pages, page, length)
    device_lengths = torch.tensor(lengths, dtype=torch.int32, device="cuda")
    plain = unswizzle(pages)
    references = []
    for s, length in enumerate(lengths):
        n = (length + 63) // 64
        kv = plain[table[s, :n].long()].permute(1, 2, 0, 3, 4).reshape(8, 2, n * 64, 128)
        k, v = kv[:, 0, :length].double(), kv[:, 1, :length].double()
        scores = q[s].double().view(8, 8, 128) @ k.transpose(1, 2) / 128 ** 0.5
        references.append((scores.softmax(-1) @ v).reshape(64, 128))
    return lengths, (q, pages, table, stride, device_lengths), torch.stack(references)


def check_softmax(lib, report):
    lengths, (q, pages, table, stride, device_lengths), reference = ragged(lib)
    out = run_softmax(lib, q, pages, table, stride, device_lengths, max(lengths))
    report.error("softmax decode, 11 ragged sequences", out, reference, 6e-3)
    alone = [run_softmax(lib, q[s:s + 1], pages, table[s:s + 1].contiguous(), stride,
                         device_lengths[s:s + 1], n) for s, n in enumerate(lengths)]
    report.same("softmax decode: company of 11 = alone", out, torch.cat(alone))


def check_softmax_free(lib, report):
    """Free sums: the same tolerance, alone and in company; the same bits twice."""
    lengths, (q, pages, table, stride, device_lengths), reference = ragged(lib)
    run = lambda *rows: run_softmax(lib, *rows, sums=library.SUMS_FREE)
    out = run(q, pages, table, stride, device_lengths, max(lengths))
    report.error("softmax decode, free sums, 11 ragged sequences", out, reference, 6e-3)
    report.same("softmax decode, free sums: twice", out,
                run(q, pages, table, stride, device_lengths, max(lengths)))
    alone = [run(q[s:s + 1], pages, table[s:s + 1].contiguous(), stride, device_lengths[s:s + 1], n)
             for s, n in enumerate(lengths)]
    report.error("softmax decode, free sums, each alone", torch.cat(alone), reference, 6e-3)


def softmax_tiles(segments):
    """Tiles of (first row, rows, position, row of the page table), late ones first."""
    tiles = []
    for row, rows, position, table in segments:
        for t in range(0, rows, 16):
            tiles.append((row + t, min(16, rows - t), position + t, table))
    return torch.tensor(tiles[::-1], dtype=torch.int32, device="cuda")


def run_softmax_prefill(lib, q, pages, table, stride, segments, heads=64, kv_heads=8):
    out = torch.full((q.shape[0], heads, 128), NAN, **BF16)
    tiles = softmax_tiles(segments)
    lib.call("fg_softmax_prefill", q, pages, table, stride, tiles, tiles.shape[0], heads, kv_heads,
             out)
    return out


def check_softmax_prefill(lib, report):
    """Chunks of any start and size have the bits of their tokens alone (softmax_decode)."""
    chunks = [(0, 1), (0, 64), (0, 200), (64, 3), (100, 9), (448, 130), (505, 17), (1000, 24),
              (4032, 64), (8190, 5)]
    lengths = [position + rows for position, rows in chunks]
    table, stride, pages, q = softmax_setup(lib, lengths)
    for s, length in enumerate(lengths):
        hide_tail(pages, table[s, (length - 1) // 64].item(), length)
    rows = sum(count for _, count in chunks)
    q = torch.randn(rows, 64, 128, **BF16) * 3  # a spread of scores, large ones too
    segments, tables, each, at = [], [], [], 0
    for s, (position, count) in enumerate(chunks):
        segments.append((at, count, position, s))
        tables += [s] * count
        each += range(position + 1, position + count + 1)
        at += count
    out = run_softmax_prefill(lib, q, pages, table, stride, segments)
    expected = run_softmax(lib, q, pages, table[torch.tensor(tables)].contiguous(), stride,
                           torch.tensor(each, dtype=torch.int32, device="cuda"), max(each))
    report.same("softmax prefill: chunks = tokens alone", out, expected)
    alone = torch.cat([run_softmax_prefill(lib, q[row:row + n].contiguous(), pages, table, stride,
                                           [(0, n, position, s)])
                       for row, n, position, s in segments])
    report.same("softmax prefill: company of 10 = alone", out, alone)


def check_rotary(lib, report):
    rows, heads, kv_heads = 5, 64, 8
    position = torch.tensor([0, 1, 63, 4100, 131071], dtype=torch.int32)
    sequence = torch.arange(rows, dtype=torch.int32)
    stride = 2048
    table = torch.zeros(rows, stride, dtype=torch.int32)
    for r in range(rows):
        table[r, position[r] // 64] = r
    frequencies = 1.0 / (1e7 ** (torch.arange(0, 64, 2, dtype=torch.float32) / 64))
    qkv = torch.randn(rows, heads + 2 * kv_heads, 128, **BF16)
    pages = torch.full((rows, kv_heads, 2, 64, 128), NAN, **BF16)
    q_out = torch.full((rows, heads, 128), NAN, **BF16)
    lib.call("fg_rotary_cache", qkv, rows, heads, kv_heads, 64, frequencies.cuda(), sequence.cuda(),
             position.cuda(), table.cuda(), stride, pages, q_out)
    angle = (position[:, None].float() * frequencies[None]).double().cuda()[:, None]
    x = qkv.double()
    a, b = x[:, :72, :32], x[:, :72, 32:64]
    rotated = x[:, :72].clone()
    rotated[:, :, :32] = a * angle.cos() - b * angle.sin()
    rotated[:, :, 32:64] = b * angle.cos() + a * angle.sin()
    report.error("rotary: queries", q_out, rotated[:, :64], 3e-3)
    r = torch.arange(rows)
    plain = unswizzle(pages)[r, :, :, position.long() % 64]
    report.error("rotary: cached keys", plain[:, :, 0], rotated[:, 64:], 3e-3)
    report.same("rotary: cached values", plain[:, :, 1], qkv[:, 72:])
