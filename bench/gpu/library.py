"""The CUDA kernels behind ctypes, on torch tensors and torch's current stream.

Every function checks the status a launch returns; shapes are those of kernels/cuda/launch.hpp.
"""
import contextlib
import ctypes
import os
import struct

import torch

HERE = os.path.dirname(os.path.abspath(__file__))
SUMS_FIXED, SUMS_FREE = 0, 1
STORE_SWIGLU, STORE_BF16, STORE_SILU_BF16, STORE_F32 = 0, 1, 2, 3
BLOCK = 128  # rows and columns of a weight's scale, columns of an activation's


class Library:
    """Loads libfulgur_gpu_abi.so; one method a kernel."""

    def __init__(self, path):
        self.lib = ctypes.CDLL(path)
        for name in ("fg_head_slot_bytes", "fg_state_byte", "fg_softmax_scratch",
                     "fg_draw_parts_bytes", "fg_rank_groups_bytes", "fg_product_partials_bytes"):
            getattr(self.lib, name).restype = ctypes.c_int64
        self.lib.fg_state_byte.argtypes = [ctypes.c_int64, ctypes.c_int64]
        self.head_slot_bytes = self.lib.fg_head_slot_bytes()

    def call(self, name, *args):
        """Tensors become pointers, floats C floats; the stream is added."""
        raw = []
        for a in args:
            if a is None:
                raw.append(ctypes.c_void_p(0))
            elif isinstance(a, torch.Tensor):
                raw.append(ctypes.c_void_p(a.data_ptr()))
            elif isinstance(a, float):
                raw.append(ctypes.c_float(a))
            else:
                raw.append(ctypes.c_int(a))
        raw.append(ctypes.c_void_p(torch.cuda.current_stream().cuda_stream))
        status = getattr(self.lib, name)(*raw)
        if status != 0:
            raise RuntimeError(f"{name}: CUDA error {status}")

    @contextlib.contextmanager
    def without_overlap(self):
        """Launches, or captures, that each wait for the end of the one before."""
        self.lib.fg_overlap_launches(0)
        try:
            yield
        finally:
            self.lib.fg_overlap_launches(1)

    # --- weights and products ---

    def pack(self, weight, rows_padded=None):
        """weight [rows, cols] bf16 -> packed bytes, rows padded to a multiple of 256."""
        rows, cols = weight.shape
        padded = rows_padded or (rows + 255) // 256 * 256
        packed = torch.zeros(padded * cols, dtype=torch.bfloat16, device="cuda")
        self.call("fg_pack_weight", weight, rows, cols, 0, 0, packed)
        return packed

    def pack_gate_up(self, gate, up):
        packed = torch.zeros(2 * gate.numel(), dtype=torch.bfloat16, device="cuda")
        self.call("fg_pack_weight", gate, gate.shape[0], gate.shape[1], 0, 1, packed)
        self.call("fg_pack_weight", up, up.shape[0], up.shape[1], 0, 2, packed)
        return packed

    # --- e4m3: codes and scales in one allocation of bytes ---

    def pack_fp8(self, weight):
        """weight [rows, cols] bf16 or f32, rows a multiple of 256 -> packed bytes."""
        rows, cols = weight.shape
        packed = torch.full((packed_fp8_bytes(rows, cols),), 0xff, dtype=torch.uint8, device="cuda")
        self.call("fg_quantize_weight", weight, int(weight.dtype == torch.float32), rows, cols, 0, 0,
                  rows, packed)
        return packed

    def pack_gate_up_fp8(self, gate, up):
        rows, cols = gate.shape
        packed = torch.full((packed_fp8_bytes(2 * rows, cols),), 0xff, dtype=torch.uint8, device="cuda")
        for interleave, part in ((1, gate), (2, up)):
            self.call("fg_quantize_weight", part, int(part.dtype == torch.float32), rows, cols, 0,
                      interleave, 2 * rows, packed)
        return packed

    def gather_fp8(self, x, source):
        """x [rows, dim], source [capacity] int32 -> tiled codes and scales, bytes."""
        capacity, dim = source.numel(), x.shape[1]
        tiled = torch.full((tiled_fp8_bytes(capacity, dim),), 0xff, dtype=torch.uint8, device="cuda")
        self.call("fg_gather_fp8", x, int(x.dtype == torch.float32), dim, source, capacity, tiled)
        return tiled

    def tile(self, x, capacity=None):
        rows, dim = x.shape
        capacity = capacity or (rows + 7) // 8 * 8 + 256
        tiled = torch.zeros(capacity * dim, dtype=torch.bfloat16, device="cuda")
        self.call("fg_tile_rows", x, int(x.dtype == torch.float32), rows, dim, capacity, tiled)
        return tiled, capacity

    def dense(self, tiled, capacity, rows, packed, cols, features, store, out, partials=None):
        """With partials() the order of sums is free."""
        self.call("fg_dense", tiled, capacity, rows, cols, packed, packed.numel() // cols, features,
                  store, out, partials)

    def partials(self):
        """What products with free sums hand sums over by."""
        return torch.zeros(self.lib.fg_product_partials_bytes(), dtype=torch.uint8, device="cuda")

    # --- draws ---

    def draw(self, logits, scale, uniform):
        """logits [rows, vocab] float32 -> call that draws, out [rows, 2]: token, log-probability."""
        rows, vocab = logits.shape
        entries = [struct.pack("dfI", uniform, scale, row) for row in range(rows)]
        asked = torch.frombuffer(bytearray(b"".join(entries)), dtype=torch.uint8).cuda()
        banned = torch.zeros((vocab + 31) // 32, dtype=torch.int32, device="cuda")
        parts = torch.empty(rows * self.lib.fg_draw_parts_bytes(vocab), dtype=torch.uint8, device="cuda")
        out = torch.empty(rows, 2, dtype=torch.int32, device="cuda")
        return lambda: self.call("fg_draw", logits, vocab, asked, rows, banned, parts, out), out

    def rank(self, logits):
        """logits [rows, vocab] float32 -> call that ranks, out [rows, 256, 2]: logit's bits, token."""
        rows, vocab = logits.shape
        asked = torch.arange(rows, dtype=torch.int32, device="cuda")
        groups = torch.empty(rows * self.lib.fg_rank_groups_bytes(vocab), dtype=torch.uint8,
                             device="cuda")
        out = torch.full((rows, 256, 2), -1, dtype=torch.int32, device="cuda")
        return lambda: self.call("fg_rank", logits, vocab, asked, rows, groups, out), out

    # --- lightning ---

    def slots(self, count, heads):
        return torch.zeros(count, heads * self.head_slot_bytes, dtype=torch.uint8, device="cuda")

    def segments(self, entries):
        """entries: (row, rows, position, slot tensor)."""
        data = [[row | rows << 32, position, slot.data_ptr()] for row, rows, position, slot in entries]
        return torch.tensor(data, dtype=torch.int64, device="cuda")

    def lightning(self, decode, qkv, segments, heads, powers, out):
        self.call("fg_lightning", int(decode), qkv, segments, segments.shape[0], heads, powers, out)

    def states(self, slots, heads):
        """slots [n, bytes] -> float32 state [n, heads, d, e]."""
        flat = slots.view(slots.shape[0], heads, self.head_slot_bytes)[:, :, :65536].contiguous()
        flat = flat.view(torch.float32)
        index = [[self.lib.fg_state_byte(d, e) // 4 for e in range(128)] for d in range(128)]
        index = torch.tensor(index, device="cuda").view(-1)
        return flat[:, :, index].view(slots.shape[0], heads, 128, 128)


def packed_fp8_bytes(rows, cols):
    return rows * cols + rows // 256 * (cols // BLOCK) * 16


def tiled_fp8_bytes(capacity, cols):
    return capacity * cols + capacity * (cols // BLOCK) * 4


def atoms_fp8(codes):
    """[..., 8 rows, 8 chunks, 16] bytes as they lie in an atom -> [..., 8 rows, 128 columns]."""
    r = torch.arange(8, device="cuda")[:, None]
    c = torch.arange(8, device="cuda")[None]
    return codes[..., r, c ^ r, :].reshape(*codes.shape[:-2], 128)


def unpack_fp8(packed, rows, cols):
    """Packed weight -> codes [rows, cols] uint8 and the scale of each element's quad place
    [rows, cols / 128] float32, in packed row order. Written from the layout's description alone."""
    codes = packed[:rows * cols].view(rows // 64, cols // BLOCK, 8, 8, 8, 16)
    codes = atoms_fp8(codes)  # [rows / 64, cols / 128, 8, 8, 128]
    codes = codes.permute(0, 2, 3, 1, 4).reshape(rows, cols)
    quads = packed[rows * cols:].view(torch.float32).view(rows // 256, cols // BLOCK, 2, 2)
    row = torch.arange(rows, device="cuda")
    return codes, quads[row // 256, :, row % 256 // 128, row % 16 // 8]


def gate_rows_fp8(features):
    """Packed row of each gate feature; its up row is 8 more."""
    f = torch.arange(features, device="cuda")
    return f // 128 * 256 + (f % 128 // 64 * 2 + f % 2) * 64 + f % 64 // 16 * 16 + f % 16 // 2


def untile_fp8(tiled, capacity, cols):
    """Tiled rows -> codes [capacity, cols] uint8, scales [capacity, cols / 128] float32."""
    codes = tiled[:capacity * cols].view(cols // BLOCK, capacity // 8, 8, 8, 16)
    codes = atoms_fp8(codes).permute(1, 2, 0, 3).reshape(capacity, cols)
    scales = tiled[capacity * cols:].view(torch.float32).view(cols // BLOCK, capacity)
    return codes, scales.T


class ExpertLayer:
    """One layer's experts packed, with the scratch for up to `tokens` tokens."""

    def __init__(self, lib, gate, up, down, k, tokens, fp8=False):
        self.lib, self.k, self.fp8 = lib, k, fp8
        self.experts, self.inner, self.hidden = gate.shape
        pack_gate_up, pack = ((lib.pack_gate_up_fp8, lib.pack_fp8) if fp8 else
                              (lib.pack_gate_up, lib.pack))
        self.gate_up = [pack_gate_up(gate[e], up[e]) for e in range(self.experts)]
        self.down = [pack(down[e]) for e in range(self.experts)]
        pointers = lambda packed: torch.tensor([p.data_ptr() for p in packed], dtype=torch.int64,
                                               device="cuda")
        self.gate_up_table, self.down_table = pointers(self.gate_up), pointers(self.down)
        most = lib.lib.fg_tiled_capacity(tokens * k, self.experts)
        size = tiled_fp8_bytes if fp8 else lambda rows, cols: rows * cols * 2
        byte = dict(dtype=torch.uint8, device="cuda")
        self.tiled_x = torch.empty(size(most, self.hidden), **byte)
        self.tiled_inner = torch.empty(size(most, self.inner), **byte)
        ints = dict(dtype=torch.int32, device="cuda")
        self.counts, self.offsets = torch.empty(self.experts, **ints), torch.empty(self.experts, **ints)
        self.source, self.target = torch.empty(most, **ints), torch.empty(most, **ints)

    def poison(self):
        """NaN in every format: bf16, e4m3 and float32."""
        self.tiled_x.fill_(0xff)
        self.tiled_inner.fill_(0xff)

    def run(self, x, ids, out, partials=None):
        """x [T, hidden] bf16, ids [T, k] uint16 -> out [T * k, hidden] bf16, un-weighted."""
        groups = self.plan(ids)
        self.lib.call("fg_experts", int(self.fp8), x, int(x.dtype == torch.float32), ids.numel(), *groups,
                      self.gate_up_table, self.down_table, self.hidden, self.inner, self.tiled_x,
                      self.tiled_inner, out, partials)

    def plan(self, ids):
        """The groups of ids [T, k] into the layer's arrays; returns them as calls take them."""
        tokens, k = ids.shape
        capacity = self.lib.lib.fg_tiled_capacity(tokens * k, self.experts)
        groups = (self.counts, self.offsets, self.source, self.target, self.experts, capacity)
        self.lib.call("fg_plan_groups", ids, tokens, k, *groups)
        return groups

    def gather(self, x, capacity):
        """Rows of x as the last plan says, into the layer's scratch."""
        self.lib.call("fg_gather_fp8" if self.fp8 else "fg_gather", x, int(x.dtype == torch.float32),
                      self.hidden, self.source, capacity, self.tiled_x)
