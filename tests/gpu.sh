#!/bin/bash
# Everything about weft that needs a GPU, in one call: build, test, measure. The table comes last.
set -eu

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
log=$root/build/gpu.log

usage() {
    cat <<END
usage: tests/gpu.sh [--quick]

Builds the cuda preset, or tests/cuda by itself where this machine lacks what the rest of weft needs; runs the tests
labelled gpu; times the kernels beside a device copy. All output is in build/gpu.log, the table is printed last.

  --quick   fewer operations and samples
  --help    show this

Exit status: 0 all passed, 1 something failed, 2 usage, 77 there is no GPU.
END
}

bench=()
case ${1-} in
'') ;;
--quick) bench=(--quick --samples 20) ;;
--help | -h) usage; exit 0 ;;
*) usage >&2; exit 2 ;;
esac

mkdir -p "$root/build"
: >"$log"
if ! nvidia-smi -L >>"$log" 2>&1; then
    echo "skipped: no GPU"
    exit 77
fi

stage() { # LABEL COMMAND...
    local label=$1 started=$SECONDS
    shift
    printf '%-34s' "$label"
    echo "== $label: $*" >>"$log"
    if "$@" >>"$log" 2>&1; then
        echo "ok ($((SECONDS - started)) s)"
    else
        echo "FAILED"
        return 1
    fi
}

fail() {
    tail -n 40 "$log"
    exit 1
}

generator=()
! command -v ninja >/dev/null || generator=(-G Ninja)
folder=$root/build/cuda
if ! stage "configure cuda" cmake -S "$root" --preset cuda; then
    echo "the whole of weft cannot be built here ($log says why): tests/cuda by itself"
    folder=$root/build/cuda-tests
    stage "configure tests/cuda" cmake -S "$root/tests/cuda" -B "$folder" "${generator[@]}" || fail
fi
stage "build" cmake --build "$folder" --parallel "$(nproc)" || fail
stage "test" ctest --test-dir "$folder" -L '^gpu$' --output-on-failure || fail

program=$(find "$folder" -name cuda_bench_kernels -type f -perm -u+x | head -n 1)
"$program" "${bench[@]}" 2>&1 | tee "$root/build/gpu-kernels.txt"
