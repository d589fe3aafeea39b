#!/bin/bash
# Everything about weft that needs a GPU, in one call: build, test, measure. The table comes last.
set -eu

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$root/launch/setup.sh"
setup_log=$root/build/gpu/setup.log
results=${OUT:-$root/build/gpu} # what is worth keeping: logs, JSON, the table

usage() {
    cat <<END
usage: tests/gpu.sh [--only STAGE[,STAGE...]] [--programs DIR]

Builds the cuda preset, runs the tests labelled gpu and some of them under compute-sanitizer, and measures: kernels,
swap, colocated refit beside what users do today, distributed update beside a bare broadcast, steps lost, 1,000 updates.
Takes less than 8 minutes on one H100 or H200 with 16 cores. Logs, JSON and the table are left in build/gpu (or in \$OUT).

  --only LIST      build, test, sanitize, kernels, swap, colocated, nccl, decode, soak, torch, host (default: all)
  --programs DIR   use the programs of this build folder; stage build is left out
  --help           show this

Debian packages in .deps/ are unpacked into build/deps first: a GPU machine may lack what weft is built with, and may
have no way to install it.

Exit status: 0 all passed, 1 something failed, 2 usage, 3 this machine cannot build weft, 77 there is no GPU.
END
}

only=build,test,sanitize,kernels,swap,colocated,nccl,decode,soak,torch,host
build=$root/build/cuda
while [ $# -gt 0 ]; do
    case $1 in
    --only) only=${2?}; shift ;;
    --programs) build=$(cd "${2?}" && pwd); only=${only#build,}; shift ;;
    --help | -h) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
    esac
    shift
done

failed=0 table=$results/table.txt
mkdir -p "$root/build/gpu" "$results"
: >"$setup_log"
: >"$table"

wants() { [[ ,$only, == *,$1,* ]]; }
say() { tee -a "$table"; }

# Run a command under a time limit with its output in a file; one line on the terminal, the end of the output on failure.
stage() { # NAME SECONDS COMMAND...
    local name=$1 limit=$2 started=$SECONDS status=0
    shift 2
    printf '%-28s' "$name"
    timeout -k 5 "$limit" "$@" >"$results/$name.log" 2>&1 </dev/null || status=$?
    case $status in
    0) echo "ok ($((SECONDS - started)) s)" ;;
    77) echo "skipped: $(tail -n 1 "$results/$name.log")" ;;
    *)
        echo "FAILED (exit $status, $((SECONDS - started)) s)"
        tail -n 25 "$results/$name.log"
        failed=$((failed + 1))
        ;;
    esac
    return "$status"
}

