/* cairnd: settings, one broker, an exit code. 0: ended by a signal; 1: could not run; 2: wrong settings. */
#include "broker/broker.h"
#include "broker/config.h"
#include "ipc/log.h"

#include <stdio.h>

static int run(const struct crn_config *config)
{
    struct crn_broker *broker;
    crn_log_setup("cairnd", (enum crn_log_level)config->log_level);
    if (crn_broker_open(config, &broker) != 0)
        return 1;
    int status = crn_broker_run(broker);
    crn_broker_close(broker);
    return status == 0 ? 0 : 1;
}

int main(int argc, char *argv[])
{
    static struct crn_config config;
    int exit_code = 0;
    if (crn_config_load(argc, argv, stderr, &config) != 0)
        exit_code = 2;
    else if (config.show_help)
        crn_config_help(stdout);
    else if (config.show_version)
        printf("cairnd %s\n", CAIRN_VERSION);
    else if (config.print_config)
        crn_config_print(&config, stdout);
    else
        exit_code = run(&config);
    crn_config_free(&config);
    return exit_code;
}
