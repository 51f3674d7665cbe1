#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# Finds the libraries and the Python that Causa needs and writes what it found to build/deps.mk
# (for the Makefile) and build/python (for scripts). What is missing is installed with apt when
# this user may do so; otherwise the line to type is printed and the exit status is 2. Python and
# Graphviz, which only reports and tests need, may be missing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
mkdir -p build
compiler=${CC:-gcc}

# name, header, pkg-config names (first found wins), libraries without pkg-config, Debian package
libraries='
hdf5      hdf5_hl.h            hdf5-serial,hdf5  -lhdf5      libhdf5-dev
yaml      yaml.h               yaml-0.1          -lyaml      libyaml-dev
jansson   jansson.h            jansson           -ljansson   libjansson-dev
pcre2     pcre2.h              libpcre2-8        -lpcre2-8   libpcre2-dev
utf8proc  utf8proc.h           libutf8proc       -lutf8proc  libutf8proc-dev
crypto    openssl/evp.h        libcrypto         -lcrypto    libssl-dev
openblas  cblas.h              openblas          -lopenblas  libopenblas-dev
lapacke   lapacke.h            lapacke           -llapacke   liblapacke-dev
onednn    oneapi/dnnl/dnnl.h   dnnl              -ldnnl      libdnnl-dev
cmocka    cmocka.h             cmocka            -lcmocka    libcmocka-dev
'
python_packages="python3-h5py python3-numpy python3-pytest python3-matplotlib"

# ---- probing -------------------------------------------------------------------------------

# Sets cflags, libs and version of one row.
describe() {
    local names=$1 fallback=$2 name
    cflags="" libs=$fallback version=""
    for name in ${names//,/ }; do
        if pkg-config --exists "$name" 2>/dev/null; then
            cflags=$(pkg-config --cflags "$name")
            libs=$(pkg-config --libs "$name")
            version=$(pkg-config --modversion "$name")
            return
        fi
    done
}

# True when a program that includes the header compiles and links.
usable() {
    local header=$1
    printf '#include <setjmp.h>\n#include <stdarg.h>\n#include <stddef.h>\n#include <stdint.h>
            #define PCRE2_CODE_UNIT_WIDTH 8\n#include <%s>\nint main(void) { return 0; }\n' "$header" |
        "$compiler" ${CPPFLAGS:-} $cflags -x c - -o build/probe ${LDFLAGS:-} $libs 2>/dev/null
}

# Fills found_cflags, found_libs, versions, onednn_libs, openblas_libs; lists what is missing.
probe_libraries() {
    found_cflags="" found_libs="" versions="" missing="" onednn_libs="" openblas_libs=""
    command -v "$compiler" >/dev/null || missing="build-essential"
    command -v pkg-config >/dev/null || missing="$missing pkg-config"
    local name header names fallback package
    while read -r name header names fallback package; do
        [ -n "$name" ] || continue
        describe "$names" "$fallback"
        # The high-level library lies beside the other one, but has no .pc file.
        [ "$name" != hdf5 ] || libs=${libs/-lhdf5/-lhdf5_hl -lhdf5}
        if ! usable "$header"; then
            missing="$missing $package"
            continue
        fi
        found_cflags="$found_cflags $cflags"
        case $name in
        onednn) onednn_libs=$libs version=${version:-$(onednn_version)} ;;
        openblas) openblas_libs=$libs ;;
        cmocka) cmocka_libs=$libs version="" ;;
        *) found_libs="$found_libs $libs" ;;
        esac
        [ -z "$version" ] || versions="$versions${versions:+, }$name $version"
    done <<<"$libraries"
    rm -f build/probe
}

onednn_version() { # Debian's package has no .pc file
    printf '#include <oneapi/dnnl/dnnl_version.h>
            DNNL_VERSION_MAJOR.DNNL_VERSION_MINOR.DNNL_VERSION_PATCH\n' |
        "$compiler" -E -P -x c - 2>/dev/null | tail -n 1 | tr -d ' '
}

# Prints the real path of an interpreter that has all modules.
try_python() {
    "$1" -c 'import sys, h5py, numpy, pytest, matplotlib; print(sys.executable)' 2>/dev/null
}

probe_python() {
    local candidate
    for candidate in python3 /usr/bin/python3 build/venv/bin/python; do
        if python=$(try_python "$candidate"); then return 0; fi
    done
    return 1
}

# ---- installing ----------------------------------------------------------------------------

# Runs apt-get as root or through a sudo that asks nothing; fails where neither is possible.
apt_install() {
    command -v apt-get >/dev/null || return 1
    local sudo=""
    if [ "$(id -u)" -ne 0 ]; then
        sudo -n true 2>/dev/null || return 1
        sudo="sudo -n"
    fi
    echo "installing: $*" >&2
    $sudo apt-get update -qq >&2 || true # an old list may still hold the packages
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >&2
}

