/* Identity of models and families: digests over everything that makes two caches interchangeable (model) or comparable (family).
 * Files are read, not mapped: a file that shrinks under us must be an error, not a signal. Not a security boundary. */
#include "client/cairn.h"
#include "client/client.h"
#include "ipc/hash.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define READ_BYTES (1u << 20)

static int add_file(struct crn_hash128 *hash, const char *path, uint8_t *buffer)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    ssize_t n;
    do {
        n = read(fd, buffer, READ_BYTES);
        if (n > 0)
            crn_hash128_add(hash, buffer, (size_t)n);
    } while (n > 0 || (n < 0 && errno == EINTR));
    int status = n < 0 ? -errno : 0;
    close(fd);
    return status;
}

static int add_model(struct crn_hash128 *hash, const char *base_path,
                     const struct cairn_adapter *adapters, size_t n_adapters)
{
    uint8_t *buffer = malloc(READ_BYTES);
    if (buffer == NULL)
        return -ENOMEM;
    int status = add_file(hash, base_path, buffer);
    for (size_t i = 0; i < n_adapters && status == 0; i++) {
        status = adapters[i].path == NULL ? CAIRN_E_ARG : add_file(hash, adapters[i].path, buffer);
        crn_hash128_add(hash, &adapters[i].scale, sizeof adapters[i].scale);
    }
    free(buffer);
    return status;
}

int cairn_model_digest(const char *base_path, const struct cairn_adapter *adapters, size_t n_adapters,
                       struct cairn_digest *out_digest)
{
    if (base_path == NULL || out_digest == NULL || (n_adapters > 0 && adapters == NULL))
        return CAIRN_E_ARG;
    struct crn_hash128 *hash = crn_hash128_begin();
    if (hash == NULL)
        return -ENOMEM;
    int status = add_model(hash, base_path, adapters, n_adapters);
    struct cairn_digest digest = crn_hash128_end(hash);
    if (status == 0)
        *out_digest = digest;
    return status;
}

int cairn_family_digest(const struct cairn_family *family, struct cairn_digest *out_digest)
{
    static const char version[] = "cairn-family-1";
    struct cairn_family f;
    int status = crn_sized_copy(&f, sizeof f, family, sizeof f);
    if (status != 0 || out_digest == NULL || f.foundation == NULL)
        return status != 0 ? status : CAIRN_E_ARG;
    struct crn_hash128 *hash = crn_hash128_begin();
    if (hash == NULL)
        return -ENOMEM;
    crn_hash128_add(hash, version, sizeof version);
    crn_hash128_add(hash, &f.shape, sizeof f.shape);
    crn_hash128_add(hash, &f.n_heads, sizeof f.n_heads);
    crn_hash128_add(hash, &f.ffn, sizeof f.ffn);
    crn_hash128_add(hash, &f.rope_theta, sizeof f.rope_theta);
    crn_hash128_add(hash, &f.norm_eps, sizeof f.norm_eps);
    crn_hash128_add(hash, &f.vocabulary, sizeof f.vocabulary);
    crn_hash128_add(hash, f.foundation, strlen(f.foundation));
    *out_digest = crn_hash128_end(hash);
    return 0;
}

void cairn_digest_text(const struct cairn_digest *digest, char out_text[33])
{
    crn_digest_text(digest, out_text);
}

int cairn_digest_parse(const char *text, struct cairn_digest *out_digest)
{
    return text == NULL || out_digest == NULL ? CAIRN_E_ARG : crn_digest_parse(text, out_digest);
}
