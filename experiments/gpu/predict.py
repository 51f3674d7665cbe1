#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes the tables of README.md: what a roofline predicts for kernels and method steps on GPUs.

predict.py [README]          fills the tables; measurements are read from <device>.txt beside it
predict.py --check [README]  exits with 1 when the tables are not what would be written

Both exit with 1 when a measurement has no row in the tables.
"""

import argparse
import math
import pathlib
import re
import sys
from collections import Counter

import kernels as k
import steps

HERE = pathlib.Path(__file__).resolve().parent
BENCH_VOCAB = 32768  # of tests/bench/bench_gpu.c
MEASURED_LINE = re.compile(r"^(\S.*?) +(\d+\.\d) us\b")


def digits(x, count=3):
    """To `count` digits; whole numbers stay whole."""
    if x == 0:
        return "0"
    places = max(0, count - 1 - math.floor(math.log10(abs(x))))
    return f"{x:.{places}f}"


def seconds(x):
    size, unit = (1, "s") if x >= 1 else (1e-3, "ms") if x >= 1e-3 else (1e-6, "µs")
    return f"{digits(x / size)} {unit}"


def table(header, rows):
    numbers = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, numbers, *rows])


# ---- kernels


def measured(folder, device):
    """{row of bench_gpu, or step: microseconds}; empty before there is a measurement."""
    path = folder / f"{device}.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    return {found[1]: float(found[2]) for found in map(MEASURED_LINE.match, lines) if found}


def bound(call, device, form="f32"):
    """What takes longest: launch costs count where they exceed the work."""
    work = k.work_seconds(call, device, form)
    if k.device_seconds(call, device, form) > 2 * work:
        return "launch"
    if k.memory_seconds(call, device, form) > k.arithmetic_seconds(call, device, form):
        return "bandwidth"
    return "tensor" if form == "bf16" and call.unit != "rows" else "f32"


def kernel_table(key, folder=None):
    """With empty or measured columns where bench_gpu has these sizes."""
    m = k.MODELS[key]
    found = {name: measured(folder, name) for name in k.DEVICES} if folder else {}
    header = ["kernel", "MB", "GFLOP", "H100 bound"]
    for name, device in k.DEVICES.items():
        header += [f"{device.name.split()[0]} µs"] + (["measured"] if folder else [])
    header += ["H100 bf16 bound"] + [f"{d.name.split()[0]} bf16 µs" for d in k.DEVICES.values()]
    rows = []
    for name, call in k.bench_calls(m, BENCH_VOCAB if folder else m.vocab):
        if name == "rope" and not m.gated:
            continue
        h100 = k.DEVICES["h100"]
        row = [name, digits(4e-6 * call.elements), digits(1e-9 * call.flops), bound(call, h100)]
        for device in k.DEVICES:
            row.append(digits(1e6 * k.device_seconds(call, k.DEVICES[device], "f32")))
            if folder:
                row.append(digits(found[device][name]) if name in found[device] else "")
        row.append(bound(call, h100, "bf16"))
        row += [digits(1e6 * k.device_seconds(call, d, "bf16")) for d in k.DEVICES.values()]
        rows.append(row)
    return table(header, rows)


def bound_of_all(calls, device):
    """That of the calls which together take longest."""
    shares = Counter()
    for call in calls:
        shares[bound(call, device, "bf16")] += k.device_seconds(call, device, "bf16")
    return shares.most_common(1)[0][0]


def bf16_table(key, folder):
    """Rows of bench_gpu with factors in bf16: the sum of their calls."""
    header = ["kernel", "launches", "MB", "GFLOP"]
    for device in k.DEVICES.values():
        short = device.name.split()[0]
        header += [f"{short} bound", f"{short} µs", "measured"]
    found = {name: measured(folder, name) for name in k.DEVICES}
    rows = []
    for name, calls in k.bench_bf16_calls(k.MODELS[key]):
        moved = k.ELEMENT_BYTES["bf16"] * sum(call.elements for call in calls)
        row = [name, str(sum(call.launches for call in calls)), digits(1e-6 * moved),
               digits(1e-9 * sum(call.flops for call in calls))]
        for key_of, device in k.DEVICES.items():
            took = sum(k.device_seconds(call, device, "bf16") for call in calls)
            row += [bound_of_all(calls, device), digits(1e6 * took),
                    digits(found[key_of][name]) if name in found[key_of] else ""]
        rows.append(row)
    return table(header, rows)


# ---- steps


def step_table(device_key, folder):
    device, found = k.DEVICES[device_key], measured(folder, device_key)
    header = ["model, step", "launches", "TFLOP", "f32", "arithmetic", "bandwidth", "launch",
              "host", "graphs", "larger batch", "no host work", "bf16", "all four", "measured"]
    rows = []
    for key, m in k.MODELS.items():
        for name, method in steps.METHODS.items():
            step, large, title = method(key), method(key, m.larger), f"{m.name}, {name}"
            now = steps.estimate(step, device, "f32")
            shares = [f"{100 * part / now.total:.0f} %" for part in now[1:]]
            everything = steps.estimate(large, device, "bf16", graphs=True)
            instead = [
                steps.estimate(step, device, "f32", graphs=True).total,
                steps.estimate(large, device, "f32").total,
                now.total - now.host,
                steps.estimate(step, device, "bf16").total,
            ]
            best = min(instead)
            texts = [f"**{seconds(x)}**" if x == best else seconds(x) for x in instead]
            rows.append([title, f"{step.launches:.0f}", digits(1e-12 * step.flops),
                         seconds(now.total), *shares, *texts,
                         seconds(everything.total - everything.host),
                         seconds(1e-6 * found[title]) if title in found else ""])
    return table(header, rows)


# ---- checks against numbers from elsewhere

# TFLOP, counted by hand before there was code: a token goes 11 times through the blocks (clean run,
# five points forward and backward), and each edge once: 11 x 0.17 + 0.05 and 11 x 14 + 13 GFLOP.
EAP_BUDGET = {"gpt2": 25, "8b": 1700}


def sanity_table():
    rows = []
    for key, budget in EAP_BUDGET.items():
        m, step = k.MODELS[key], steps.METHODS["EAP-IG, m = 5"](key)
        pairs, own = steps.EAP_DATA[key]
        forward = 2e-12 * pairs * own * m.layers * m.block_weights
        ours = 1e-12 * step.flops
        rows.append([f"{m.name}, {pairs * own // 1000}k tokens", f"{budget}", digits(11 * forward),
                     digits(ours), f"{100 * (ours / budget - 1):+.0f} %"])
    return table(["EAP-IG, m = 5", "budget TFLOP", "11 forwards of the blocks", "all calls here",
                  "difference"], rows)


def assumption_table():
    rows = [["memory bandwidth", f"{100 * k.BANDWIDTH_SHARE:.0f} %"]]
    names = {"gemm": "matrix products", "attention": "attention", "rows": "all other arithmetic"}
    for form, shares in k.FLOP_SHARE.items():
        for unit, share in shares.items():
            peak = "bf16 tensor cores" if form == "bf16" and unit != "rows" else "f32"
            rows.append([f"{form}: {names[unit]}", f"{100 * share:.0f} % of {peak}"])
    rows += [["least time of a kernel", seconds(k.LEAST)],
             ["between kernels of a stream, of a graph",
              f"{seconds(k.STREAM_GAP)}, {seconds(k.GRAPH_GAP)}"],
             ["host, for each launch", seconds(k.SUBMIT)],
             ["waiting for a result", seconds(k.ROUND_TRIP)],
             ["transfers", f"{digits(1e-9 * steps.TRANSFER)} GB/s"],
             ["host, one thread", f"{digits(1e-9 * steps.HOST_FLOPS)} GFLOP/s, "
                                  f"{digits(1e-9 * steps.HOST_BANDWIDTH)} GB/s"]]
    return table(["assumed", "value"], rows)


def device_table():
    rows = [[d.name, f"{digits(1e-9 * d.bandwidth, 4)} GB/s", f"{digits(1e-12 * d.f32)} TFLOP/s",
             f"{digits(1e-12 * d.bf16)} TFLOP/s", str(d.multiprocessors)]
            for d in k.DEVICES.values()]
    return table(["device", "memory", "f32", "bf16 tensor cores", "multiprocessors"], rows)


# ---- README


def tables(folder):
    return {
        "devices": device_table(),
        "assumptions": assumption_table(),
        "kernels-8b": kernel_table("8b", folder),
        "kernels-bf16": bf16_table("8b", folder),
        "kernels-1b": kernel_table("1b"),
        "kernels-gpt2": kernel_table("gpt2"),
        "steps-h100": step_table("h100", folder),
        "steps-a100": step_table("a100", folder),
        "sanity": sanity_table(),
    }


def known_rows():
    """Names that a table has a measured column for."""
    m = k.MODELS["8b"]
    rows = [name for name, _ in k.bench_calls(m, BENCH_VOCAB) + k.bench_bf16_calls(m)]
    return {*rows, *(f"{m.name}, {name}" for m in k.MODELS.values() for name in steps.METHODS)}


def check_measurements(folder):
    """No measurement is left out of the tables unseen."""
    for device in k.DEVICES:
        unknown = sorted(measured(folder, device).keys() - known_rows())
        if unknown:
            sys.exit(f"{folder / device}.txt: expected rows of the tables, got {unknown[0]}")


def filled(text, folder):
    check_measurements(folder)
    for name, content in tables(folder).items():
        begin, end = f"<!-- {name} -->\n", "\n<!-- end -->"
        before, found, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        if not (found and closed):
            sys.exit(f"predict.py: expected the lines {begin.strip()} and {end.strip()}")
        text = before + begin + content + end + after
    return text


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare only")
    parser.add_argument("readme", nargs="?", type=pathlib.Path, default=HERE / "README.md")
    options = parser.parse_args()
    text = options.readme.read_text()
    new = filled(text, options.readme.resolve().parent)
    if options.check and new != text:
        sys.exit(f"{options.readme}: the tables are not those of predict.py; run it to write them")
    if not options.check:
        options.readme.write_text(new)


if __name__ == "__main__":
    main()
