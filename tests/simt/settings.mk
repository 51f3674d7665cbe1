# SPDX-License-Identifier: MIT
#
# VARIANT=simt, simt-asan, simt-tsan: the CUDA backend with kernels compiled for the CPU and with
# what stands in for the CUDA libraries. Needs no CUDA toolkit; never installed.

override CUDA      := 1
CUDA_ARCHITECTURES := simulated
CUDA_VERSIONS      := simulated CUDA
NCCL_VERSION       :=
CUDA_CPPFLAGS      := -Itests/simt/include
CUDA_LIBS          := -lstdc++

# Fibers in assembly where we have it.
other_fibers        := $(if $(filter x86_64,$(shell uname -m)),ucontext,x86_64)
simulated_libraries := $(filter-out tests/simt/fiber_$(other_fibers).cc,$(wildcard tests/simt/*.cc))
