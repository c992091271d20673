"""The peer of fulgur-bench-slice: transformers' MiniMaxForCausalLM of the same shape, random weights.

  python3 slice_transformers.py [--decode 1,16,64,128] [--prefill 2048,8192]

3 lightning layers and 1 softmax layer of MiniMax-M1 in bf16, eager, as one would run it. A line of JSON
a result; medians of events around whole steps, the choice of the next token included.
"""
import argparse
import json

import torch
from transformers import MiniMaxConfig, MiniMaxForCausalLM


def median_ms(work, repeats=7, warm_ups=2):
    times = []
    for i in range(warm_ups + repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        torch.cuda.synchronize()
        if i >= warm_ups:
            times.append(begin.elapsed_time(end))
    return sorted(times)[len(times) // 2]


def make_model():
    config = MiniMaxConfig(
        vocab_size=200064, hidden_size=6144, intermediate_size=9216, num_hidden_layers=4,
        num_attention_heads=64, num_key_value_heads=8, head_dim=128, num_local_experts=32,
        num_experts_per_tok=2, max_position_embeddings=1 << 20,
        layer_types=["linear_attention"] * 3 + ["full_attention"])
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = MiniMaxForCausalLM(config)
    return model.eval()


def decode_ms(model, batch):
    ids = torch.randint(0, 200064, (batch, 512), device="cuda")
    cache = model(ids, use_cache=True, logits_to_keep=1).past_key_values
    token = [ids[:, -1:]]

    def step():
        out = model(token[0], past_key_values=cache, use_cache=True)
        token[0] = out.logits[:, -1:].argmax(-1)

    return median_ms(step, repeats=20)


def prefill_ms(model, tokens):
    ids = torch.randint(0, 200064, (1, tokens), device="cuda")
    return median_ms(lambda: model(ids, use_cache=True, logits_to_keep=1).logits.argmax(-1))


def numbers(text):
    return [int(n) for n in text.split(",") if n]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--decode", type=numbers, default=[1, 16, 64, 128])
    parser.add_argument("--prefill", type=numbers, default=[2048, 8192])
    args = parser.parse_args()
    with torch.inference_mode():
        model = make_model()
        for batch in args.decode:
            ms = decode_ms(model, batch)
            print(json.dumps(dict(kind="decode", who="transformers", batch=batch, context=512, ms=ms,
                                  tokens_per_s=batch * 1e3 / ms)), flush=True)
        for tokens in args.prefill:
            ms = prefill_ms(model, tokens)
            print(json.dumps(dict(kind="prefill", who="transformers", tokens=tokens, ms=ms,
                                  tokens_per_s=tokens * 1e3 / ms)), flush=True)


if __name__ == "__main__":
    main()