make_venv() {
    echo "making build/venv for h5py, numpy, pytest and matplotlib" >&2
    python3 -m venv build/venv >&2 &&
        build/venv/bin/python -m pip install -q h5py numpy pytest matplotlib >&2
}

# ---- CUDA ----------------------------------------------------------------------------------

header_number() { # value of a macro of a header, as the preprocessor sees it
    printf '#include <%s>\n%s\n' "$1" "$2" | "$compiler" ${CPPFLAGS:-} $cflags -E -P -x c - | tail -n 1
}

# Sets nvcc, nvcc_options, cuda_cflags, cuda_libs, cuda_versions, nccl_version and architectures; nvcc stays empty where the toolkit is absent
# or incomplete. The runtime is linked statically; cuBLAS is found again through the run path.
probe_cuda() {
    nvcc="" nvcc_options="" cuda_cflags="" cuda_libs="" cuda_versions="" nccl_version=""
    architectures=""
    local candidate home cflags="" libs="" version number
    for candidate in "${CUDA_HOME:+$CUDA_HOME/bin/nvcc}" "$(command -v nvcc || true)" /usr/local/cuda/bin/nvcc; do
        [ -x "$candidate" ] || continue
        home=$(dirname "$(dirname "$candidate")")
        cflags="" libs=""
        [ ! -f "$home/include/cublas_v2.h" ] || cflags="-isystem $home/include"
        [ ! -d "$home/lib64" ] || libs="-L$home/lib64 -Wl,-rpath,$home/lib64"
        libs="$libs -lcublas -lcublasLt -lcudart_static -ldl -lrt -lpthread"
        usable cublas_v2.h || continue
        version=$(header_number cuda_runtime_api.h CUDART_VERSION)
        nvcc=$candidate cuda_cflags=$cflags cuda_libs=$libs
        for number in 75 80 90 100 120; do
            ! "$nvcc" --list-gpu-code | grep -qx "sm_$number" || architectures="$architectures $number"
        done
        # Needs a driver that knows it, as all do that run programs of CUDA 13.
        [ "$version" -lt 13000 ] || nvcc_options=--compress-mode=size
        cuda_versions="CUDA $((version / 1000)).$((version % 1000 / 10)), cuBLAS $(
            header_number cublas_v2.h CUBLAS_VER_MAJOR.CUBLAS_VER_MINOR.CUBLAS_VER_PATCH | tr -d ' ')"
        probe_nccl
        break
    done
    rm -f build/probe
}

# Sets nccl_version where header and library are: beside the toolkit, or where the compiler looks.
probe_nccl() {
    libs="$libs -lnccl"
    ! usable nccl.h || nccl_version=$(header_number nccl.h NCCL_MAJOR.NCCL_MINOR.NCCL_PATCH | tr -d ' ')
}

# ---- the search ----------------------------------------------------------------------------

probe_libraries
if [ -n "$missing" ] && apt_install $missing; then probe_libraries; fi

gemm=onednn
if [ "${missing// /}" = libdnnl-dev ]; then
    echo "oneDNN is absent: matrix products go through CBLAS (slower on some processors)" >&2
    gemm=cblas
elif [ -n "$missing" ]; then
    echo "missing libraries; on Debian or Ubuntu type" >&2
    echo "    sudo apt-get install ${missing# }" >&2
    exit 2
fi

if ! probe_python && ! { apt_install $python_packages && probe_python; } &&
    ! { make_venv && probe_python; }; then
    echo "no Python with h5py, numpy, pytest and matplotlib: reports and the end-to-end tests" >&2
    echo "will not run until you type    sudo apt-get install $python_packages" >&2
    python=python3
fi

command -v dot >/dev/null || apt_install graphviz || {
    echo "no Graphviz: reports will not draw circuits until you type" >&2
    echo "    sudo apt-get install graphviz" >&2
}

probe_cuda

# ---- the answer ----------------------------------------------------------------------------

echo "$python" >build/python
cat >build/deps.mk <<END
# Written by .make/deps.sh; 'make deps' looks again.
DEPS_CPPFLAGS := $(tr -s ' ' '\n' <<<"$found_cflags" | awk 'NF && !seen[$0]++' | tr '\n' ' ')
DEPS_LIBS := $(tr -s ' ' <<<"$found_libs")
DEPS_GEMM := $gemm
GEMM_LIBS_onednn := $onednn_libs
GEMM_LIBS_cblas := $openblas_libs
CMOCKA_LIBS := $cmocka_libs
LIBRARY_VERSIONS := $versions
PYTHON := $python
NVCC := $nvcc
NVCC_OPTIONS := $nvcc_options
CUDA_CPPFLAGS := $cuda_cflags
CUDA_LIBS := $cuda_libs
CUDA_VERSIONS := $cuda_versions
NCCL_VERSION := $nccl_version
NVCC_ARCHITECTURES := ${architectures# }
END
