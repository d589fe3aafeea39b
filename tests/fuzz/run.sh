#!/bin/bash
# Build the harnesses of tests/fuzz and run all of them, or run those that were packed for another machine.
set -eu

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)

usage() {
    cat <<END
usage: tests/fuzz/run.sh [SECONDS] [options]

Runs each harness for SECONDS (default 60) under libFuzzer with AddressSanitizer and UndefinedBehaviorSanitizer, as many
at once as there are cores, each from the corpus in tests/fuzz/corpus and the seeds of seeds.py; then takes out of each
corpus what adds no coverage. Needs clang with its runtime (Debian: clang, libclang-rt-14-dev), and for what reads JSON the
sources of cJSON, which apt-get fetches where it can; otherwise the system's library is linked, and not looked into.

  --seconds N       the same as SECONDS
  --jobs N          harnesses at once
  --only A,B        some harnesses: plan, json, ...
  --keep            write the smaller corpora to tests/fuzz/corpus, to be committed
  --pack DIR        build, and put programs, corpora and this script into DIR, which runs where there is no clang
  --prebuilt DIR    run what --pack has put there; \$OUT gets the table, and results.tar.gz: corpora, crashes, logs
  --import FILE     add the inputs of a \$OUT/results.tar.gz to what is kept in build/fuzz/work
  --help

A crash ends its process, and the harness starts again; what led to it is in build/fuzz/logs/NAME/crashes until the next run. The
table comes last. Exit status: 0 no crash, 1 some, 2 usage, 3 this machine cannot build it.
END
}

seconds=60 jobs=$(nproc) only='' keep='' pack='' prebuilt='' import=''
while [ $# -gt 0 ]; do
    case $1 in
    --help | -h) usage; exit 0 ;;
    --keep) keep=yes; shift; continue ;;
    [0-9]*) seconds=$1; shift; continue ;;
    --seconds | --jobs | --only | --pack | --prebuilt | --import) [ $# -ge 2 ] || { usage >&2; exit 2; } ;;
    *) usage >&2; exit 2 ;;
    esac
    case $1 in
    --seconds) seconds=$2 ;;
    --jobs) jobs=$2 ;;
    --only) only=$2 ;;
    --pack) pack=$2 ;;
    --prebuilt) prebuilt=$2 ;;
    --import) import=$2 ;;
    esac
    shift 2
done
case $seconds$jobs in *[!0-9]*) usage >&2; exit 2 ;; esac

# ---- what there is ----

# The longest input, and the dictionary. Inputs beyond it would only repeat what shorter ones say.
settings() { # NAME
    case $1 in
    json) echo 4096 json ;;
    safetensors | kernel_file | checkpoint) echo 8192 safetensors ;;
    boxes | recipe) echo 8192 recipe ;;
    config | plan | layout | scheme) echo 4096 plan ;;
    options) echo 512 options ;;
    patterns) echo 512 patterns ;;
    mailbox) echo 8192 mailbox ;;
    machines) echo 512 - ;;
    message) echo 700 mailbox ;;
    introduction) echo 4096 mailbox ;;
    zmq_frame) echo 2048 - ;;
    *) echo 4096 - ;;
    esac
}

harnesses() {
    if [ -n "$only" ]; then
        echo "$only" | tr , '\n'
    elif [ -n "$prebuilt" ]; then
        ls "$prebuilt/bin" | sed 's/[.]gz$//'
    else
        sed -n 's/^weft_fuzz(\([a-z_]*\) .*/\1/p' "$here/CMakeLists.txt"
    fi
}

# ---- building ----

