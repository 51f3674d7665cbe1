# SPDX-License-Identifier: MIT
"""Compares what ptxas says of every kernel with kernels/budget.txt.

    budget.py --nvcc NVCC LOG...              checks
    budget.py --nvcc NVCC --write LOG...      writes the budget anew

A log is what nvcc printed with -Xptxas -v. Registers, spilled bytes, static shared memory and
barriers may not grow; nothing may spill where SPILLS_FAIL says. Occupancy follows from them and
from the launch bounds, and is written for the reader. The numbers belong to one release of the
compiler: with another the check is skipped (exit status 77).
"""

import argparse
import pathlib
import re
import subprocess
import sys

BUDGET = pathlib.Path("kernels/budget.txt")
SPILLS_FAIL = {"sm_80", "sm_90"}
# Of a multiprocessor: threads, blocks, bytes of shared memory, bytes of it that a block takes for
# itself. CUDA C++ Programming Guide, "Technical Specifications per Compute Capability".
LIMITS = {"sm_75": (1024, 16, 64 << 10, 0), "sm_80": (2048, 32, 164 << 10, 1 << 10),
          "sm_90": (2048, 32, 228 << 10, 1 << 10), "sm_100": (2048, 32, 228 << 10, 1 << 10),
          "sm_120": (1536, 24, 100 << 10, 1 << 10)}
REGISTERS, REGISTERS_AT_ONCE, WARP = 64 << 10, 256, 32  # of a multiprocessor, for a warp
COLUMNS = ("registers", "spilled bytes", "bytes of shared memory", "barriers")

ENTRY = re.compile(r"Compiling entry function '(\w+)' for '(sm_\d+)'")
SPILLS = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers")
RELEASE = re.compile(r"release (\S+),")
BARRIERS = re.compile(r"used (\d+) barriers")
SHARED = re.compile(r"(\d+) bytes smem")


def number(pattern, text):
    match = pattern.search(text)
    return int(match[1]) if match else 0


def read_log(path):
    """{(file and mangled name, architecture): (registers, spills, shared, barriers)}"""
    found, where, spills = {}, None, 0
    for line in path.read_text().splitlines():
        if match := ENTRY.search(line):
            where, spills = (f"{path.stem}/{match[1]}", match[2]), 0
        elif match := SPILLS.search(line):
            spills = int(match[1]) + int(match[2])
        elif where and USED.search(line):
            found[where] = (number(USED, line), spills, number(SHARED, line), number(BARRIERS, line))
            where = None
    return found


def read_logs(paths):
    """{readable name: {architecture: numbers}}"""
    found = {}
    for path in paths:
        found.update(read_log(path))
    keys = sorted({key for key, _ in found})
    mangled = "\n".join(key.split("/")[1] for key in keys)
    plain = subprocess.run(["c++filt", "-p"], input=mangled, check=True, capture_output=True,
                           text=True).stdout.splitlines()
    names = {key: f"{key.split('/')[0]}/{name.replace(' ', '')}" for key, name in zip(keys, plain)}
    kernels = {}
    for (key, architecture), numbers in found.items():
        kernels.setdefault(names[key], {})[architecture] = numbers
    return kernels


# ---- occupancy


def constant(name, source):
    """The value of `constexpr int NAME = N` in a kernel's file or in the headers for rows."""
    texts = [source.read_text(), (source.parent / "ca_quads.cuh").read_text()]
    found = [int(m[1]) for t in texts for m in re.finditer(rf"\b{name} = (\d+)", t)]
    return found[0]


def threads_of(kernel):
    """Threads of a block, from the launch bounds of file/name<ARGUMENTS>."""
    file, name, arguments = re.match(r"(\w+)/(?:.*::)?(\w+)(?:<(.*)>)?$", kernel).groups()
    source = pathlib.Path(f"kernels/{file}.cu")
    bounds = re.search(rf"__launch_bounds__\((?:(\d+) \* )?(\w+)[^;{{]*?\s{name}\(",
                       source.read_text())
    if bounds[1]:  # a multiple of the first argument of the template
        return int(bounds[1]) * int(arguments.split(",")[0])
    return constant(bounds[2], source)


