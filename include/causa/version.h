/* SPDX-License-Identifier: MIT
 *
 * What this binary was built from. Every text is set by the build and never NULL.
 */
#ifndef CAUSA_VERSION_H
#define CAUSA_VERSION_H

const char *ca_version(void);      /* "0.1.0" */
const char *ca_git_revision(void); /* "1a2b3c4d5e6f", with "-dirty" behind it, or "unknown" */
const char *ca_libraries(void);    /* "dnnl 2.6.3, hdf5 1.10.8, ...": those of the build */
/* The interpreter that the build found to hold h5py, numpy and matplotlib, e.g. for reports. */
const char *ca_python(void);

#endif
