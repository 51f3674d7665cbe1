#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Checks the rules of the source tree that a compiler does not know.

Layers (a folder includes only from itself and from lower layers), who may include which library,
file length, licence line, conditional compilation, exported names, headers that compile alone, and
launchers of kernels that are tested and measured. Prints `file:line: rule` and exits with 1 when a rule is broken.

Run from the root of the repository: tests/lint/lint.py [--archive build/release/libcausa.a]
"""
import argparse
import pathlib
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

# One row per layer, lowest first. Folders of one row do not see each other.
LAYERS = [
    ["base"],
    ["config"],
    ["backend"],
    ["model"],
    ["tokenizer"],
    ["graph", "comm"],
    ["data"],
    ["metric"],
    ["result"],
    ["circuit"],
    ["method"],
    ["report"],
    ["cli"],
]
# Public headers whose name is not the name of their folder.
HEADER_FOLDER = {
    "tensor": "base",
    "version": "base",
    "gguf": "model",
    "ops": "backend",
    "site": "graph",
    "position": "data",
    "job": "method",
}
# Libraries that live in one folder only.
LIBRARY_FOLDER = {
    "yaml.h": "config",
    "hdf5": "result",
    "H5": "result",
    "mpi.h": "comm",
    "nccl.h": "comm",
    "cblas.h": "backend",
    "oneapi/": "backend",
    "cuda": "backend",
    "cublas": "backend",
    "pcre2.h": "tokenizer",
    "utf8proc.h": "tokenizer",
    "openssl/": "base",
}
LONGEST_FILE = 600
LICENSED = {".c", ".h", ".cc", ".cu", ".cuh", ".py", ".sh", ".mk"}

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')
CLIMBING = re.compile(r'^\s*#\s*include\s*"\.\./')
# What only nvcc understands is written once, behind the macros of this file.
CUDA_DIALECT = pathlib.Path("kernels/ca_cuda.cuh")
DIALECT = re.compile(r"<<<|\b__shared__\b|\bcuda_runtime\.h\b")
LAUNCHER = re.compile(r"^int ca_k_(\w+)\(")
CONDITIONAL = re.compile(r"^\s*#\s*(if|ifdef|ifndef|elif|else)\b")

problems = []


def complain(path, line, text):
    problems.append(f"{path}:{line}: {text}")


def level(folder):
    return next((i for i, row in enumerate(LAYERS) if folder in row), None)


def folder_of(path):
    """The layer a file of src/ or include/causa/ belongs to, None when the table lacks it."""
    if path.parts[0] == "src":
        folder = path.parts[1]
    else:
        folder = HEADER_FOLDER.get(path.stem, path.stem)
    return folder if level(folder) is not None else None


def check_include(path, line, folder, quote, name):
    if name.startswith("causa/"):
        target = folder_of(pathlib.Path("include") / name)
        if target is None:
            complain(path, line, f"{name}: no layer; add the header to tests/lint/lint.py")
        elif target != folder and level(target) >= level(folder):
            complain(path, line, f"{folder} may not include {name}, which belongs to {target}")
    elif quote == '"':
        layer = pathlib.Path(*path.parts[:2])
        launchers = folder == "backend" and name == "ca_kernels.h"
        if not launchers and ("/" in name or not any(
                (place / name).exists() for place in (path.parent, layer))):
            complain(path, line, f'"{name}": a private header lies in the folder of its layer')
    for library, owner in LIBRARY_FOLDER.items():
        if quote == "<" and name.startswith(library) and folder != owner:
            complain(path, line, f"<{name}> is used by src/{owner} only")


def check_layers(path, lines):
    folder = folder_of(path)
    if folder is None:
        complain(path, 1, "no layer; add the folder or header to tests/lint/lint.py")
        return
    for number, text in enumerate(lines, 1):
        match = INCLUDE.match(text)
        if match:
            check_include(path, number, folder, *match.groups())


def check_file(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    if len(lines) > LONGEST_FILE:
        complain(path, len(lines), f"expected at most {LONGEST_FILE} lines, got {len(lines)}")
    if not any("SPDX-License-Identifier: MIT" in text for text in lines[:3]):
        complain(path, 1, "expected 'SPDX-License-Identifier: MIT' in the first lines")
    for number, text in enumerate(lines, 1):
        if CLIMBING.match(text):
            complain(path, number, "an include may not climb out of its folder")
        if path.suffix in (".cu", ".cuh") and path != CUDA_DIALECT:
            if DIALECT.search(text):
                complain(path, number, "launch with CA_LAUNCH, share with CA_SHARED, include "
                                       "ca_cuda.cuh")
        if path.suffix in (".c", ".cu") and path.parts[0] in ("src", "kernels"):
            if CONDITIONAL.match(text):
                complain(path, number, "conditional compilation belongs into headers")
    if path.parts[0] == "src" or path.parts[:2] == ("include", "causa"):
        check_layers(path, lines)


def check_exports(archive):
    table = subprocess.run(
        ["nm", "-A", "-g", "--defined-only", archive], check=True, capture_output=True, text=True
    ).stdout
    for row in table.splitlines():
        if not row.strip():
            continue
        place, kind, name = row.rsplit(maxsplit=2)
        if not name.startswith("ca_"):
            complain(place.split()[0].rstrip(":"), 0, f"exported name {name} lacks the prefix ca_")


def check_header_alone(compiler, header):
    source = f'#include "{header.relative_to("include")}"\n'
    command = [compiler, "-std=c11", "-D_GNU_SOURCE", "-Iinclude", "-Wall", "-Wextra", "-Wpedantic",
               "-Werror", "-fsyntax-only", "-x", "c", "-"]
    done = subprocess.run(command, input=source, capture_output=True, text=True)
    if done.returncode != 0:
        complain(header, 1, "does not compile alone: " + done.stderr.strip().splitlines()[0])


def check_launchers():
    """A launcher has a row of its own name, or its operation's, in the parity tests and in bench_gpu.
    (Which kernels exist, and their budget, ptxas says: budget.py.)"""
    header = pathlib.Path("kernels/ca_kernels.h")
    places = [sorted(pathlib.Path("tests/parity").glob("test_*.c")),
              [pathlib.Path("tests/bench/bench_gpu.c")]]
    for number, text in enumerate(header.read_text(encoding="utf-8").splitlines(), 1):
        if not (match := LAUNCHER.match(text)):
            continue
        name = match[1]
        for files in places:
            found = re.compile(rf'\bca_{name}\(|"{name}\b')
            if not any(found.search(file.read_text(encoding="utf-8")) for file in files):
                complain(header, number, f"{name} has no row in {files[0].parent}")


def source_files():
    roots = ["src", "include", "kernels", "tests", "experiments", ".make"]
    for root in roots:
        for path in sorted(pathlib.Path(root).rglob("*")):
            if path.is_file() and path.suffix in LICENSED and "__pycache__" not in path.parts:
                yield path


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--archive", help="library whose exported names are checked")
    parser.add_argument("--compiler", default="gcc")
    options = parser.parse_args()

    for path in [*source_files(), pathlib.Path("Makefile")]:
        check_file(path)
    if options.archive:
        check_exports(options.archive)
    check_launchers()
    headers = sorted(pathlib.Path("include/causa").glob("*.h"))
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda header: check_header_alone(options.compiler, header), headers))

    print("\n".join(problems) if problems else "lint: no rule is broken")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