# cJSON as the system's package was built from, patches and all, under build/cjson.
fetch_cjson() {
    local into=$root/build/cjson
    ls -d "$into"/cjson-*/ 2>/dev/null | head -n 1 | grep . && return 0
    mkdir -p "$into/lists/partial" "$into/parts"
    if [ -f /etc/apt/sources.list.d/debian.sources ]; then
        sed 's/^Types: .*/Types: deb-src/' /etc/apt/sources.list.d/debian.sources >"$into/parts/all.sources"
    else
        sed -n 's/^deb /deb-src /p' /etc/apt/sources.list >"$into/parts/all.list"
    fi
    local -a options=(-q -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$into/parts" -o Dir::State::lists="$into/lists")
    (cd "$into" && apt-get "${options[@]}" update && apt-get "${options[@]}" source cjson) >"$into/log" 2>&1 || return 0
    ls -d "$into"/cjson-*/ 2>/dev/null | head -n 1
}

build() {
    command -v clang >/dev/null || { echo "clang is needed: apt-get install clang libclang-rt-14-dev"; exit 3; }
    local cjson
    cjson=$(fetch_cjson)
    [ -n "$cjson" ] || echo "cJSON's sources could not be fetched (build/cjson/log): the system's library is linked"
    cmake -S "$root" --preset fuzz -DWEFT_CJSON_SOURCE="${cjson%/}" >"$root/build/fuzz.log" 2>&1 &&
        cmake --build "$root/build/fuzz" --target fuzz >>"$root/build/fuzz.log" 2>&1 ||
        { tail -n 40 "$root/build/fuzz.log"; exit 3; }
    programs=$root/build/fuzz/tests/fuzz
}

# What a harness begins with: seeds, the corpus that is committed, what earlier runs here have found.
gather() {
    "$here/seeds.py" "$work" "$programs/fuzz_kernel_file"
    for name in $(harnesses); do
        mkdir -p "$work/$name"
        [ ! -f "$here/corpus/$name.pack" ] || "$here/pack.py" unpack "$here/corpus/$name.pack" "$work/$name"
        for regression in "$here"/regressions/"$name"-*; do
            [ ! -f "$regression" ] || cp "$regression" "$work/$name/"
        done
    done
}

# ---- running ----

flags=(-timeout=5 -rss_limit_mb=512 -malloc_limit_mb=128 -print_final_stats=1 -use_value_profile=1)

# Start again after a crash, until the time is over. 20 of them are enough to look at.
run_one() { # NAME
    local name=$1 longest dictionary left crashes=0 begin
    read -r longest dictionary < <(settings "$name")
    local -a more=(-max_len="$longest" -artifact_prefix="$logs/$name/crashes/")
    [ "$dictionary" = - ] || more+=(-dict="$dictionaries/$dictionary.dict")
    rm -rf "${logs:?}/$name"
    mkdir -p "$logs/$name/crashes"
    begin=$(date +%s)
    TIMEFORMAT='%U %S'
    # shellcheck disable=SC2030 # each harness runs in a process of its own
    export WEFT_FUZZ_TMP=$tmp
    {
        time while left=$((seconds - ($(date +%s) - begin))) && [ "$left" -gt 0 ] && [ "$crashes" -lt 20 ]; do
            "$programs/fuzz_$name" "${flags[@]}" "${more[@]}" -max_total_time="$left" "$work/$name" \
                >>"$logs/$name/log" 2>&1 </dev/null && break
            crashes=$((crashes + 1))
        done
    } 2>"$logs/$name/time"
}

# Corpora without what adds nothing, in "$logs/NAME/small".
shrink_one() { # NAME
    local name=$1
    rm -rf "$logs/$name/small"
    mkdir -p "$logs/$name/small"
    WEFT_FUZZ_TMP=$tmp "$programs/fuzz_$name" -timeout=5 -rss_limit_mb=512 -merge=1 "$logs/$name/small" "$work/$name" \
        >"$logs/$name/merge.log" 2>&1 </dev/null || echo "$name: its corpus could not be made smaller: $logs/$name/merge.log"
}

in_parallel() { # FUNCTION
    local name
    for name in $(harnesses); do
        while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do
            wait -n || true
        done
        "$1" "$name" &
    done
    wait
}

# From the last process of each harness; executions of all.
table() {
    local name log
    printf '%-13s %12s %9s %7s %7s %8s %8s %7s\n' harness executions exec/s edges corpus KiB crashes hours
    for name in $(harnesses); do
        log=$logs/$name/log
        awk -v name="$name" -v corpus="$(find "$logs/$name/small" -type f | wc -l)" \
            -v kib="$(find "$logs/$name/small" -type f -printf '%s\n' | awk '{ n += $1 } END { printf "%.0f", n / 1024 }')" \
            -v crashes="$(find "$logs/$name/crashes" -type f | wc -l)" -v cpu="$(tail -n 1 "$logs/$name/time")" '
            /cov: / { for (i = 1; i < NF; i++) if ($i == "cov:" && $(i + 1) > edges) edges = $(i + 1) }
            /^stat::number_of_executed_units/ { runs += $2; processes++ }
            /^#[0-9]/ { last = substr($1, 2) + 0 }
            END {
                split(cpu, time, " ")
                seconds = time[1] + time[2]
                if (!runs) runs = last
                printf "%-13s %12d %9.0f %7d %7d %8d %8d %7.2f\n", name, runs, seconds ? runs / seconds : 0, edges, corpus, kib,
                    crashes, seconds / 3600
            }' "$log"
    done
    cat "$logs"/*/time | awk '{ n += $1 + $2 } END { printf "%.2f CPU hours in all\n", n / 3600 }'
}

# ---- the whole ----

make_pack() {
    local name
    build
    work=$root/build/fuzz/work
    gather
    rm -rf "$pack"
    mkdir -p "$pack/bin" "$pack/corpus" "$pack/dictionaries"
    cp "$here/run.sh" "$pack/"
    cp "$here"/dictionaries/*.dict "$pack/dictionaries/"
    for name in $(harnesses); do
        strip -g -o "$pack/bin/$name" "$programs/fuzz_$name" && gzip -9 "$pack/bin/$name"
        tar -C "$work/$name" -czf "$pack/corpus/$name.tar.gz" .
    done
    du -sh "$pack"
}

if [ -n "$pack" ]; then
    make_pack
    exit 0
fi
if [ -n "$import" ]; then
    mkdir -p "$root/build/fuzz/work"
    tar -C "$root/build/fuzz/work" --strip-components=2 -xzf "$import" ./corpus
    exit 0
fi
tmp=$(mktemp -d "$([ -w /dev/shm ] && echo /dev/shm || echo /tmp)/weft-fuzz-run-XXXXXX")
trap 'rm -rf "$tmp"' EXIT
if [ -n "$prebuilt" ]; then
    out=${OUT:-$prebuilt/out}
    programs=$tmp/bin dictionaries=$prebuilt/dictionaries work=$tmp/work logs=$tmp/logs
    mkdir -p "$out" "$programs" "$work" "$logs"
    for name in $(harnesses); do
        gzip -dc "$prebuilt/bin/$name.gz" >"$programs/fuzz_$name"
        chmod +x "$programs/fuzz_$name"
        mkdir -p "$work/$name"
        tar -C "$work/$name" -xzf "$prebuilt/corpus/$name.tar.gz"
    done
else
    build
    work=$root/build/fuzz/work logs=$root/build/fuzz/logs dictionaries=$here/dictionaries
    gather
fi
in_parallel run_one
in_parallel shrink_one
if [ -n "$prebuilt" ]; then
    for name in $(harnesses); do
        mkdir -p "$tmp/results/corpus/$name" "$tmp/results/crashes/$name"
        cp -r "$logs/$name/small/." "$tmp/results/corpus/$name/"
        cp -r "$logs/$name/crashes/." "$tmp/results/crashes/$name/"
        tail -c 20000 "$logs/$name/log" >"$tmp/results/$name.log"
    done
    tar -C "$tmp/results" -czf "$out/results.tar.gz" .
    table | tee "$out/table.txt"
else
    for name in $(harnesses); do
        [ -z "$keep" ] || { mkdir -p "$here/corpus" && "$here/pack.py" pack "$logs/$name/small" "$here/corpus/$name.pack"; }
    done
    table
fi
[ "$(find "$logs"/*/crashes -type f | wc -l)" -eq 0 ]
