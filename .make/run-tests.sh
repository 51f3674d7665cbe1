#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# Runs tests and prints, as its very last line, "N passed, N failed, N skipped".
#   run-tests.sh [--check NAME COMMAND] [--skip NAME REASON] [--pytest PYTHON PLACES]
#                [--under COMMAND] [--wait] PROGRAM…
# PLACES are folders and tests for pytest; the first names them. A check is one test: exit status 0 passes, 77 skips, with the last line as the reason. A cmocka
# program speaks TAP; `--under` puts a command before those that follow. One that crashes, runs out
# of time or runs no test counts as a failed test, and so does a folder of which every test was
# skipped. TEST_SECONDS is the limit of one program. TEST_JOBS run at a time, and are shown in the
# order of the arguments; what follows `--wait` begins when all before it has ended.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
limit=${TEST_SECONDS:-300} most=${TEST_JOBS:-1}
# Idle OpenMP threads sleep: tests share their machine with compilers and other tests.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
passed=0 failed=0 skipped=0 unavailable=0 under=""
work=$(mktemp -d)
trap 'kill $(jobs -p) $(cat "$work"/*/pid 2>/dev/null) 2>/dev/null; rm -rf "$work"' EXIT
declare -A ran # per folder: tests that were not skipped

# ---- one job: a subshell with the folder $here for what it prints (shown) and counts (counts)

# report NAME PASSED FAILED SKIPPED SECONDS REMARK
report() {
    local word=ok
    [ "$3" -eq 0 ] || word=FAIL
    printf '%-4s %-34s %4d passed %3d failed %3d skipped %7.1f s  %s\n' "$word" "$@"
    echo "$2 $3 $4" >"$here/counts"
}

# ran_in FOLDER COUNT: tests that ran.
ran_in() { echo "$1 $2" >"$here/folder"; }

seconds_since() { awk -v a="$1" -v b="$EPOCHREALTIME" 'BEGIN { print b - a }'; }

show_output() { sed 's/^/    | /' "$@" | tail -n 200; }

# run COMMAND…: its exit status, output in $here/out and $here/err; ended when this script is.
run() {
    "$@" >"$here/out" 2>"$here/err" </dev/null &
    echo $! >"$here/pid"
    wait $! 2>/dev/null # which would tell of signals too
    local status=$?
    rm "$here/pid"
    return $status
}

run_program() {
    local under=$1 program=$2 name status start remark="" good bad left
    name=${program#build/} name=${name#release/} name=${name/tests\//}
    [ -z "$under" ] || remark="under $under"
    start=$EPOCHREALTIME
    CMOCKA_MESSAGE_OUTPUT=tap run timeout -k 10 "$limit" $under "$program"
    status=$?
    good=$(grep -E '^ok [0-9]+' "$here/out" | grep -vc '# SKIP')
    bad=$(grep -E '^not ok [0-9]+' "$here/out" | grep -vc '# SKIP')
    left=$(grep -cE '^(not )?ok [0-9]+ # SKIP' "$here/out")
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
    [ "$bad" -eq 0 ] || show_output "$here/out" "$here/err"
    [ "$left" -eq 0 ] || grep -hiE '# SKIP|skip' "$here/out" "$here/err" | sed 's/^/    | /' | head -n 20
    ran_in "${name%/*}" $((good + bad))
}

run_check() {
    local name=$1 start=$EPOCHREALTIME status
    run $2
    status=$?
    cat "$here/err" >>"$here/out"
    case $status in
    0) report "$name" 1 0 0 "$(seconds_since "$start")" "" ;;
    77) run_skip "$name" "$(tail -n 1 "$here/out")" ;;
    *)
        report "$name" 0 1 0 "$(seconds_since "$start")" ""
        show_output "$here/out"
        ;;
    esac
}

run_skip() {
    touch "$here/unavailable"
    report "$1" 0 0 1 0 "$2"
}

run_pytest() {
    local python=$1 places=$2 folder=${2%% *} start=$EPOCHREALTIME status counts remark=""
    PYTHONDONTWRITEBYTECODE=1 run timeout -k 10 3000 "$python" -m pytest -q -rs --tb=short \
        -p no:cacheprovider --junitxml="$here/pytest.xml" $places
    status=$?
    counts=$("$python" - "$here/pytest.xml" 2>/dev/null <<'END'
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
    [ "$bad" -eq 0 ] || show_output "$here/out" "$here/err"
    [ "$left" -eq 0 ] || grep '^SKIPPED' "$here/out" | sed 's/^/    | /'
    ran_in "${folder#tests/}" $((good + bad))
}

# ---- all jobs

begun=0 running=0 shown=0

# Shows the jobs that have ended, up to the first that has not, and adds what they counted.
show_ended() {
    local here good bad left folder count
    while [ -e "$work/$shown/ended" ]; do
        here=$work/$shown
        cat "$here/shown"
        read -r good bad left <"$here/counts" || good=0 bad=1 left=0
        passed=$((passed + good)) failed=$((failed + bad)) skipped=$((skipped + left))
        [ ! -e "$here/unavailable" ] || unavailable=1
        if [ -e "$here/folder" ]; then
            read -r folder count <"$here/folder"
            ran[$folder]=$((${ran[$folder]:-0} + count))
        fi
        shown=$((shown + 1))
    done
}

# wait_below N: until fewer than N jobs run.
wait_below() {
    while [ "$running" -ge "$1" ]; do
        wait -n
        running=$((running - 1))
        show_ended
    done
}

# begin FUNCTION ARGUMENTS…: in a subshell.
begin() {
    wait_below "$most"
    local here=$work/$begun
    mkdir "$here"
    (
        trap - EXIT
        "$@" >"$here/shown"
        touch "$here/ended"
    ) &
    begun=$((begun + 1)) running=$((running + 1))
}

while [ $# -gt 0 ]; do
    case $1 in
    --check)
        begin run_check "$2" "$3"
        shift 3
        ;;
    --skip)
        begin run_skip "$2" "$3"
        shift 3
        ;;
    --under)
        under=$2
        shift 2
        ;;
    --wait)
        wait_below 1
        shift
        ;;
    --pytest)
        begin run_pytest "$2" "$3"
        shift 3
        ;;
    *)
        begin run_program "$under" "$1"
        shift
        ;;
    esac
done
wait_below 1

for folder in "${!ran[@]}"; do
    if [ "${ran[$folder]}" -eq 0 ]; then
        echo "FAIL $folder: every test was skipped"
        failed=$((failed + 1))
    fi
done
if [ "$shown" -ne "$begun" ]; then
    echo "FAIL $((begun - shown)) of $begun jobs were lost"
    failed=$((failed + 1))
fi
[ $((passed + failed + unavailable)) -gt 0 ] || failed=1
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
