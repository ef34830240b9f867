/* A libnvidia-ml.so.1 that answers what the file named by ONECARD_TEST_NVML says, read again at each call.
 *
 * A line is `FUNCTION[.ARGUMENT] VALUE`; `!N` as the value makes the function return NVML's error N. A function without
 * a line returns NVML_ERROR_NOT_SUPPORTED. There is one card. Written by record.py on a machine that has a real one.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS = 0, NOT_SUPPORTED = 3, INSUFFICIENT_SIZE = 7, TIMEOUT = 10, UNKNOWN = 999 };

typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned int gpu, memory; } Utilization;
typedef struct { void *device; unsigned long long eventType, eventData; unsigned int gpuInstance, computeInstance; } Event;

static char card; /* its address is the handle */

/* The file `FILE.hangs` makes every question wait until it is gone, as those to a driver do that has stopped. */
static int path_hangs(const char *path) {
    char name[512];
    snprintf(name, sizeof name, "%s.hangs", path);
    return access(name, F_OK) == 0;
}

static int tell(const char *function, int argument, char *text, size_t size) {
    char name[96], line[256], found[96], value[160];
    const char *path = getenv("ONECARD_TEST_NVML");
    FILE *file = path ? fopen(path, "r") : NULL;
    int result = NOT_SUPPORTED;
    if (!file) return UNKNOWN;
    while (path_hangs(path)) usleep(10000);
    if (argument >= 0) snprintf(name, sizeof name, "%s.%d", function, argument);
    else snprintf(name, sizeof name, "%s", function);
    while (fgets(line, sizeof line, file)) {
        if (sscanf(line, "%95s %159[^\n]", found, value) != 2 || strcmp(found, name)) continue;
        if (value[0] == '!') result = atoi(value + 1);
        else { snprintf(text, size, "%s", value); result = SUCCESS; }
        break;
    }
    fclose(file);
    return result;
}

static int number(const char *function, int argument, unsigned long long *value) {
    char text[160];
    int result = tell(function, argument, text, sizeof text);
    if (result == SUCCESS) *value = strtoull(text, NULL, 10);
    return result;
}

#define OF_UINT(function) int function(void *device, unsigned int *out) { \
    unsigned long long value; int result = number(#function, -1, &value); \
    (void)device; if (result == SUCCESS) *out = (unsigned int)value; return result; }
#define OF_UINT_ARGUMENT(function) int function(void *device, unsigned int argument, unsigned int *out) { \
    unsigned long long value; int result = number(#function, (int)argument, &value); \
    (void)device; if (result == SUCCESS) *out = (unsigned int)value; return result; }
