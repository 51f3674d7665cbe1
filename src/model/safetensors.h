/* SPDX-License-Identifier: MIT
 *
 * Reader of one .safetensors file.
 */
#ifndef CAUSA_MODEL_SAFETENSORS_H
#define CAUSA_MODEL_SAFETENSORS_H

#include "checkpoint.h"

/* Checks the whole header and adds its tensors to the table. Errors: CA_E_MODEL naming the file and
 * the tensor. */
ca_status ca_safetensors_read(ca_checkpoint *c, const char *path) CA_MUST_USE;

#endif
