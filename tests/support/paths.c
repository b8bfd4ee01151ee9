/* Paths of tests: one static buffer per function, because tests are single-threaded and use a path
 * at once. */
#include "tests/support/paths.h"

#include <check.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define PATH_BYTES 1024

static char tmp_dir[PATH_BYTES];

static const char *join(char *buffer, const char *dir, const char *file)
{
    int n = snprintf(buffer, PATH_BYTES, "%s/%s", dir, file);
    ck_assert_msg(n > 0 && n < PATH_BYTES, "path too long: %s/%s", dir, file);
    return buffer;
}

const char *paths_model(void)
{
    static char path[PATH_BYTES];
    char dir[PATH_BYTES];
    const char *models = getenv("CAIRN_MODELS"), *home = getenv("HOME");
    if (models != NULL && *models != '\0')
        join(path, models, PATHS_MODEL_FILE);
    else
        join(path, join(dir, home != NULL ? home : "", ".cache/cairn"), PATHS_MODEL_FILE);
    ck_assert_msg(access(path, R_OK) == 0, "no model at %s: run `make model`", path);
    return path;
}

const char *paths_golden(const char *file)
{
    static char path[PATH_BYTES];
    return join(path, "tests/data/golden", file);
}

const char *paths_family(const char *file)
{
    static char path[PATH_BYTES];
    return join(path, "share/family", file);
}

const char *paths_bin(const char *program)
{
    static char path[PATH_BYTES];
    const char *dir = getenv("CRN_BIN");
    return join(path, dir != NULL && *dir != '\0' ? dir : "build/release/bin", program);
}

const char *paths_tmp(void)
{
    const char *base = getenv("TMPDIR");
    join(tmp_dir, base != NULL && *base != '\0' ? base : "/tmp", "cairn-test-XXXXXX");
    ck_assert_msg(mkdtemp(tmp_dir) != NULL, "cannot create %s", tmp_dir);
    return tmp_dir;
}

const char *paths_tmp_file(const char *file)
{
    static char path[PATH_BYTES];
    return join(path, tmp_dir, file);
}

void paths_tmp_remove(void)
{
    DIR *dir = opendir(tmp_dir);
    if (dir == NULL)
        return;
    for (struct dirent *e; (e = readdir(dir)) != NULL;) {
        char path[PATH_BYTES];
        if (e->d_name[0] != '.')
            unlink(join(path, tmp_dir, e->d_name));
    }
    closedir(dir);
    rmdir(tmp_dir);
}
