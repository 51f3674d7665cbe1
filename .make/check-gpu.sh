#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# Runs the given parity and method programs and the end-to-end tests on the GPU, then the parity
# programs under each tool of compute-sanitizer. Without a device it says why and skips.
#   check-gpu.sh PYTHON PROGRAM…
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=$1
shift

if ! reason=$(build/causa plan configs/demo.yaml backend=cuda 2>&1 >/dev/null); then
    exec .make/run-tests.sh --skip check-gpu "${reason#causa: error: command line: backend: }"
fi

parity=()
for program in "$@"; do
    [[ $program != */parity/* ]] || parity+=("$program")
done
sanitizer=$(command -v compute-sanitizer || true)
[ -n "$sanitizer" ] || sanitizer=$(ls "${CUDA_HOME:-/usr/local/cuda}/bin/compute-sanitizer" 2>/dev/null)

sanitized=()
for tool in memcheck racecheck initcheck synccheck; do
    if [ -n "$sanitizer" ]; then
        sanitized+=(--under "$sanitizer --tool $tool --error-exitcode 1" "${parity[@]}")
    else
        sanitized+=(--skip "$tool" "compute-sanitizer was not found")
    fi
done
# Under the sanitizer a program takes many times as long.
TEST_SECONDS=${TEST_SECONDS:-1800} exec .make/run-tests.sh \
    --pytest "$python" tests/e2e "$@" "${sanitized[@]}"
