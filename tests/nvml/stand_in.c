/* A stand-in for libnvidia-ml.so.1: cards as a text file describes them, so that the real pynvml runs without a card.
 *
 * $NVML_STAND_IN names the file; it is read anew at every call, so that cards change while somebody looks. A line is
 * CARD KEY VALUE, CARD being a number or `all`: name, total, used, power (mW), energy (mJ), load, temperature, and
 * `process PID BYTES` (BYTES -1: not told) as often as there are processes. `error.KEY N` makes a question fail with
 * NVML's code N; `all error.init 18` nvmlInit itself. `all count N` cards.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct { int index; } Card;
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned int gpu, memory; } Load;
typedef struct { unsigned int pid; unsigned long long used; unsigned int instance, compute; } Process;

enum { SUCCESS = 0, INVALID = 2, NOT_SUPPORTED = 3, INSUFFICIENT_SIZE = 7, UNKNOWN = 999 };

static Card cards[16];

/* The `nth` value of a key into `value`; 1 where there is one. */
static int find(const char *card, const char *key, int nth, char *value, size_t room) {
    const char *path = getenv("NVML_STAND_IN");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[512], whose[32], what[64];
    int found = 0, taken = 0;
    if (!file) return 0;
    while (!found && fgets(line, sizeof line, file)) {
        if (sscanf(line, "%31s %63s %n", whose, what, &taken) < 2) continue;
        if (strcmp(whose, card) || strcmp(what, key) || nth-- > 0) continue;
        line[strcspn(line, "\n")] = 0;
        snprintf(value, room, "%s", line + taken);
        found = 1;
    }
    fclose(file);
    return found;
}

static int failure(const char *card, const char *key) {
    char name[96], value[64];
    snprintf(name, sizeof name, "error.%s", key);
    return find(card, name, 0, value, sizeof value) ? atoi(value) : SUCCESS;
}

/* A card's value, or why there is none: its own error, the error of everything on it, or that it is not supported. */
static int ask(Card *card, const char *key, char *value, size_t room) {
    char number[16];
    int code;
    if (!card) return INVALID;
    snprintf(number, sizeof number, "%d", card->index);
    if ((code = failure(number, key)) || (code = failure(number, "everything"))) return code;
    return find(number, key, 0, value, room) ? SUCCESS : NOT_SUPPORTED;
}

static int ask_number(Card *card, const char *key, unsigned long long *number) {
    char value[64];
    int code = ask(card, key, value, sizeof value);
    if (!code) *number = strtoull(value, NULL, 10);
    return code;
}

int nvmlInitWithFlags(unsigned int flags) { (void)flags; return failure("all", "init"); }
int nvmlInit_v2(void) { return failure("all", "init"); }
int nvmlShutdown(void) { return SUCCESS; }

const char *nvmlErrorString(int code) {
    switch (code) {
    case 3: return "Not Supported";
    case 4: return "Insufficient Permissions";
    case 9: return "Driver Not Loaded";
    case 15: return "GPU is lost";
    case 18: return "Driver/library version mismatch";
    default: return "Unknown Error";
    }
}

int nvmlSystemGetDriverVersion(char *version, unsigned int room) {
    snprintf(version, room, "999.1");
    return SUCCESS;
}

int nvmlDeviceGetCount_v2(unsigned int *count) {
    char value[64];
    int code = failure("all", "count");
    *count = !code && find("all", "count", 0, value, sizeof value) ? (unsigned int)atoi(value) : 0;
    return code;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, Card **card) {
    char number[16];
    if (index >= 16) return INVALID;
    snprintf(number, sizeof number, "%u", index);
    cards[index].index = (int)index;
    *card = &cards[index];
    return failure(number, "handle");
}

int nvmlDeviceGetName(Card *card, char *name, unsigned int room) { return ask(card, "name", name, room); }

int nvmlDeviceGetMemoryInfo(Card *card, Memory *memory) {
    int code = ask_number(card, "total", &memory->total);
    if (!code) code = ask_number(card, "used", &memory->used);
    if (!code) memory->free = memory->total - memory->used;
    return code;
}

static int ask_small(Card *card, const char *key, unsigned int *small) {
    unsigned long long number = 0;
    int code = ask_number(card, key, &number);
    *small = (unsigned int)number;
    return code;
}

int nvmlDeviceGetPowerUsage(Card *card, unsigned int *milliwatts) { return ask_small(card, "power", milliwatts); }

int nvmlDeviceGetTotalEnergyConsumption(Card *card, unsigned long long *millijoules) {
    return ask_number(card, "energy", millijoules);
}

int nvmlDeviceGetTemperature(Card *card, unsigned int sensor, unsigned int *degrees) {
    return sensor ? INVALID : ask_small(card, "temperature", degrees);
}

int nvmlDeviceGetUtilizationRates(Card *card, Load *load) {
    load->memory = 0;
    return ask_small(card, "load", &load->gpu);
}

#ifndef OLD_DRIVER /* one from before this question had its third form */
int nvmlDeviceGetComputeRunningProcesses_v3(Card *card, unsigned int *count, Process *processes) {
    char number[16], value[64];
    unsigned int room = *count, seen = 0;
    int code;
    snprintf(number, sizeof number, "%d", card->index);
    if ((code = failure(number, "process")) || (code = failure(number, "everything"))) return code;
    for (; find(number, "process", (int)seen, value, sizeof value); seen++) {
        long long bytes = 0;
        unsigned int pid = 0;
        if (!processes || seen >= room) continue;
        if (sscanf(value, "%u %lld", &pid, &bytes) < 2) return UNKNOWN;
        processes[seen] = (Process){pid, bytes < 0 ? ~0ULL : (unsigned long long)bytes, ~0U, ~0U};
    }
    *count = seen;
    return seen > room ? INSUFFICIENT_SIZE : SUCCESS;
}
#endif
