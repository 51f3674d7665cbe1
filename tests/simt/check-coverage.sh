#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# Runs the suites of the CUDA backend in the build that counts lines, then says which lines and
# which instances of kernels none of them ran. `make check-simt-coverage` builds what it needs.
#   check-coverage.sh PYTHON
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
python=$1 out=build/simt-gcov
find "$out" -name '*.gcda' -delete

export CA_TEST_BACKEND=cuda OMP_NUM_THREADS=1 CAUSA=$out/causa CA_PARITY_CASES=shapes
tests=(--pytest "$python" "tests/simt/test_failing_calls.py tests/simt/test_devices.py")
# Few blocks and multiprocessors take the most turns.
tests+=(--under "env CA_SIMT_MULTIPROCESSORS=1 CA_SIMT_BLOCKS=3")
for program in parity/test_{products,rows,attention,laws,checks} gradient/test_{rows,attention}; do
    tests+=("$out/tests/$program")
done
tests+=(--under '')
for source in tests/method/test_*.c; do tests+=("$out/${source%.c}"); done
# Products with bf16 in parts, as check-simt.sh says.
tests+=(--under "env CA_SIMT_MEMORY=$((48 << 20))" "$out/tests/parity/test_laws")
TEST_JOBS=${TEST_JOBS:-2} TEST_SECONDS=${TEST_SECONDS:-900} .make/run-tests.sh "${tests[@]}" \
    --wait --check coverage "$python tests/simt/coverage.py $out"
