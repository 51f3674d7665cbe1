#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# Runs the CUDA backend on the CPU: canaries, then parity of the plain build against ref, then the
# same bits in other orders, on other numbers of multiprocessors and under the sanitizers; methods
# and the program itself in the plain build. `make check-simt` builds what it needs.
#   check-simt.sh PYTHON
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
python=$1
recorded=build/simt/recorded
mkdir -p "$recorded"

export CA_TEST_BACKEND=cuda OMP_NUM_THREADS=1 CAUSA=build/simt/causa
export ASAN_OPTIONS=allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1
export LSAN_OPTIONS=suppressions=.make/lsan.txt:print_suppressions=0
export TSAN_OPTIONS=halt_on_error=1:atexit_sleep_ms=0

tests=() # arguments for run-tests.sh
parity() { # VARIANT PROGRAMS SETTING…
    local variant=$1 program
    local programs=${2:-rows attention laws checks}
    shift 2
    tests+=(--under "env $*")
    for program in $programs; do tests+=(build/"$variant"/tests/parity/test_"$program"); done
}
expect="CA_PARITY_EXPECT=$recorded"

tests+=(build/simt/tests/simt/check_canaries build/simt-asan/tests/simt/check_canaries
    build/simt-tsan/tests/simt/check_canaries)
tests+=(--under "env CA_SIMT_STREAMS=lazy:1" build/simt/tests/simt/check_nccl)
parity simt '' "CA_PARITY_RECORD=$recorded"
parity simt '' CA_SIMT_SCHEDULE=reverse CA_SIMT_MULTIPROCESSORS=7 "$expect"
parity simt '' CA_SIMT_SCHEDULE=random:1 CA_SIMT_MULTIPROCESSORS=1 "$expect"
parity simt '' CA_SIMT_SCHEDULE=greedy:1 CA_SIMT_STREAMS=lazy:1 "$expect"
# On 48 MiB products with bf16 are cut into parts, whose algorithms, and bits, are others.
parity simt laws CA_SIMT_MEMORY=$((48 << 20))
# The sanitizers take long: a share of the cases.
other_order="CA_SIMT_SCHEDULE=random:2 CA_SIMT_STREAMS=lazy:2 $expect"
parity simt-asan rows CA_PARITY_SHARE=2 "$other_order"
parity simt-asan "attention laws checks" "$other_order"
other_order="CA_SIMT_SCHEDULE=greedy:2 CA_SIMT_MULTIPROCESSORS=1 $expect"
parity simt-tsan rows CA_PARITY_SHARE=41 "$other_order"
parity simt-tsan attention CA_PARITY_SHARE=3 "$other_order"
parity simt-tsan "laws checks" "$other_order"
tests+=(--under "env CA_SIMT_STREAMS=lazy:1")
for source in tests/method/test_*.c; do tests+=("build/simt/${source%.c}"); done
TEST_SECONDS=${TEST_SECONDS:-900} .make/run-tests.sh --pytest "$python" tests/simt \
    --pytest "$python" tests/e2e/test_run.py "${tests[@]}"
