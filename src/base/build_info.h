/* SPDX-License-Identifier: MIT
 *
 * Facts of the build, which the Makefile passes to version.c alone, so that a new commit
 * recompiles one file. The defaults serve a build by hand.
 */
#ifndef CAUSA_BASE_BUILD_INFO_H
#define CAUSA_BASE_BUILD_INFO_H

#define CA_BUILD_VERSION "0.1.0"

#ifndef CA_BUILD_REVISION
#define CA_BUILD_REVISION "unknown"
#endif

#ifndef CA_BUILD_LIBRARIES
#define CA_BUILD_LIBRARIES "unknown"
#endif

#ifndef CA_BUILD_PYTHON
#define CA_BUILD_PYTHON "python3"
#endif

#endif
