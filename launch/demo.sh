#!/bin/sh
# Build the weft command and run its main job on this machine: two trainer ranks publish two versions of a small
# model, two rollout ranks decode text across the swaps. Arguments are handed to `weft run` after those below.
#
#     launch/demo.sh [--swap copy] [--scheme fp8-channel] ...      (WEFT_RANKS: ranks to start, default 4)
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
    --model "$models/v1,$models/v3" --trainer fsdp:2 --rollout tp:2 --scheme fp8-block "$@"
printf '\n$ %s\n\n' "$*"
exec "$@"
