/* SPDX-License-Identifier: MIT
 *
 * SHA-256 through OpenSSL's libcrypto, which uses the processor's SHA instructions: models of
 * many gigabytes are digested for the result file.
 */
#include "causa/base.h"

#include <assert.h>
#include <openssl/evp.h>
#include <stdlib.h>

struct ca_sha256 {
    EVP_MD_CTX *context;
};

ca_status ca_sha256_create(ca_sha256 **out) {
    ca_status st = ca_calloc(1, sizeof **out, out);
    if (st != CA_OK) return st;
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    if (context == NULL || EVP_DigestInit_ex(context, EVP_sha256(), NULL) != 1) {
        EVP_MD_CTX_free(context);
        free(*out);
        *out = NULL;
        return ca_fail(CA_E_FAILED, "libcrypto: expected SHA-256, got none");
    }
    (*out)->context = context;
    return CA_OK;
}

void ca_sha256_add(ca_sha256 *digest, const void *bytes, size_t count) {
    if (count == 0) return;
    int done = EVP_DigestUpdate(digest->context, bytes, count);
    assert(done == 1);
    (void)done;
}

void ca_sha256_finish(ca_sha256 *digest, char hex[65]) {
    unsigned char value[EVP_MAX_MD_SIZE];
    unsigned int length = 0;
    int done = EVP_DigestFinal_ex(digest->context, value, &length);
    assert(done == 1 && length == 32);
    (void)done;

    static const char digits[] = "0123456789abcdef";
    for (unsigned int i = 0; i < 32; i++) {
        hex[2 * i] = digits[value[i] >> 4];
        hex[2 * i + 1] = digits[value[i] & 15];
    }
    hex[64] = '\0';
    EVP_MD_CTX_free(digest->context);
    free(digest);
}
