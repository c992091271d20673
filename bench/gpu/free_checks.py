"""Products with free sums (launch.hpp, Sums::free) against float64: the tolerances of fixed ones, the
same bits twice, flags down behind every call."""
import torch

import checks
import library
from checks import BF16, F32, NAN


def check_free(lib, report):
    """6144 columns; 1000 features are fewer tiles than multiprocessors, 24576 rounds of them."""
    cols = 6144
    partials = lib.partials()
    for features, counts in ((1000, (1, 3, 16, 64, 100, 256, 300, 2048)), (24576, (1, 64, 256, 600))):
        weight = torch.randn(features, cols, **BF16).mul_(cols ** -0.5)
        packed = lib.pack(weight)
        for rows in counts:
            x = torch.randn(rows, cols, **BF16)
            tiled, capacity = lib.tile(x)
            sums = x.double() @ weight.double().T
            for store, kind, limit in ((library.STORE_F32, F32, 1e-5), (library.STORE_BF16, BF16, 3e-3),
                                       (library.STORE_SILU_BF16, BF16, 3e-3)):
                want = torch.nn.functional.silu(sums) if store == library.STORE_SILU_BF16 else sums
                outs = []
                for _ in range(2):
                    out = torch.full((rows, features), NAN, **kind)
                    lib.dense(tiled, capacity, rows, packed, cols, features, store, out, partials)
                    outs.append(out)
                name = f"product, free sums, {rows} x {features}, store {store}"
                report.error(name, outs[0], want, limit)
                report.same(f"{name}: twice", *outs)
                report.add(f"{name}: flags", not partials[:4096].any().item(), "all down")


def check_free_experts(lib, layer, weights, report):
    """A layer of experts with free sums beside float64, at the tolerance of fixed ones."""
    gate, up, down = weights
    partials = lib.partials()
    for tokens in (1, 16, 300, 1024, 4096):
        x = torch.randn(tokens, layer.hidden, **BF16)
        ids = checks.route_ids(tokens, layer.experts, layer.k)
        outs = []
        for _ in range(2):
            layer.poison()
            out = torch.full((tokens * layer.k, layer.hidden), NAN, **BF16)
            layer.run(x, ids, out, partials)
            outs.append(out)
        name = f"experts, free sums, {tokens} tokens"
        flat = ids.int().view(-1)
        rows, references = [], []
        for e in torch.unique(flat)[[0, -1]].tolist():
            mine = (flat == e).nonzero().view(-1)[:400]
            a = x[mine // layer.k].float()
            inner = (torch.nn.functional.silu(a @ gate[e].float().T) * (a @ up[e].float().T)).bfloat16()
            rows.append(outs[0][mine])
            references.append(inner.float() @ down[e].float().T)
        report.error(name, torch.cat(rows), torch.cat(references), 6e-3)
        report.add(f"{name}: every row written", not outs[0].isnan().any().item(), "no NaN left")
        report.same(f"{name}: twice", *outs)
        report.add(f"{name}: flags", not partials[:4096].any().item(), "all down")
