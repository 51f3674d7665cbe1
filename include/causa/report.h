/* SPDX-License-Identifier: MIT
 *
 * HTML pages from result files. The page is made by a Python script (h5py, numpy, matplotlib) that
 * is part of the project; this is the C side that finds and runs it, for `causa report`.
 */
#ifndef CAUSA_REPORT_H
#define CAUSA_REPORT_H

#include "causa/base.h"

/* The folder of the script: $CAUSA_REPORT, else src/report beside or above the folder of the
 * executable (a build tree), else ../share/causa/report (an installation). Owned by the caller.
 * Errors: CA_E_FAILED naming the places that were tried. */
ca_status ca_report_script(char **path) CA_MUST_USE;

/* Writes the page of a result; the script prints its path on stdout.
 *
 * result_path  a result file
 * out_dir      folder of the page, made when missing; NULL = the folder of the result
 * python       interpreter, a path or a name on PATH; NULL = "python3"
 *
 * Errors: CA_E_DATA when the file is no result, CA_E_FAILED otherwise, with the script's words. */
ca_status ca_report_run(const char *result_path, const char *out_dir,
                        const char *python) CA_MUST_USE;

#endif
