#!/bin/bash
# Build weft and run its tests, in several builds.
set -eu

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$root/launch/setup.sh"

usage() {
    cat <<END
usage: tests/run.sh [--quick | PRESET...]

Installs what is missing, builds, and runs the tests of each preset: cpu, asan (with UndefinedBehaviorSanitizer; the
preset ubsan is that one alone) and tsan (there only the tests labelled tsan: MPI is not built for it). With a CUDA
toolkit that of the cuda preset is built too which the tests labelled gpu run, and they run.

Tests labelled slow run in the cpu preset only: under a sanitizer they would take many minutes.

  --quick   the cpu preset only, without the tests labelled slow
  --help    show this

The last line is "N passed, N failed, N skipped" over all presets; a build that fails counts as one failure. Exit
status: 0 all passed, 1 something failed or nothing ran, 2 usage, 3 this machine cannot build weft.
END
}

passed=0 failed=0 skipped=0

finish() { # STATUS
    status=$1
    [ "$status" -ne 0 ] || [ "$failed" -eq 0 ] || status=1
    if [ "$status" -eq 0 ] && [ "$passed" -eq 0 ]; then
        echo "no test ran"
        status=1
    fi
    echo "$passed passed, $failed failed, $skipped skipped"
    exit "$status"
}

# Suppressions name leaks and races inside MPI and ZeroMQ, never in weft.
sanitizer_environment() {
    local suppressions=$root/tests/support/suppressions
    export ASAN_OPTIONS=detect_leaks=1:strict_string_checks=1:detect_stack_use_after_return=1
    export UBSAN_OPTIONS=print_stacktrace=1
    export LSAN_OPTIONS=suppressions=$suppressions/lsan.supp:print_suppressions=0
    export TSAN_OPTIONS=suppressions=$suppressions/tsan.supp:halt_on_error=1:second_deadlock_stack=1
}

# Add up ctest's JUnit report. A test that could not start is a failure; one that returned 77 or is disabled is skipped.
count_results() { # FILE
    local ok bad off
    read -r ok bad off < <(awk '
        /<testcase / { state = /status="run"/ ? "ok" : /status="disabled"/ ? "off" : /status="notrun"/ ? "notrun" : "bad" }
        /<skipped / && state == "notrun" { state = /SKIP_RETURN_CODE|SKIP_REGULAR_EXPRESSION/ ? "off" : "bad" }
        /<\/testcase>/ { count[state == "notrun" ? "bad" : state]++ }
        END { print count["ok"] + 0, count["bad"] + 0, count["off"] + 0 }' "$1")
    passed=$((passed + ok)) failed=$((failed + bad)) skipped=$((skipped + off))
}

run_ctest() { # PRESET
    local preset=$1 results=$root/build/$1/results.xml before=$failed
    local -a command=(ctest --test-dir "$root/build/$preset" --output-on-failure -j2 --output-junit "$results")
    case $preset in
    tsan) command+=(-L '^tsan$') ;;
    cuda) command+=(-L '^gpu$') ;;
    esac
    [ -z "$quick" ] && [ "$preset" = cpu ] || command+=(-LE '^slow$')
    # ThreadSanitizer of older compilers cannot start when addresses are randomized widely.
    [ "$preset" != tsan ] || ! setarch -R true 2>/dev/null || command=(setarch -R "${command[@]}")
    local rc=0
    rm -f "$results"
    "${command[@]}" || rc=$?
    if [ -f "$results" ]; then
        count_results "$results"
    else
        echo "no test of preset $preset ran"
    fi
    [ "$rc" -eq 0 ] || [ "$failed" -gt "$before" ] || failed=$((failed + 1)) # ctest itself failed
}

test_preset() {
    local target=
    [ "$1" != cuda ] || target=gpu
    if setup_configure "$1" && setup_build "$1" $target; then
        run_ctest "$1"
    else
        failed=$((failed + 1))
    fi
}

find_cuda() {
    command -v nvcc >/dev/null && return 0
    [ -x /usr/local/cuda/bin/nvcc ] && export CUDACXX=${CUDACXX:-/usr/local/cuda/bin/nvcc}
}

quick='' presets=()
for argument in "$@"; do
    case $argument in
    --help | -h) usage; exit 0 ;;
    --quick) quick=yes ;;
    cpu | asan | ubsan | tsan | cuda) presets+=("$argument") ;;
    *) usage >&2; exit 2 ;;
    esac
done
[ -z "$quick" ] || [ ${#presets[@]} -eq 0 ] || { usage >&2; exit 2; }

setup_begin tests || { failed=1; finish 3; }
sanitizer_environment
if [ -n "$quick" ]; then
    presets=(cpu)
elif [ ${#presets[@]} -eq 0 ]; then
    presets=(cpu asan tsan)
    if find_cuda; then
        presets+=(cuda)
        echo "a CUDA toolkit is here: the cuda preset is built as well"
    else
        echo "no CUDA toolkit: the cuda preset is skipped"
    fi
fi
for preset in "${presets[@]}"; do
    test_preset "$preset"
done
finish 0
