# SPDX-License-Identifier: MIT
"""Which lines and functions of kernels/ and src/backend/cuda a build with gcov has run.

    coverage.py FOLDER

A line counts as run when any instance of a template ran it. Fails below LEAST of the lines, and
when a line, a function or an instance of a kernel never ran that not-covered.txt does not list.
"""

import functools
import json
import pathlib
import re
import subprocess
import sys

LEAST = 0.95
HERE = pathlib.Path(__file__).resolve().parent
LISTED = HERE / "not-covered.txt"
MEASURED = re.compile(r"^(kernels/\w+\.(cu|cuh)|src/backend/cuda/\w+\.c)$")


def reports(folder):
    """What gcov tells of each source file in each object."""
    for notes in sorted(folder.glob("kernels/*.gcno")) + \
            sorted(folder.glob("src/backend/cuda/*.gcno")):
        done = subprocess.run(["gcov", "--json-format", "--stdout", notes], check=True,
                              capture_output=True, text=True)
        for line in done.stdout.splitlines():
            for file in json.loads(line)["files"]:
                if MEASURED.match(file["file"]):
                    yield file


def short(name):
    """Without return type and arguments: norm_fwd_kernel<32, true>."""
    name = name.replace("(anonymous namespace)::", "")
    match = re.match(r"(?:.*? )?((?:operator)?[\w:~]+(?:<.*>)?)\(", name)
    return (match[1] if match else name).replace(" ", "")


def measure(folder):
    """{(file, line): runs}, {"file function": runs}; header functions add up over objects."""
    lines, functions = {}, {}
    for file in reports(folder):
        path = file["file"]
        for line in file["lines"]:
            key = path, line["line_number"]
            lines[key] = lines.get(key, 0) + line["count"]
        for function in file["functions"]:
            key = f"{path} {short(function['demangled_name'])}"
            functions[key] = functions.get(key, 0) + function["execution_count"]
    return lines, functions


def listed():
    """{"file function": reason}"""
    rows = [line for line in LISTED.read_text().splitlines() if line and line[0] != "#"]
    return {key.strip(): reason.strip() for key, reason in (row.split(" -- ") for row in rows)}


@functools.cache
def source(path):
    return pathlib.Path(path).read_text().splitlines()


def text_of(path, number):
    return source(path)[number - 1].strip()


def spans(numbers):
    """Runs of numbers as "3-5, 9"."""
    parts, numbers = [], sorted(numbers)
    for n in numbers:
        if parts and parts[-1][1] == n - 1:
            parts[-1][1] = n
        else:
            parts.append([n, n])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


def main():
    lines, functions = measure(pathlib.Path(sys.argv[1]))
    if not lines:
        sys.exit("coverage: no source was measured")
    reasons, problems = listed(), []
    for path in sorted({path for path, _ in lines}):
        missed = [n for (file, n), runs in lines.items() if file == path and runs == 0]
        total = sum(file == path for file, _ in lines)
        print(f"{path:34} {100 * (1 - len(missed) / total):6.1f} % of {total:4} lines"
              + (f", not {spans(missed)}" if missed else ""))
    share = sum(runs > 0 for runs in lines.values()) / len(lines)
    if share < LEAST:
        problems.append(f"expected {100 * LEAST:.0f} % of the lines, got {100 * share:.1f} %")
    never = {name for name, runs in functions.items() if runs == 0}
    never |= {f"{path}: {text_of(path, n)}" for (path, n), runs in lines.items() if runs == 0}
    problems += [f"{name}: never ran" for name in sorted(never - reasons.keys())]
    problems += [f"{LISTED.name}: {name}: ran, or is no more" for name in sorted(reasons.keys() - never)]
    for problem in problems:
        print(f"coverage: {problem}")
    ran = sum(runs > 0 for runs in functions.values())
    print(f"coverage: {100 * share:.1f} % of {len(lines)} lines, "
          f"{ran} of {len(functions)} functions and instances ran")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
