#!/bin/bash
# Compare weft's quantization with the packages that engines and quantizers use, on the CPU.
#
#   tests/packages/run.sh                     with build/cpu's weft, which must be built
#   tests/packages/run.sh --write-golden      also write tests/unit/kernels/golden/packages.bin anew
#
# Installs requirements.txt into build/packages, which takes some gigabytes and, once, some minutes. Prints the table of
# docs/formats.md; exit 0 when every byte is as expected.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$here/../..
weft=$root/build/cpu/launch/weft/weft
venv=$root/build/packages
if [ ! -x "$weft" ]; then
    echo "run.sh: $weft is missing: cmake --preset cpu && cmake --build build/cpu" >&2
    exit 3
fi
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --requirement "$here/requirements.txt"
export PYTHONDONTWRITEBYTECODE=1
golden=
if [ "${1:-}" = --write-golden ]; then
    golden="--write-golden $root/tests/unit/kernels/golden/packages.bin"
fi
"$venv/bin/python" "$here/compare_packages.py" "$weft" $golden
"$venv/bin/python" "$here/load.py" "$weft"
