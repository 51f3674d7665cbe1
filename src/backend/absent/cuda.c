/* SPDX-License-Identifier: MIT
 *
 * The registry row of the CUDA backend in a build without it. The Makefile compiles this file or
 * the folder src/backend/cuda, never both.
 */
#include "causa/backend.h"

const ca_backend_entry ca_backend_cuda = {
    .name = "cuda",
    .libraries = NULL,
    .how_to_build = "make CUDA=1 (needs the CUDA toolkit with nvcc and cuBLAS)",
};
