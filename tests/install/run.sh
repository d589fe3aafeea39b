#!/bin/sh
# Install a built weft into a temporary prefix and use it as a stranger would: through find_package and through
# pkg-config. Both programs must run and print the plan hash that the installed command prints.
#
#     tests/install/run.sh BUILD_DIR        (all of BUILD_DIR is built; exit 77: a tool is missing)
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
build=$(cd "${1:?usage: tests/install/run.sh BUILD_DIR}" && pwd)
model=$root/launch/demo/tiny-qwen3/v1

fail() {
    echo "install: $*" >&2
    exit 1
}

skip() {
    echo "install: skipped: $*"
    exit 77
}

cached() {
    sed -n "s/^$1:[A-Z]*=//p" "$build/CMakeCache.txt"
}

command -v pkg-config >/dev/null || skip "pkg-config is not there"
[ -z "$(cached WEFT_SANITIZE)" ] || skip "$build is built under a sanitizer"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
prefix=$work/prefix
libdir=$prefix/$(cached CMAKE_INSTALL_LIBDIR)
compiler=$(cached CMAKE_C_COMPILER)
cmake --install "$build" --prefix "$prefix" >"$work/log" 2>&1 || { cat "$work/log"; fail "cmake --install failed"; }

# Nothing but weft_* leaves the shared library, and all that the headers declare does.
if [ -e "$libdir/libweft.so" ]; then
    strays=$(nm -D --defined-only "$libdir/libweft.so" | awk '$2 != "A" && $3 !~ /^weft_/ {print $3}')
    [ -z "$strays" ] || fail "libweft.so exports $strays"
    # shellcheck disable=SC2013 # names hold no spaces
    for name in $(sed -n 's/^WEFT_API.*[ *]\(weft_[a-z0-9_]*\)(.*/\1/p' "$prefix"/include/weft/*.h); do
        nm -D --defined-only "$libdir/libweft.so" | grep -q " $name\(@\|\$\)" || fail "libweft.so lacks $name"
    done
fi

# Every public header stands alone.
for header in "$prefix"/include/weft/*.h; do
    name=weft/$(basename "$header")
    echo "#include <$name>" | "$compiler" -std=c11 -Wall -Wextra -Wpedantic -Werror -I"$prefix/include" \
        -fsyntax-only -x c - || fail "$name does not compile by itself"
done

# So does the program that the README shows.
if command -v mpicc >/dev/null; then
    # shellcheck disable=SC2016 # no expansion is meant
    sed -n '/^```c$/,/^```$/p' "$root/README.md" | grep -v '^```' |
        mpicc -std=c11 -Wall -Wextra -Werror -Wno-unused-function -I"$prefix/include" -fsyntax-only -x c - ||
        fail "the README's program does not compile"
fi

build_with_cmake() {
    cmake -S "$here" -B "$work/cmake" -DCMAKE_PREFIX_PATH="$prefix" -DCMAKE_C_COMPILER="$compiler" &&
        cmake --build "$work/cmake"
}

build_with_pkg_config() {
    PKG_CONFIG_PATH=$libdir/pkgconfig${PKG_CONFIG_PATH:+:$PKG_CONFIG_PATH}
    export PKG_CONFIG_PATH
    # shellcheck disable=SC2046 # flags are words
    "$compiler" -std=c11 "$here/main.c" -o "$work/consumer" $(pkg-config --cflags --libs weft) \
        -Wl,-rpath,"$libdir"
}

build_with_cmake >"$work/log" 2>&1 || { cat "$work/log"; fail "the consumer does not build with find_package"; }
build_with_pkg_config >"$work/log" 2>&1 || { cat "$work/log"; fail "the consumer does not build with pkg-config"; }

expected=$("$prefix/bin/weft" plan "$model" --trainer fsdp:2 --rollout tp:2 --scheme fp8-block --json |
    sed -n 's/.*"hash": "\([0-9a-f]*\)".*/\1/p')
[ -n "$expected" ] || fail "the installed command prints no plan hash"
for consumer in "$work/cmake/consumer" "$work/consumer"; do
    hash=$("$consumer" "$model") || fail "$consumer failed"
    [ "$hash" = "$expected" ] || fail "$consumer prints the plan hash $hash, expected $expected"
done
echo "install: find_package and pkg-config agree on plan $expected"