def occupancy(kernel, architecture, numbers):
    """Percent of a multiprocessor's threads, by registers and static shared memory."""
    threads, (registers, _, shared, _) = threads_of(kernel), numbers
    most, blocks, memory, own = LIMITS[architecture]
    of_warp = -(-registers * WARP // REGISTERS_AT_ONCE) * REGISTERS_AT_ONCE
    fit = min(most // threads, blocks, REGISTERS // of_warp // (threads // WARP),
              memory // (shared + own) if shared + own else blocks)
    return 100 * fit * threads // most


def write_budget(kernels, architectures, compiler):
    width = max(map(len, kernels), default=0)
    lines = [f"# Registers/spilled bytes/bytes of static shared memory/barriers of every kernel, as",
             f"# ptxas tells them, and the share of a multiprocessor's threads that fit at a time (%;",
             f"# without dynamic shared memory). `make cuda-budget` writes this file.",
             f"# {compiler}",
             f"{'kernel':{width}}  " + "  ".join(f"{a:>14}" for a in architectures)]
    for name in sorted(kernels):
        cells = ("/".join(map(str, (*kernels[name][a], occupancy(name, a, kernels[name][a]))))
                 for a in architectures)
        lines.append(f"{name:{width}}  " + "  ".join(f"{cell:>14}" for cell in cells))
    BUDGET.write_text("\n".join(lines) + "\n")


def read_budget():
    lines = BUDGET.read_text().splitlines()
    compiler = next(line[2:] for line in lines[::-1] if line.startswith("# "))
    rows = [line.split() for line in lines if line and not line.startswith("#")]
    return compiler, {name: {a: tuple(map(int, cell.split("/"))) for a, cell in zip(rows[0][1:], cells)}
                      for name, *cells in rows[1:]}


def compiler_of(nvcc):
    text = subprocess.run([nvcc, "--version"], check=True, capture_output=True, text=True).stdout
    return f"CUDA {RELEASE.search(text)[1]}"


def compare(kernels, budget, architectures):
    problems = [f"{name}: not in {BUDGET}" for name in sorted(kernels.keys() - budget.keys())]
    problems += [f"{name}: no longer compiled" for name in sorted(budget.keys() - kernels.keys())]
    for name in sorted(kernels.keys() & budget.keys()):
        for architecture in architectures:
            allowed = budget[name].get(architecture)
            if allowed is None:
                continue
            for column, got, most in zip(COLUMNS, kernels[name][architecture], allowed):
                if got > most:
                    problems.append(f"{name}: {architecture}: expected at most {most} {column}, got {got}")
    return problems


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nvcc", required=True, help="whose numbers the logs hold")
    parser.add_argument("--write", action="store_true", help="write the budget from the logs")
    parser.add_argument("logs", nargs="+", type=pathlib.Path)
    options = parser.parse_args()
    compiler = compiler_of(options.nvcc)
    kernels = read_logs(options.logs)
    architectures = sorted({a for numbers in kernels.values() for a in numbers},
                           key=lambda a: int(a[3:]))

    problems = [f"{path}: tells of no kernel" for path in options.logs
                if not any(name.startswith(f"{path.stem}/") for name in kernels)]
    for name, numbers in sorted(kernels.items()):
        problems += [f"{name}: not compiled for {a}" for a in architectures if a not in numbers]
        problems += [f"{name}: {a}: spills {numbers[a][1]} bytes"
                     for a in SPILLS_FAIL & numbers.keys() if numbers[a][1]]
    if options.write and not problems:
        write_budget(kernels, architectures, compiler)
        print(f"{BUDGET}: {len(kernels)} kernels")
    elif not problems:
        recorded, budget = read_budget()
        if recorded != compiler:
            print(f"{BUDGET} holds numbers of {recorded}, this is {compiler}")
            return 77
        problems = compare(kernels, budget, architectures)
        if problems:
            problems.append("`make cuda-budget` accepts these numbers")
    print("\n".join(problems) if problems else f"{len(kernels)} kernels keep within {BUDGET}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
