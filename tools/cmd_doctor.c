/* doctor: does this host have what Cairn needs? Each check says ok, note (works, but slower or less safe) or bad, and what to do.
 * Exit code 1 when something is bad. Looks only; changes nothing. */
#include "tools/cmd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum verdict { OK, NOTE, BAD };

struct doctor {
    struct crn_cmd *cmd;
    struct crn_json *array; /* NULL: text */
    int bad;
};

static void report(struct doctor *d, enum verdict verdict, const char *what, const char *text)
{
    static const char *const words[] = {"ok", "note", "bad"};
    d->bad |= verdict == BAD;
    if (d->array == NULL) {
        printf("%-5s %-12s %s\n", words[verdict], what, text);
        return;
    }
    struct crn_json *object = crn_json_object();
    crn_json_add(d->array, NULL, object);
    crn_json_add_text(object, "check", what);
    crn_json_add_text(object, "verdict", words[verdict]);
    crn_json_add_text(object, "text", text);
}

static void check_socket_dir(struct doctor *d)
{
    const char *socket = d->cmd->socket != NULL ? d->cmd->socket : getenv("CAIRN_SOCKET");
    const char *runtime = getenv("XDG_RUNTIME_DIR");
    char dir[512], text[700];
    struct stat st;
    if (socket != NULL && *socket != '\0')
        snprintf(dir, sizeof dir, "%s", socket);
    else if (runtime != NULL && *runtime != '\0')
        snprintf(dir, sizeof dir, "%s/cairn/cairn.sock", runtime);
    else
        snprintf(dir, sizeof dir, "/tmp/cairn-%u/cairn.sock", (unsigned)getuid());
    char *slash = strrchr(dir, '/');
    if (slash == NULL || slash == dir)
        snprintf(dir, sizeof dir, "%s", slash == NULL ? "." : "/");
    else
        *slash = '\0';
    if (stat(dir, &st) != 0) {
        snprintf(text, sizeof text, "%s: %s; cairnd makes it", dir, strerror(errno));
        report(d, NOTE, "socket dir", text);
        return;
    }
    int open_to_others = (st.st_mode & 0077) != 0, foreign = st.st_uid != getuid();
    snprintf(text, sizeof text, "%s: mode %04o, uid %u%s", dir, (unsigned)st.st_mode & 07777,
             (unsigned)st.st_uid, open_to_others || foreign ? "; should be yours and 0700" : "");
    report(d, open_to_others || foreign ? NOTE : OK, "socket dir", text);
}

static void check_memory(struct doctor *d)
{
    char line[256], text[128], total[32], available[32];
    unsigned long long total_kib = 0, available_kib = 0;
    FILE *file = fopen("/proc/meminfo", "re");
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        sscanf(line, "MemTotal: %llu", &total_kib);
        sscanf(line, "MemAvailable: %llu", &available_kib);
    }
    if (file != NULL)
        fclose(file);
    snprintf(text, sizeof text, "%s available of %s", crn_cmd_bytes(available_kib * 1024, available),
             crn_cmd_bytes(total_kib * 1024, total));
    report(d, available_kib < 512 * 1024 ? NOTE : OK, "memory", text);
}

static void check_memfd(struct doctor *d)
{
    int fd = memfd_create("cairn-doctor", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    int sealed = fd >= 0 && ftruncate(fd, 4096) == 0 &&
                 fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE) == 0;
    if (sealed)
        report(d, OK, "memfd", "sealed memory works");
    else
        report(d, BAD, "memfd", "cannot make sealed memory: needs Linux 5.1 and memfd_create allowed");
    if (fd >= 0)
        close(fd);
}

static void check_pidfd(struct doctor *d)
{
    int fd = (int)syscall(SYS_pidfd_open, getpid(), 0);
    report(d, fd >= 0 ? OK : NOTE, "pidfd",
           fd >= 0 ? "dead workers are noticed at once"
                   : "pidfd_open is not allowed: dead workers are noticed by their connection");
    if (fd >= 0)
        close(fd);
}

/* Asks for a ring without arguments: EFAULT or EINVAL means that the call is there. */
static void check_uring(struct doctor *d)
{
    long result = syscall(SYS_io_uring_setup, 0, NULL);
    int there = result >= 0 || (errno != ENOSYS && errno != EPERM);
    report(d, there ? OK : NOTE, "io_uring",
           there ? "available" : "not allowed here: spills use a thread pool, which is slower");
}

static void check_limits(struct doctor *d)
{
    struct rlimit files, locked;
    char text[128], bytes[32];
    if (getrlimit(RLIMIT_NOFILE, &files) != 0 || getrlimit(RLIMIT_MEMLOCK, &locked) != 0)
        return;
    snprintf(text, sizeof text, "%llu open files (hard limit %llu)", (unsigned long long)files.rlim_cur,
             (unsigned long long)files.rlim_max);
    report(d, files.rlim_max < 1024 ? BAD : OK, "files", text);
    if (locked.rlim_cur == RLIM_INFINITY)
        snprintf(text, sizeof text, "lockable memory unlimited");
    else
        snprintf(text, sizeof text, "%s lockable%s", crn_cmd_bytes(locked.rlim_cur, bytes),
                 locked.rlim_cur < 64u << 20 ? "; registered buffers need 64 MiB (ulimit -l)" : "");
    report(d, locked.rlim_cur != RLIM_INFINITY && locked.rlim_cur < 64u << 20 ? NOTE : OK, "memlock", text);
}

static void check_broker(struct doctor *d)
{
    int status = cairn_connect(d->cmd->client, crn_cmd_deadline(d->cmd));
    char text[320];
    if (status == 0)
        snprintf(text, sizeof text, "answers");
    else
        snprintf(text, sizeof text, "%s", cairn_error(d->cmd->client));
    report(d, status == 0 ? OK : NOTE, "broker", text);
}

int crn_cmd_doctor(struct crn_cmd *cmd, int argc, char **argv)
{
    struct doctor d = {.cmd = cmd};
    int code = crn_cmd_no_more(cmd, argc, argv, 0);
    if (code != 0)
        return code;
    struct crn_json *root = cmd->json ? crn_cmd_json() : NULL;
    if (cmd->json) {
        d.array = crn_json_array();
        crn_json_add(root, "checks", d.array);
    }
    check_socket_dir(&d);
    check_memory(&d);
    check_memfd(&d);
    check_pidfd(&d);
    check_uring(&d);
    check_limits(&d);
    check_broker(&d);
    code = cmd->json ? crn_cmd_print(cmd, root) : CRN_EXIT_OK;
    return code != 0 ? code : d.bad ? CRN_EXIT_NO : CRN_EXIT_OK;
}