# Packages that were brought along become a prefix; what they say of private needs is not needed here.
unpack_packages() {
    local deps=$root/build/deps package
    ls "$root"/.deps/*.deb >/dev/null 2>&1 || return 0
    mkdir -p "$deps"
    for package in "$root"/.deps/*.deb; do
        dpkg -x "$package" "$deps"
    done
    local lib=$deps/usr/lib/x86_64-linux-gnu
    sed -i "s|/usr\>|$deps/usr|g; /^Requires.private/d" "$lib"/pkgconfig/*.pc
    export PATH=$PATH:$deps/usr/bin LD_LIBRARY_PATH=$lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    export PKG_CONFIG_PATH=$lib/pkgconfig:/usr/lib/x86_64-linux-gnu/pkgconfig:/usr/share/pkgconfig
    export LIBRARY_PATH=$lib${LIBRARY_PATH:+:$LIBRARY_PATH}
}

build_all() {
    command -v ninja >/dev/null || export CMAKE_GENERATOR="Unix Makefiles"
    stage configure 60 cmake -S "$root" --preset cuda -DWEFT_WERROR=OFF || exit 3
    stage build 240 cmake --build "$build" --parallel "$(nproc)" || exit 3
}

program() { find "$build" -name "$1" -type f -perm -u+x | head -n 1; }

# Under a sanitizer programs are slow and use little of the GPU: they run in the background, beside the tests.
sanitizers=()
sanitize() { # TOOL PROGRAM
    local name=$1-$2
    local -a options=(--tool "$1" --error-exitcode 9)
    [ "$1" = racecheck ] || options+=(--report-api-errors no) # tests ask for what must be refused
    WEFT_TEST_SHORT=1 timeout -k 5 170 compute-sanitizer "${options[@]}" "$(program "$2")" >"$results/$name.log" 2>&1 \
        </dev/null &
    sanitizers+=("$!:$name")
}

await_sanitizers() {
    local entry status
    for entry in "${sanitizers[@]}"; do
        status=0
        wait "${entry%%:*}" || status=$?
        printf '%-28s' "${entry#*:}"
        if [ "$status" -eq 0 ]; then
            grep -h 'ERROR SUMMARY\|RACECHECK SUMMARY' "$results/${entry#*:}.log" | tail -n 1
        else
            echo "FAILED (exit $status)"
            tail -n 25 "$results/${entry#*:}.log"
            failed=$((failed + 1))
        fi
    done
}

measure() { # TITLE NAME SECONDS COMMAND...
    local title=$1 name=$2
    shift
    stage "$@" || true
    { printf '\n== %s\n' "$title"; grep -v '^ *$' "$results/$name.log" || true; } >>"$table"
}

if ! nvidia-smi -L >>"$setup_log" 2>&1; then
    echo "skipped: no GPU"
    exit 77
fi
setup_mpi
export NCCL_NVLS_ENABLE=0 PYTHONDONTWRITEBYTECODE=1
unpack_packages
wants build && build_all
weft=$(program weft)
demo=$root/launch/demo/tiny-qwen3
colocated=(mpirun -n 2 "$weft" bench sync --trainer fsdp:1 --rollout tp:1 --transport ipc)
shared=(--transport nccl --shared-gpu)

if wants sanitize && command -v compute-sanitizer >/dev/null; then
    for name in cuda_test_{elements,units,casts,arrange,runs,queue} test_cuda_decoder; do
        sanitize memcheck "$name"
        sanitize racecheck "$name"
    done
fi
if wants test; then
    stage test 360 ctest --test-dir "$build" -L "^gpu$" -j6 --output-on-failure || true
    grep -h 'tests passed' "$results/test.log" || true
fi
await_sanitizers

{ date +%F; nvidia-smi --query-gpu=name,driver_version --format=csv,noheader; git -C "$root" rev-parse --short HEAD 2>/dev/null || true; } |
    paste -sd' ' >>"$table"
wants kernels && measure "quantize kernels beside a device copy" kernels 40 "$(program cuda_bench_kernels)"
wants swap && measure "swap: pause, beside a device copy" swap 60 "$(program cuda_bench_swap)"
wants colocated && measure "colocated refit of Qwen3-8B, ipc, flip, fp8-block" colocated 60 \
    "${colocated[@]}" --updates 20 --json "$results/colocated.json"
wants colocated && measure "the same, after the GPU has idled" colocated-idle 60 "${colocated[@]}" --idle --updates 10
wants torch && measure "the same refit as users do it today (PyTorch)" torch 90 \
    python3 "$root/tests/bench/colocated_torch.py" --json "$results/torch.json"
wants nccl && measure "update over NCCL beside a bare broadcast, ranks sharing the GPU" nccl 60 \
    mpirun -n 2 "$weft" bench sync --trainer fsdp:1 --rollout tp:1 "${shared[@]}" --shape qwen3-8b,layers=2,vocab=8192 \
    --updates 7 --json "$results/nccl.json"
wants decode && measure "decode flat out through updates, throttled to 50 GB/s" decode 60 \
    "${colocated[@]}" --decode flat --rate 50GB/s --updates 5 --json "$results/decode.json"
wants decode && measure "the same, not throttled" decode-unthrottled 60 \
    "${colocated[@]}" --decode flat --updates 5 --json "$results/decode-unthrottled.json"
wants soak && measure "1,000 updates of tiny-qwen3" soak 60 \
    mpirun -n 2 "$weft" run --model "$demo/v1,$demo/v3" --trainer fsdp:1 --rollout tp:1 --scheme fp8-block --transport ipc \
    --updates 1000 --tokens 1 --quiet --json "$results/soak.json"
wants soak && stage trace 30 mpirun -n 2 "$weft" run --model "$demo/v1,$demo/v3" --trainer fsdp:1 --rollout tp:1 \
    --scheme fp8-block "${shared[@]}" --bucket 256KiB --budget 2MiB --tokens 30 --quiet --trace "$results/trace.json" || true
if wants host; then # no GPU in it: a machine with cores to spare
    host=(mpirun --bind-to none -n 2 "$weft" bench sync --trainer fsdp:1 --rollout tp:1 --transport mpi --updates 9)
    for workers in 0 1 2 4 6; do
        measure "update over MPI in host memory, $workers workers a rank" "host-$workers" 30 \
            "${host[@]}" --shape qwen3-8b,layers=2,vocab=8192 --workers "$workers"
    done
    measure "quantize in host memory, one core" host-quantize 60 "$weft" bench quantize --memory host
fi
cat "$table"
echo
echo "$failed stages failed; all output is in $results"
[ "$failed" -eq 0 ]
