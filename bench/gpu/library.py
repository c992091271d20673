"""The CUDA kernels behind ctypes, on torch tensors and torch's current stream.

Every function checks the status a launch returns; shapes are those of kernels/cuda/launch.hpp.
"""
import ctypes
import os

import torch

HERE = os.path.dirname(os.path.abspath(__file__))
STORE_BF16, STORE_SILU_BF16, STORE_F32 = 1, 2, 3


class Library:
    """Loads libfulgur_gpu_abi.so; one method a kernel."""

    def __init__(self, path):
        self.lib = ctypes.CDLL(path)
        for name in ("fg_head_slot_bytes", "fg_state_byte", "fg_softmax_scratch"):
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

    def tile(self, x, capacity=None):
        rows, dim = x.shape
        capacity = capacity or (rows + 7) // 8 * 8 + 256
        tiled = torch.zeros(capacity * dim, dtype=torch.bfloat16, device="cuda")
        self.call("fg_tile_rows", x, int(x.dtype == torch.float32), rows, dim, capacity, tiled)
        return tiled, capacity

    def dense(self, tiled, capacity, rows, packed, cols, features, store, out):
        self.call("fg_dense", tiled, capacity, rows, cols, packed, packed.numel() // cols, features,
                  store, out)

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


class ExpertLayer:
    """One layer's experts packed, with the scratch for up to `tokens` tokens."""

    def __init__(self, lib, gate, up, down, k, tokens):
        self.lib, self.k = lib, k
        self.experts, self.inner, self.hidden = gate.shape
        self.gate_up = [lib.pack_gate_up(gate[e], up[e]) for e in range(self.experts)]
        self.down = [lib.pack(down[e]) for e in range(self.experts)]
        pointers = lambda packed: torch.tensor([p.data_ptr() for p in packed], dtype=torch.int64,
                                               device="cuda")
        self.gate_up_table, self.down_table = pointers(self.gate_up), pointers(self.down)
        most = lib.lib.fg_tiled_capacity(tokens * k, self.experts)
        bf16 = dict(dtype=torch.bfloat16, device="cuda")
        self.tiled_x = torch.empty(most * self.hidden, **bf16)
        self.tiled_inner = torch.empty(most * self.inner, **bf16)
        ints = dict(dtype=torch.int32, device="cuda")
        self.counts, self.offsets = torch.empty(self.experts, **ints), torch.empty(self.experts, **ints)
        self.source, self.target = torch.empty(most, **ints), torch.empty(most, **ints)

    def poison(self):
        self.tiled_x.fill_(float("nan"))
        self.tiled_inner.fill_(float("nan"))

    def run(self, x, ids, out):
        """x [T, hidden] bf16, ids [T, k] uint16 -> out [T * k, hidden] bf16, un-weighted."""
        tokens = x.shape[0]
        capacity = self.lib.lib.fg_tiled_capacity(tokens * self.k, self.experts)
        groups = (self.counts, self.offsets, self.source, self.target, self.experts, capacity)
        self.lib.call("fg_plan_groups", ids, tokens, self.k, *groups)
        self.lib.call("fg_experts", x, int(x.dtype == torch.float32), tokens * self.k, *groups,
                      self.gate_up_table, self.down_table, self.hidden, self.inner, self.tiled_x,
                      self.tiled_inner, out)
