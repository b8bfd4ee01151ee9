/* systemd's readiness protocol is one datagram to the socket named in the environment; "@" stands for the abstract namespace. */
#include "broker/notify.h"

#include "ipc/cairn_status.h"
#include "ipc/log.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

void crn_notify(const char *line)
{
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    if (path == NULL || (path[0] != '/' && path[0] != '@'))
        return;
    size_t n = strlen(path);
    if (n >= sizeof to.sun_path)
        return;
    memcpy(to.sun_path, path, n);
    if (path[0] == '@')
        to.sun_path[0] = '\0';
    socklen_t bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n);
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0 ||
        sendto(fd, line, strlen(line), MSG_NOSIGNAL, (const struct sockaddr *)&to, bytes) < 0)
        crn_log(CRN_LOG_WARN, "notify %s: %s", path, cairn_strerror(-errno));
    if (fd >= 0)
        close(fd);
}
