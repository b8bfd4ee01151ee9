/* fio on a file that is there, asked for what our own engine does: io_uring, O_DIRECT, 1 MiB, the same depth, with registered file
 * and buffers. Its rate is read from its JSON, line by line. */
#include "bench/peers.h"

#include "broker/spill.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

double bench_fio(const char *path, const char *rw, size_t bytes)
{
    char command[8192], line[512];
    snprintf(command, sizeof command,
             "fio --name=b --filename='%s' --rw=%s --bs=1m --iodepth=%u --direct=1 --ioengine=io_uring --offset=64k --size=%zu "
             "--overwrite=1 --allow_file_create=0 --registerfiles=1 --fixedbufs=1 --scramble_buffers=0 --output-format=json 2>/dev/null",
             path, rw, CRN_SPILL_DEPTH, bytes);
    FILE *f = popen(command, "r");
    bool section = false;
    double rate = 0;
    while (f != NULL && fgets(line, sizeof line, f) != NULL) {
        section = section || (strstr(line, rw) != NULL && strstr(line, ": {") != NULL);
        const char *bw = section ? strstr(line, "\"bw_bytes\" : ") : NULL;
        if (bw != NULL && rate <= 0)
            rate = strtod(bw + strlen("\"bw_bytes\" : "), NULL) * 1e-9;
    }
    if (f != NULL)
        pclose(f);
    return rate;
}
