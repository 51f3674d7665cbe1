#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# Runs tests and prints, as its very last line, "N passed, N failed, N skipped".
#   run-tests.sh [--check NAME COMMAND] [--skip NAME REASON] [--pytest PYTHON FOLDER]
#                [--under COMMAND] PROGRAM…
# A check is one test: exit status 0 passes, 77 skips, with the last line as the reason. A cmocka
# program speaks TAP; `--under` puts a command before those that follow. One that crashes, runs out
# of time or runs no test counts as a failed test, and so does a folder of which every test was
# skipped. TEST_SECONDS is the limit of one program.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
limit=${TEST_SECONDS:-300}
# Idle OpenMP threads sleep: tests share their machine with compilers and other tests.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
passed=0 failed=0 skipped=0 unavailable=0 under=""
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
declare -A ran # per folder: tests that were not skipped

# report NAME PASSED FAILED SKIPPED SECONDS REMARK
report() {
    local word=ok
    [ "$3" -eq 0 ] || word=FAIL
    printf '%-4s %-34s %4d passed %3d failed %3d skipped %7.1f s  %s\n' "$word" "$@"
    passed=$((passed + $2)) failed=$((failed + $3)) skipped=$((skipped + $4))
}

seconds_since() { awk -v a="$1" -v b="$EPOCHREALTIME" 'BEGIN { print b - a }'; }

show_output() { sed 's/^/    | /' "$@" | tail -n 200; }

run_program() {
    local program=$1 name status start remark="" good bad left
    name=${program#build/} name=${name#release/} name=${name/tests\//}
    [ -z "$under" ] || remark="under $under"
    start=$EPOCHREALTIME
    CMOCKA_MESSAGE_OUTPUT=tap timeout -k 10 "$limit" $under "$program" \
        >"$work/out" 2>"$work/err" </dev/null
    status=$?
    good=$(grep -E '^ok [0-9]+' "$work/out" | grep -vc '# SKIP')
    bad=$(grep -E '^not ok [0-9]+' "$work/out" | grep -vc '# SKIP')
    left=$(grep -cE '^(not )?ok [0-9]+ # SKIP' "$work/out")
    if [ "$status" -eq 124 ] || [ "$status" -eq 137 ]; then
        remark="stopped after $limit s" bad=$((bad + 1))
    elif [ "$status" -gt 128 ]; then
        remark="killed by signal $((status - 128))" bad=$((bad + 1))
    elif [ "$status" -ne 0 ] && [ "$bad" -eq 0 ]; then
        remark="exit status $status" bad=1
    elif [ $((good + bad + left)) -eq 0 ]; then
        remark="ran no test" bad=1
    fi
    report "$name" "$good" "$bad" "$left" "$(seconds_since "$start")" "$remark"
    [ "$bad" -eq 0 ] || show_output "$work/out" "$work/err"
    [ "$left" -eq 0 ] || grep -hiE '# SKIP|skip' "$work/out" "$work/err" | sed 's/^/    | /' | head -n 20
    ran[${name%/*}]=$((${ran[${name%/*}]:-0} + good + bad))
}

run_check() {
    local name=$1 start=$EPOCHREALTIME status
    $2 >"$work/out" 2>&1
    status=$?
    case $status in
    0) report "$name" 1 0 0 "$(seconds_since "$start")" "" ;;
    77) skip "$name" "$(tail -n 1 "$work/out")" ;;
    *)
        report "$name" 0 1 0 "$(seconds_since "$start")" ""
        show_output "$work/out"
        ;;
    esac
}

skip() {
    unavailable=1
    report "$1" 0 0 1 0 "$2"
}

run_pytest() {
    local python=$1 folder=$2 start=$EPOCHREALTIME status counts remark=""
    PYTHONDONTWRITEBYTECODE=1 timeout -k 10 3000 "$python" -m pytest -q -rs --tb=short -p no:cacheprovider \
        --junitxml="$work/pytest.xml" "$folder" </dev/null >"$work/out" 2>&1
    status=$?
    counts=$("$python" - "$work/pytest.xml" 2>/dev/null <<'END'
import sys, xml.etree.ElementTree as tree
suites = list(tree.parse(sys.argv[1]).getroot().iter("testsuite"))
count = lambda name: sum(int(s.get(name, 0)) for s in suites)
bad, left = count("failures") + count("errors"), count("skipped")
print(max(0, count("tests") - bad - left), bad, left)
END
    )
    local good=0 bad=0 left=0
    read -r good bad left <<<"${counts:-0 0 0}"
    if [ "$status" -ne 0 ] && [ "$bad" -eq 0 ]; then bad=1 remark="pytest exit status $status"; fi
    report "${folder#tests/}" "$good" "$bad" "$left" "$(seconds_since "$start")" "$remark"
    [ "$bad" -eq 0 ] || show_output "$work/out"
    [ "$left" -eq 0 ] || grep '^SKIPPED' "$work/out" | sed 's/^/    | /'
    ran[${folder#tests/}]=$((good + bad))
}

while [ $# -gt 0 ]; do
    case $1 in
    --check)
        run_check "$2" "$3"
        shift 3
        ;;
    --skip)
        skip "$2" "$3"
        shift 3
        ;;
    --under)
        under=$2
        shift 2
        ;;
    --pytest)
        run_pytest "$2" "$3"
        shift 3
        ;;
    *)
        run_program "$1"
        shift
        ;;
    esac
done

for folder in "${!ran[@]}"; do
    if [ "${ran[$folder]}" -eq 0 ]; then
        echo "FAIL $folder: every test was skipped"
        failed=$((failed + 1))
    fi
done
[ $((passed + failed + unavailable)) -gt 0 ] || failed=1
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
