# shellcheck shell=sh disable=SC2154
# Shared by launch/demo.sh and tests/run.sh: packages, the environment of mpirun, quiet build stages. Sourced, after
# `root` is set to the folder of the sources. POSIX sh.

setup_log=$root/build/setup.log
setup_status=0 # of the last setup_stage

# Say one thing that went wrong and what to do.
setup_say() {
    echo "$setup_name: $*" >&2
}

# Run a command with its output in the log; one line on the terminal. On failure show the end of the log.
setup_stage() { # LABEL COMMAND...
    label=$1
    shift
    started=$(date +%s)
    printf '%-34s' "$label"
    echo "== $label: $*" >>"$setup_log"
    mark=$(wc -l <"$setup_log")
    setup_status=0
    "$@" >>"$setup_log" 2>&1 </dev/null || setup_status=$?
    if [ "$setup_status" -eq 0 ]; then
        echo "ok ($(($(date +%s) - started)) s)"
        return 0
    fi
    echo "FAILED"
    tail -n +$((mark + 1)) "$setup_log" | tail -n 40
    setup_say "\"$label\" failed; all of its output is in $setup_log"
    return "$setup_status"
}

# Whether a package, or something else that serves, is there.
setup_has() { # PACKAGE PROOF
    dpkg -s "$1" 2>/dev/null | grep -q '^Status: .* installed$' && return 0
    case $2 in
    *.pc) pkg-config --exists "${2%.pc}" 2>/dev/null ;;
    *.py) python3 -c "import ${2%.py}" 2>/dev/null ;;
    *) command -v "$2" >/dev/null ;;
    esac
}

setup_missing() {
    sed 's/#.*//' "$root/cmake/packages.txt" | while read -r package proof; do
        [ -z "$package" ] || setup_has "$package" "$proof" || echo "$package"
    done
}

setup_apt() { # as whoever may
    if [ "$(id -u)" -eq 0 ]; then
        env DEBIAN_FRONTEND=noninteractive apt-get "$@"
    else
        sudo env DEBIAN_FRONTEND=noninteractive apt-get "$@"
    fi
}

# Install what is missing. Returns 3 with a sentence when it cannot.
setup_packages() {
    missing=$(setup_missing | tr '\n' ' ')
    [ -n "$missing" ] || return 0
    if ! command -v apt-get >/dev/null; then
        setup_say "this system has no apt-get; install what corresponds to these Debian packages: $missing"
        return 3
    fi
    if [ "$(id -u)" -ne 0 ]; then
        if ! command -v sudo >/dev/null; then
            setup_say "packages are missing and there is no sudo; as root, run: apt-get install $missing"
            return 3
        fi
        # Ask for the password here, where it can be seen and answered.
        if ! sudo -n true 2>/dev/null && ! { [ -t 0 ] && sudo -v; }; then
            setup_say "packages are missing and sudo needs a password; run: sudo apt-get install $missing"
            return 3
        fi
    fi
    echo "missing packages: $missing"
    setup_stage "reading package lists" setup_apt update || true # one source of many may be down
    # shellcheck disable=SC2086 # a list of words
    setup_stage "installing packages" setup_apt install -y --no-install-recommends $missing && return 0
    setup_say "could not install $missing; is there a network?"
    return 3
}

# CMake's presets and JUnit output need this much.
setup_cmake_version() {
    found=$(cmake --version | sed -n '1s/.*version //p')
    [ "$(printf '3.25\n%s\n' "$found" | sort -V | head -n 1)" = 3.25 ] && return 0
    setup_say "cmake 3.25 or newer is needed, found $found; a newer one comes with Debian 12 and Ubuntu 24.04"
    return 3
}

# More ranks than cores, and maybe root in a container: Open MPI wants to be told. Single-copy transfers between
# processes need a right that containers do not give.
setup_mpi() {
    if [ "$(id -u)" -eq 0 ]; then
        export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    fi
    export OMPI_MCA_rmaps_base_oversubscribe=1
    export OMPI_MCA_hwloc_base_binding_policy=none
    export OMPI_MCA_mpi_yield_when_idle=1
    export OMPI_MCA_btl_vader_single_copy_mechanism=none
}

# Configure a preset if it is not yet, and build some of its targets (all of them without names).
setup_configure() { # PRESET
    setup_stage "configure $1" cmake -S "$root" --preset "$1"
}

setup_build() { # PRESET [TARGET...]
    preset=$1
    shift
    setup_stage "build $preset" cmake --build "$root/build/$preset" --parallel "$(nproc)" ${1:+--target "$@"}
}

# Everything before the first build. Returns 3 when this machine cannot build weft.
setup_begin() { # NAME
    setup_name=$1
    mkdir -p "$root/build"
    : >"$setup_log"
    setup_packages && setup_cmake_version && setup_mpi
}
