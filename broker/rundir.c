/* The directory keeps strangers from the sockets; it is 0700 unless the configuration names other users. Then it becomes 0711
 * and the sockets 0666: they can connect, and who they are is asked of the kernel for every message. The parent directories are
 * the administrator's. */
#include "broker/rundir.h"

#include "ipc/cairn_status.h"
#include "ipc/log.h"

#include <errno.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int report(const char *what, const char *path, int status)
{
    crn_log(CRN_LOG_ERROR, "%s %s: %s", what, path, cairn_strerror(status));
    return status;
}

static int prepare(const char *dir)
{
    struct stat st;
    if (mkdir(dir, 0700) != 0 && errno != EEXIST)
        return report("directory", dir, -errno);
    if (lstat(dir, &st) != 0)
        return report("directory", dir, -errno);
    if (!S_ISDIR(st.st_mode))
        return report("directory", dir, -ENOTDIR);
    if (st.st_uid != getuid() || (st.st_mode & 022) != 0) {
        crn_log(CRN_LOG_ERROR, "directory %s: must be yours alone to write (owner %u, mode %04o)",
                dir, (unsigned)st.st_uid, (unsigned)st.st_mode & 07777u);
        return CAIRN_E_DENIED;
    }
    return 0;
}

int crn_rundir_prepare(const struct crn_config *config)
{
    char *copy = strdup(config->socket);
    int status = copy != NULL ? prepare(dirname(copy)) : -ENOMEM;
    free(copy);
    return status;
}

static int names_others(const struct crn_config *config)
{
    for (uint32_t i = 0; i < config->n_spaces; i++) {
        for (uint32_t u = 0; u < config->spaces[i].n_uids; u++) {
            if (config->spaces[i].uids[u] != getuid())
                return 1;
        }
    }
    return 0;
}

int crn_rundir_admit(const struct crn_config *config)
{
    char fd_path[128];
    if (!names_others(config))
        return 0;
    snprintf(fd_path, sizeof fd_path, "%s.fd", config->socket);
    char *copy = strdup(config->socket);
    if (copy == NULL)
        return -ENOMEM;
    int status = 0;
    if (chmod(dirname(copy), 0711) != 0 || chmod(config->socket, 0666) != 0 ||
        chmod(fd_path, 0666) != 0)
        status = report("access to", config->socket, -errno);
    free(copy);
    return status;
}