#define OF_ULONG(function) int function(void *device, unsigned long long *out) { \
    (void)device; return number(#function, -1, out); }
#define OF_TEXT(function) int function(void *device, char *out, unsigned int size) { \
    (void)device; return tell(#function, -1, out, size); }

typedef struct { unsigned int pid; unsigned long long usedGpuMemory; unsigned int gpuInstanceId, computeInstanceId; } Process;

OF_TEXT(nvmlDeviceGetName)
OF_TEXT(nvmlDeviceGetUUID)
OF_UINT_ARGUMENT(nvmlDeviceGetTemperature)
OF_UINT_ARGUMENT(nvmlDeviceGetTemperatureThreshold)
OF_UINT_ARGUMENT(nvmlDeviceGetClockInfo)
OF_UINT_ARGUMENT(nvmlDeviceGetMaxClockInfo)
OF_UINT_ARGUMENT(nvmlDeviceGetPcieThroughput)
OF_UINT(nvmlDeviceGetPowerUsage)
OF_UINT(nvmlDeviceGetEnforcedPowerLimit)
OF_UINT(nvmlDeviceGetFanSpeed)
OF_UINT(nvmlDeviceGetCurrPcieLinkGeneration)
OF_UINT(nvmlDeviceGetCurrPcieLinkWidth)
OF_UINT(nvmlDeviceGetMaxPcieLinkWidth)
OF_UINT(nvmlDeviceGetIndex)
OF_UINT(nvmlDeviceGetMemoryBusWidth)
OF_ULONG(nvmlDeviceGetTotalEnergyConsumption)
OF_ULONG(nvmlDeviceGetCurrentClocksThrottleReasons)

const char *nvmlErrorString(int result) {
    static char text[32];
    snprintf(text, sizeof text, "NVML error %d", result);
    return text;
}
int nvmlInitWithFlags(unsigned int flags) {
    unsigned long long value;
    (void)flags;
    return number("nvmlInitWithFlags", -1, &value);
}
int nvmlShutdown(void) { return SUCCESS; }
int nvmlSystemGetDriverVersion(char *out, unsigned int size) { return tell("nvmlSystemGetDriverVersion", -1, out, size); }
int nvmlDeviceGetCount_v2(unsigned int *out) {
    unsigned long long value;
    int result = number("nvmlDeviceGetCount_v2", -1, &value);
    if (result == SUCCESS) *out = (unsigned int)value;
    return result;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **out) {
    unsigned long long value;
    *out = &card;
    return number("nvmlDeviceGetHandleByIndex_v2", (int)index, &value);
}
int nvmlDeviceGetMemoryInfo(void *device, Memory *out) {
    int result = number("nvmlDeviceGetMemoryInfo.total", -1, &out->total);
    (void)device;
    if (result == SUCCESS) result = number("nvmlDeviceGetMemoryInfo.used", -1, &out->used);
    if (result == SUCCESS) out->free = out->total - out->used;
    return result;
}
int nvmlDeviceGetCudaComputeCapability(void *device, int *major, int *minor) {
    unsigned long long first = 0, second = 0;
    int result = number("nvmlDeviceGetCudaComputeCapability.major", -1, &first);
    (void)device;
    if (result == SUCCESS) result = number("nvmlDeviceGetCudaComputeCapability.minor", -1, &second);
    if (result == SUCCESS) { *major = (int)first; *minor = (int)second; }
    return result;
}
int nvmlDeviceGetUtilizationRates(void *device, Utilization *out) {
    unsigned long long gpu, memory;
    int result = number("nvmlDeviceGetUtilizationRates.gpu", -1, &gpu);
    (void)device;
    if (result == SUCCESS) result = number("nvmlDeviceGetUtilizationRates.memory", -1, &memory);
    if (result == SUCCESS) { out->gpu = (unsigned int)gpu; out->memory = (unsigned int)memory; }
    return result;
}
/* The line `nvmlDeviceGetComputeRunningProcesses_v3 2` is followed by `….0 PID BYTES` and `….1 PID BYTES`; -1 bytes are
 * NVML_VALUE_NOT_AVAILABLE. */
int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned int *count, Process *out) {
    unsigned long long every;
    unsigned int room = *count;
    char text[160];
    int result = number("nvmlDeviceGetComputeRunningProcesses_v3", -1, &every);
    (void)device;
    if (result != SUCCESS) return result;
    *count = (unsigned int)every;
    if (every > room) return INSUFFICIENT_SIZE;
    for (unsigned int i = 0; i < *count; i++) {
        char *bytes;
        result = tell("nvmlDeviceGetComputeRunningProcesses_v3", (int)i, text, sizeof text);
        if (result != SUCCESS) return result;
        memset(&out[i], 0, sizeof out[i]);
        out[i].pid = (unsigned int)strtoul(text, &bytes, 10);
        out[i].usedGpuMemory = strtoull(bytes, NULL, 10);
    }
    return SUCCESS;
}
int nvmlEventSetCreate(void **out) { *out = &card; return SUCCESS; }
int nvmlEventSetFree(void *set) { (void)set; return SUCCESS; }
int nvmlDeviceRegisterEvents(void *device, unsigned long long types, void *set) {
    (void)device; (void)types; (void)set;
    return SUCCESS;
}
/* The line `nvmlEventSetWait_v2 48` is an XID 48 that has not been told yet: each distinct number is told once. */
int nvmlEventSetWait_v2(void *set, Event *out, unsigned int timeout_ms) {
    static unsigned long long told;
    unsigned long long xid;
    (void)set; (void)timeout_ms;
    int result = number("nvmlEventSetWait_v2", -1, &xid);
    if (result == NOT_SUPPORTED || (result == SUCCESS && xid == told)) return TIMEOUT;
    if (result != SUCCESS) return result;
    memset(out, 0, sizeof *out);
    out->device = &card;
    out->eventType = 8;
    out->eventData = told = xid;
    return SUCCESS;
}
