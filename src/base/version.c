/* SPDX-License-Identifier: MIT
 *
 * Version, revision and libraries, as `causa --version` prints them and results record them.
 */
#include "causa/version.h"

#include "build_info.h"

const char *ca_version(void) { return CA_BUILD_VERSION; }

const char *ca_git_revision(void) { return CA_BUILD_REVISION; }

const char *ca_libraries(void) { return CA_BUILD_LIBRARIES; }

const char *ca_python(void) { return CA_BUILD_PYTHON; }
