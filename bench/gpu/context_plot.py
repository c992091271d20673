"""Draws the context sweep of fulgur-bench-slice: python3 context_plot.py RESULTS.jsonl OUT.svg

Two panels over the context (logarithmic): decode step time, and a sequence's memory; the hybrid model
beside the same model with softmax attention only. Prints the same as a table.
"""
import json
import math
import sys

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 460, 320, 62, 16, 46, 46
COLORS = {"hybrid": "#1f6feb", "all softmax": "#d1570a"}


def read(path):
    series = {}
    for line in open(path):
        row = json.loads(line)
        if row["kind"] == "context":
            series.setdefault(row["model"], []).append(row)
    return series


def power(context):
    size = context + 64 if (context + 64) & (context + 63) == 0 else context
    return f"{size >> 20}M" if size >= 1 << 20 else f"{size >> 10}K"


def ticks(low, high, log):
    if log:
        return [10.0 ** e for e in range(math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9) + 1)]
    step = 10 ** math.floor(math.log10(high))
    if high / step < 3:
        step /= 2
    return [step * i for i in range(int(high / step) + 1)]


def panel(series, x0, title, unit, value, log):
    contexts = [row["context"] for row in series["hybrid"]]
    values = [value(row) for rows in series.values() for row in rows]
    low, high = (min(values) * 0.8, max(values) * 1.25) if log else (0, max(values) * 1.08)
    scale = math.log10 if log else float

    def x(context):
        span = math.log2(contexts[-1]) - math.log2(contexts[0])
        return x0 + LEFT + (math.log2(context) - math.log2(contexts[0])) / span * (WIDTH - LEFT - RIGHT)

    def y(v):
        part = (scale(v) - scale(low)) / (scale(high) - scale(low))
        return HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM)

    out = [f'<text x="{x0 + LEFT}" y="24" font-size="14" font-weight="600">{title}</text>']
    for tick in ticks(low, high, log):
        out.append(f'<line x1="{x0 + LEFT}" x2="{x0 + WIDTH - RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" '
                   f'stroke="#d8dee4"/><text x="{x0 + LEFT - 6}" y="{y(tick) + 4:.1f}" '
                   f'text-anchor="end">{tick:g}</text>')
    for context in contexts[::2] if len(contexts) > 6 else contexts:
        out.append(f'<text x="{x(context):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">'
                   f'{power(context)}</text>')
    out.append(f'<text x="{x0 + (LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">'
               f'tokens of context</text>')
    out.append(f'<text x="{x0 + 14}" y="{HEIGHT / 2}" text-anchor="middle" '
               f'transform="rotate(-90 {x0 + 14} {HEIGHT / 2})">{unit}</text>')
    for model, rows in series.items():
        points = [(x(row["context"]), y(value(row))) for row in rows]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        out.append(f'<polyline points="{path}" fill="none" stroke="{COLORS[model]}" stroke-width="2"/>')
        out += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{COLORS[model]}"/>' for a, b in points]
        a, b = points[-1]
        b += 24 if model == "hybrid" else 0
        out.append(f'<text x="{a - 8:.1f}" y="{b - 9:.1f}" text-anchor="end" fill="{COLORS[model]}" '
                   f'font-weight="600">{model}, {value(rows[-1]):.3g}</text>')
    return out


def main():
    series = read(sys.argv[1])
    body = panel(series, 0, "A decode step, one sequence", "ms", lambda row: row["ms"], False)
    body += panel(series, WIDTH, "State and KV of a sequence", "GB", lambda row: row["sequence_bytes"] * 1e-9, True)
    with open(sys.argv[2], "w") as file:
        file.write(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * WIDTH} {HEIGHT}" '
                   f'width="{2 * WIDTH}" height="{HEIGHT}" font-family="system-ui, sans-serif" font-size="12" '
                   f'fill="#24292f"><rect width="100%" height="100%" fill="#ffffff"/>' + "".join(body) + "</svg>\n")
    print("| context | hybrid ms | all softmax ms | hybrid GB | all softmax GB |\n| --- | --- | --- | --- | --- |")
    for a, b in zip(series["hybrid"], series["all softmax"]):
        print(f"| {power(a['context'])} | {a['ms']:.2f} | {b['ms']:.2f} | {a['sequence_bytes'] * 1e-9:.3f} | "
              f"{b['sequence_bytes'] * 1e-9:.3f} |")


if __name__ == "__main__":
    main()
