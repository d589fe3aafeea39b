#!/bin/sh
# Build the weft command and run its main job on this machine: two trainer ranks publish two versions of a small
# model, two rollout ranks decode text across the swaps. Arguments are handed to `weft run` after those below.
#
#     launch/demo.sh                                      two versions, about 15 seconds with the build
#     launch/demo.sh --eval-bytes 60KiB                   bits per byte on the whole of the held text
#     launch/demo.sh --pace 1000 --rate 1GB/s             as fast as it goes, instead of slow enough to watch
#     launch/demo.sh --swap copy                          into memory of fixed place
#     WEFT_RANKS=6 launch/demo.sh --rollout tp:2x2        two replicas; WEFT_RANKS: processes to start, default 4
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
. "$root/launch/setup.sh"

setup_begin demo || exit 3
setup_configure cpu || exit 3
setup_build cpu weft_command || exit 3

here=$root/
[ "$PWD" != "$root" ] || here= # short paths where they are right
weft=${here}build/cpu/launch/weft/weft
models=${here}launch/demo/tiny-qwen3
set -- mpirun -n "${WEFT_RANKS:-4}" "$weft" run \
    --model "$models/v1,$models/v3" --trainer fsdp:2 --rollout tp:2 --scheme fp8-block \
    --rate 4MB/s --bucket 128KiB --pace 60 --eval "${here}launch/demo/eval.txt" --eval-bytes 8KiB --tokens 140 "$@"
printf '\n$ %s\n\n' "$*"
exec "$@"
