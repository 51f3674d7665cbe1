#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# Runs the CUDA backend on the CPU: canaries, parity of the plain build against ref, then the same
# bits in other orders, on other numbers of multiprocessors and under the sanitizers; gradients,
# methods and the program itself in the plain build. `make check-simt` builds what it needs.
#   check-simt.sh PYTHON
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
python=$1
recorded=build/simt/recorded
mkdir -p "$recorded"

export CA_TEST_BACKEND=cuda OMP_NUM_THREADS=1 CAUSA=build/simt/causa
# What the program sets by starting again, which doubles the time that linking takes it.
export OPENBLAS_NUM_THREADS=1
export ASAN_OPTIONS=allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1
export LSAN_OPTIONS=suppressions=.make/lsan.txt:print_suppressions=0
export TSAN_OPTIONS=halt_on_error=1:atexit_sleep_ms=0

tests=() # arguments for run-tests.sh
parity() { # VARIANT PROGRAMS SETTING…
    local variant=$1 program
    local programs=${2:-products rows attention laws checks}
    shift 2
    tests+=(--under "env $*")
    for program in $programs; do tests+=(build/"$variant"/tests/parity/test_"$program"); done
}

# The program: end-to-end tests, in two parts, which run at a time. What markers leave out of them,
# tests/e2e/conftest.py tells. Not among them: files of which nothing runs on the device (convert,
# experiments, gpu_predictions, report*) or nothing that others do not run there (results_readme),
# those that want a real one (cuda) or a model of 135 million parameters (smollm2), and those that
# take a simulated one many minutes (bf16, eap, planted).
end_to_end() { printf 'tests/e2e/test_%s.py ' "$@"; }
foundation=$(end_to_end run resume cli bad_input paths spans continuation baselines randomise)
studies=$(end_to_end scopes fisher identities evaluation evaluation_apart patch patch_cells eap_levels \
    eap_sets eap_peers given_circuits)

# What takes longest begins first. Nothing compares with recorded bits before all are recorded.
parity simt '' "CA_PARITY_RECORD=$recorded"
tests+=(--pytest "$python" tests/simt)
tests+=(--under "env CA_SIMT_STREAMS=lazy:1")
for source in tests/method/test_*.c tests/gradient/test_*.c; do
    tests+=("build/simt/${source%.c}")
done
tests+=(build/simt/tests/simt/check_nccl --under '')
for variant in simt simt-asan simt-tsan; do
    tests+=("build/$variant/tests/simt/check_canaries")
done
tests+=(--wait --pytest "$python" "$foundation" --pytest "$python" "$studies")

expect="CA_PARITY_EXPECT=$recorded"
few="CA_SIMT_MULTIPROCESSORS=1 CA_SIMT_BLOCKS=3" # every loop over the grid takes further steps
# The sanitizers take long. What is accessed depends on shapes, not on contents; what races may
# shows at the largest shape that a variant of an operation has.
other_order="CA_SIMT_SCHEDULE=greedy:2 $few CA_PARITY_CASES=largest $expect"
parity simt-tsan '' "$other_order"
other_order="CA_SIMT_SCHEDULE=random:2 CA_SIMT_STREAMS=lazy:2 CA_PARITY_CASES=shapes $expect"
parity simt-asan '' "$other_order"
parity simt '' CA_SIMT_SCHEDULE=reverse CA_SIMT_MULTIPROCESSORS=7 "$expect"
parity simt '' CA_SIMT_SCHEDULE=random:1 "$few" "$expect"
parity simt '' CA_SIMT_SCHEDULE=greedy:1 CA_SIMT_STREAMS=lazy:1 CA_SIMT_PROTECT=1 "$expect"
# On 48 MiB products with bf16 are cut into parts, whose algorithms, and bits, are others.
parity simt laws CA_SIMT_MEMORY=$((48 << 20))
TEST_JOBS=${TEST_JOBS:-2} TEST_SECONDS=${TEST_SECONDS:-900} .make/run-tests.sh "${tests[@]}"
