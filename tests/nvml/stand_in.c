/* A stand-in for libnvidia-ml.so.1 with GPUs described by a text file, so that the real pynvml runs without a GPU.
 *
 * $NVML_STAND_IN is the path of the file; it is read at every call, so that GPUs can change during a test. A line is
 * GPU KEY VALUE, where GPU is an index or `all`: name, total, used, power (mW), power_limit (mW), energy (mJ), load, temperature,
 * clock and max_clock (MHz), throttle (bits), and
 * `process PID BYTES` (BYTES -1: not available) for each process. `error.KEY N` makes a query fail with NVML's code N;
 * `all error.init 18` makes nvmlInit fail. `all count N` sets the number of GPUs, `all driver 550.54` and `all cuda 12040`
 * the driver's version and its CUDA version. `uuid` is a GPU's UUID; `mig N` is a MIG instance of the GPU, described by
 * the lines of index N, which is not less than the count; `migmode 1` enables MIG.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct { int index; } Gpu;
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned int gpu, memory; } Load;
typedef struct { unsigned int pid; unsigned long long used; unsigned int instance, compute; } Process;

enum { SUCCESS = 0, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, UNKNOWN = 999 };

static Gpu gpus[16];

/* Copy the `nth` value of a key to `value`; 1 if there is one. */
static int find(const char *gpu, const char *key, int nth, char *value, size_t room) {
    const char *path = getenv("NVML_STAND_IN");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[512], index[32], name[64];
    int found = 0, taken = 0;
    if (!file) return 0;
    while (!found && fgets(line, sizeof line, file)) {
        if (sscanf(line, "%31s %63s %n", index, name, &taken) < 2) continue;
        if (strcmp(index, gpu) || strcmp(name, key) || nth-- > 0) continue;
        line[strcspn(line, "\n")] = 0;
        snprintf(value, room, "%s", line + taken);
        found = 1;
    }
    fclose(file);
    return found;
}

static int failure(const char *gpu, const char *key) {
    char name[96], value[64];
    snprintf(name, sizeof name, "error.%s", key);
    return find(gpu, name, 0, value, sizeof value) ? atoi(value) : SUCCESS;
}

/* A value of a GPU, or an error code: of the key, of every key (`error.everything`), or NOT_SUPPORTED. */
static int query(Gpu *gpu, const char *key, char *value, size_t room) {
    char number[16];
    int code;
    if (!gpu) return INVALID;
    snprintf(number, sizeof number, "%d", gpu->index);
    if ((code = failure(number, key)) || (code = failure(number, "everything"))) return code;
    return find(number, key, 0, value, room) ? SUCCESS : NOT_SUPPORTED;
}

static int query_number(Gpu *gpu, const char *key, unsigned long long *number) {
    char value[64];
    int code = query(gpu, key, value, sizeof value);
    if (!code) *number = strtoull(value, NULL, 10);
    return code;
}

static int query_small(Gpu *gpu, const char *key, unsigned int *small) {
    unsigned long long number = 0;
    int code = query_number(gpu, key, &number);
    *small = (unsigned int)number;
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
    if (!find("all", "driver", 0, version, room)) snprintf(version, room, "999.1");
    return SUCCESS;
}

int nvmlSystemGetCudaDriverVersion_v2(int *version) {
    char value[64];
    if (!find("all", "cuda", 0, value, sizeof value)) return NOT_SUPPORTED;
    *version = atoi(value);
    return SUCCESS;
}

int nvmlDeviceGetCount_v2(unsigned int *count) {
    char value[64];
    int code = failure("all", "count");
    *count = !code && find("all", "count", 0, value, sizeof value) ? (unsigned int)atoi(value) : 0;
    return code;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, Gpu **gpu) {
    char number[16];
    unsigned int count = 0;
    if (nvmlDeviceGetCount_v2(&count) || index >= count) return INVALID;
    snprintf(number, sizeof number, "%u", index);
    gpus[index].index = (int)index;
    *gpu = &gpus[index];
    return failure(number, "handle");
}

int nvmlDeviceGetName(Gpu *gpu, char *name, unsigned int room) { return query(gpu, "name", name, room); }

int nvmlDeviceGetUUID(Gpu *gpu, char *uuid, unsigned int room) { return query(gpu, "uuid", uuid, room); }

int nvmlDeviceGetHandleByUUID(const char *wanted, Gpu **gpu) {
    char number[16], value[96];
    for (int index = 0; index < 16; index++) {
        snprintf(number, sizeof number, "%d", index);
        if (!find(number, "uuid", 0, value, sizeof value) || strcmp(value, wanted)) continue;
        gpus[index].index = index;
        *gpu = &gpus[index];
        return failure(number, "handle");
    }
    return NOT_FOUND;
}

int nvmlDeviceGetMigMode(Gpu *gpu, unsigned int *current, unsigned int *pending) {
    int code = query_small(gpu, "migmode", current);
    *pending = *current;
    return code;
}

int nvmlDeviceGetMaxMigDeviceCount(Gpu *gpu, unsigned int *count) {
    *count = 7;
    return gpu ? SUCCESS : INVALID;
}

int nvmlDeviceGetMigDeviceHandleByIndex(Gpu *parent, unsigned int nth, Gpu **instance) {
    char number[16], value[16];
    int index;
    snprintf(number, sizeof number, "%d", parent->index);
    if (!find(number, "mig", (int)nth, value, sizeof value)) return NOT_FOUND;
    index = atoi(value) % 16;
    gpus[index].index = index;
    *instance = &gpus[index];
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo(Gpu *gpu, Memory *memory) {
    int code = query_number(gpu, "total", &memory->total);
    if (!code) code = query_number(gpu, "used", &memory->used);
    if (!code) memory->free = memory->total - memory->used;
    return code;
}

int nvmlDeviceGetPowerUsage(Gpu *gpu, unsigned int *milliwatts) { return query_small(gpu, "power", milliwatts); }

int nvmlDeviceGetEnforcedPowerLimit(Gpu *gpu, unsigned int *milliwatts) {
    return query_small(gpu, "power_limit", milliwatts);
}

int nvmlDeviceGetTotalEnergyConsumption(Gpu *gpu, unsigned long long *millijoules) {
    return query_number(gpu, "energy", millijoules);
}

int nvmlDeviceGetTemperature(Gpu *gpu, unsigned int sensor, unsigned int *degrees) {
    return sensor ? INVALID : query_small(gpu, "temperature", degrees);
}

int nvmlDeviceGetUtilizationRates(Gpu *gpu, Load *load) {
    load->memory = 0;
    return query_small(gpu, "load", &load->gpu);
}

int nvmlDeviceGetClockInfo(Gpu *gpu, unsigned int kind, unsigned int *megahertz) {
    return kind == 1 ? query_small(gpu, "clock", megahertz) : INVALID;
}

int nvmlDeviceGetMaxClockInfo(Gpu *gpu, unsigned int kind, unsigned int *megahertz) {
    return kind == 1 ? query_small(gpu, "max_clock", megahertz) : INVALID;
}

int nvmlDeviceGetCurrentClocksThrottleReasons(Gpu *gpu, unsigned long long *reasons) {
    return query_number(gpu, "throttle", reasons);
}

#ifndef OLD_DRIVER /* an old driver without the third version of this function */
int nvmlDeviceGetComputeRunningProcesses_v3(Gpu *gpu, unsigned int *count, Process *processes) {
    char number[16], value[64];
    unsigned int room = *count, seen = 0;
    int code;
    snprintf(number, sizeof number, "%d", gpu->index);
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
