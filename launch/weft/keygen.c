/* weft keygen: keys for a coordinator and for those that join it. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "launch/weft/commands.h"
#include "launch/weft/options.h"
#include "src/base/error.h"
#include "src/service/keys.h"

static weft_status_t make_folder(const char *dir, weft_error_t *error)
{
    if (mkdir(dir, 0700) == 0 || errno == EEXIST)
        return WEFT_OK;
    return weft_fail(error, WEFT_ERR_IO, "%s cannot be made: %s", dir, strerror(errno));
}

static bool have(const char *dir, const char *file)
{
    char path[4096];
    return snprintf(path, sizeof path, "%s/%s", dir, file) < (int)sizeof path && access(path, F_OK) == 0;
}

/* The server's pair stays when there is one: a client is added. */
static weft_status_t make_keys(const char *dir, const char *client, weft_error_t *error)
{
    if (strcmp(client, WEFT_KEYS_SERVER) == 0)
        return weft_fail(error, WEFT_ERR_ARGUMENT, "--client %s: that name is the coordinator's", client);
    WEFT_TRY(make_folder(dir, error));
    if (!have(dir, WEFT_KEYS_SERVER ".key") && !have(dir, WEFT_KEYS_SERVER ".pub")) {
        WEFT_TRY(weft_keys_write(dir, WEFT_KEYS_SERVER, error));
        printf("%s/server.key and server.pub: the coordinator's\n", dir);
    }
    WEFT_TRY(weft_keys_write(dir, client, error));
    printf("%s/%s.key and %s.pub: for those that join\n", dir, client, client);
    return WEFT_OK;
}

int command_keygen(int argc, char **argv)
{
    const char *dir = NULL, *client = WEFT_KEYS_CLIENT, *none[1];
    const option_row_t rows[] = {
        {"out", OPTION_TEXT, &dir, "DIR", "folder for the keys; made with mode 0700 if it is not there"},
        {"client", OPTION_TEXT, &client, "NAME",
         "name of the client's pair (default client); again with another name: one more that may join"},
    };
    const command_spec_t spec = {
        .name = "keygen",
        .synopsis = "--out DIR [--client NAME]",
        .about = "Make CURVE key pairs: the coordinator's (server.key, server.pub), unless DIR has one, and "
                 "a client's. The\n"
                 "coordinator needs server.key and every client's .pub; who joins needs client.key and "
                 "server.pub. Secrets have\n"
                 "mode 0600 and are refused with any other that lets others in. Nothing is written over.",
        .options = rows,
        .num_options = sizeof rows / sizeof rows[0],
        .positional_names = "",
    };
    unsigned count;
    int code = options_parse(&spec, argc, argv, false, none, &count);
    if (code >= 0)
        return code;
    if (!dir) {
        fprintf(stderr, "weft keygen: --out is needed; try 'weft keygen --help'\n");
        return EXIT_USAGE;
    }
    weft_error_t error;
    return make_keys(dir, client, &error) == WEFT_OK ? EXIT_OK : report_error("keygen", &error);
}
