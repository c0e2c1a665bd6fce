/* Fuzzes find_account, collect_groups and find_group: the input is one text, read as passwd by name and by uid, and as group. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "users.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A copy with the one spare byte that read_user_file promises, and no more. */
static char *copy(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1);
    memcpy(text, data, size);
    return text;
}

static void check_account(const struct account *account)
{
    if (account->uid > ID_MAX || account->gid > ID_MAX || !strlen(account->name) || *account->home != '/' ||
        !strlen(account->shell) || strpbrk(account->home, ":\n") || strpbrk(account->name, ":\n"))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct account account;
    static struct identity who;

    char *text = copy(data, size);
    if (find_account(text, size, NULL, 1000, &account)) {
        check_account(&account);
        if (account.uid != 1000)
            abort();
    }
    free(text);
    text = copy(data, size);
    if (find_account(text, size, "www-data", 0, &account)) {
        check_account(&account);
        if (strcmp(account.name, "www-data") != 0)
            abort();
    }
    free(text);
    text = copy(data, size);
    who.account.gid = 33;
    who.group_count = 1;
    bool fits = collect_groups(text, size, "www-data", &who);
    if (who.group_count > GROUPS_MAX || (!fits && who.group_count != GROUPS_MAX))
        abort();
    free(text);
    text = copy(data, size);
    gid_t gid;
    if (find_group(text, size, "www-data", &gid) && gid > ID_MAX)
        abort();
    free(text);
    return 0;
}
