// A fake libcuda for tests: device memory is host memory, operations are synchronous, and the kernels are those of the toy
// model. Counts live objects. Any call can be made to fail.
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t u64;
typedef int32_t i32;
enum { OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_CONTEXT = 201, NO_BINARY = 209, INVALID_PTX = 218, NOT_FOUND = 500 };
enum { P = 1009, PAGE = 16, VOCAB = 300, MOST = 4096 };

// Counters for tests: live contexts, and live objects in them: device and host memory, streams, events, graphs, modules;
// captures, instantiated and launched graphs, copies.
i32 contexts, allocations, captures, instantiated, replays, uploads, downloads;
// The driver's version and the device's memory in bytes.
i32 driver_version = 12040;
u64 device_bytes = 1 << 30;

static char failing[64];
static i32 failing_with, sticky;

// Makes a call fail with a code. After a sticky code, all synchronizing calls fail.
void fail(const char *call, i32 code) { strcpy(failing, call), failing_with = code; }
void reset(void) { failing[0] = 0, sticky = 0; }

static i32 fails(const char *call) { return strcmp(call, failing) ? 0 : failing_with; }
#define TRY(call) do { i32 code = fails(call); if (code) return code; } while (0)
#define WAITS() do { if (sticky) return sticky; } while (0)
#define CURRENT() do { if (!depth) return INVALID_CONTEXT; } while (0)

// A device's primary context: how often it is retained, and its live memory with sizes.
struct context { i32 retained; void *memory[MOST]; u64 bytes[MOST]; i32 n; };
static struct context primary[2], *stack[16];
static i32 depth;
static u64 used;

struct launch { i32 kernel; u64 args[64]; i32 n; };
struct graph { struct launch launches[64]; i32 n; };
static struct graph *capture;

static const char *const KERNELS[] = { "embed", "recur", "append", "attend", "head", "head2", "head3" };

static u64 count(u64 at) { return *(u64 *)at; }

static void run(const struct launch *launch) {
    const u64 *a = launch->args;
    const i32 *starts = (i32 *)a[0], *past = (i32 *)a[1], *pages = (i32 *)a[2], *sequence_of = (i32 *)a[3];
    float *x = (float *)a[launch->kernel == 0 ? 2 : launch->kernel == 1 ? 3 : 5];
    switch (launch->kernel) {
    case 0:
        for (u64 t = 0; t < count(a[3]); t++) x[t] = (float)((i32 *)a[0])[t] + ((float *)a[1])[((i32 *)a[0])[t]];
        break;
    case 1:
        for (u64 s = 0; s < count(a[4]); s++) {
            float *h = (float *)(a[2] + (u64)((i32 *)a[1])[s] * a[5]);
            for (i32 t = starts[s]; t < starts[s + 1]; t++) x[t] = *h = (float)(((i32)*h * 3 + (i32)x[t]) % P);
        }
        break;
    case 2:
    case 3:
        for (u64 t = 0; t < count(a[6]); t++) {
            i32 s = sequence_of[t], position = past[s] + (i32)t - starts[s], sum = 0;
            for (i32 p = launch->kernel == 2 ? position : 0; p <= position; p++) {
                float *key = (float *)(a[4] + (u64)pages[(u64)s * a[8] + p / PAGE] * a[7]) + p % PAGE;
                if (launch->kernel == 2) *key = x[t];
                else sum = (sum + (i32)*key) % P;
            }
            if (launch->kernel == 3) x[t] = (float)sum;
        }
        break;
    case 4:
    case 5:
    case 6:
        for (u64 r = 0; r < count(a[3]); r++) {
            float *row = (float *)(a[2] + r * a[4]);
            memset(row, 0, VOCAB * sizeof(float));
            row[0] = ((float *)a[1])[((i32 *)a[0])[r]], row[1] = (float)a[5], row[2] = (float)count(a[6]);
        }
    }
}

i32 cuInit(unsigned flags) { (void)flags; TRY("cuInit"); return OK; }
i32 cuDriverGetVersion(i32 *version) { *version = driver_version; return OK; }
i32 cuDeviceGetCount(i32 *n) { *n = 2; return OK; }
i32 cuDeviceGet(i32 *device, i32 number) { *device = number; return OK; }
i32 cuDeviceGetName(char *name, i32 n, i32 device) { (void)device; strncpy(name, "NVIDIA Test", (size_t)n); return OK; }
i32 cuDeviceGetAttribute(i32 *value, i32 attribute, i32 device) {
    *value = attribute == 75 ? 9 : attribute == 76 ? 0 : attribute == 16 ? 132 : -1;
    if (device == 1 && attribute == 75) *value = 8;
    return OK;
}
i32 cuGetErrorName(i32 code, const char **name) {
    *name = code == 1     ? "CUDA_ERROR_INVALID_VALUE"
            : code == 214 ? "CUDA_ERROR_ECC_UNCORRECTABLE"
            : code == 218 ? "CUDA_ERROR_INVALID_PTX"
            : code == 500 ? "CUDA_ERROR_NOT_FOUND"
            : code == 700 ? "CUDA_ERROR_ILLEGAL_ADDRESS"
                          : NULL;
    return *name ? OK : INVALID_VALUE;
}
i32 cuGetErrorString(i32 code, const char **words) {
    *words = code == 700 ? "an illegal memory access was encountered" : NULL;
    return *words ? OK : INVALID_VALUE;
}

i32 cuDevicePrimaryCtxRetain(struct context **out, i32 device) {
    TRY("cuDevicePrimaryCtxRetain");
    *out = &primary[device];
    contexts += !(*out)->retained++;
    return OK;
}
i32 cuCtxPushCurrent_v2(struct context *context) { stack[depth++] = context; return OK; }
i32 cuCtxPopCurrent_v2(struct context **context) { CURRENT(); *context = stack[--depth]; return OK; }
i32 cuDevicePrimaryCtxRelease_v2(i32 device) {
    struct context *context = &primary[device];
    contexts -= !--context->retained;
    return OK;
}

static void *take(size_t bytes) {
    struct context *context = stack[depth - 1];
    void *memory = aligned_alloc(256, (bytes + 255) / 256 * 256);
    memset(memory, 0xcd, bytes);
    context->bytes[context->n] = bytes, context->memory[context->n++] = memory, allocations++;
    return memory;
}
static i32 give(void *memory) {
    struct context *context = stack[depth - 1];
    for (i32 i = 0; i < context->n; i++) {
        if (context->memory[i] != memory) continue;
        free(memory), allocations--;
        context->n--, context->memory[i] = context->memory[context->n], context->bytes[i] = context->bytes[context->n];
        return OK;
    }
    return INVALID_VALUE;
}
i32 cuMemGetInfo_v2(size_t *free_bytes, size_t *total) { CURRENT(); *total = device_bytes, *free_bytes = device_bytes - used; return OK; }
i32 cuMemAlloc_v2(u64 *address, size_t bytes) {
    CURRENT();
    TRY("cuMemAlloc");
    used += bytes;
    *address = (u64)take(bytes);
    return OK;
}
i32 cuMemFree_v2(u64 address) {
    CURRENT();
    struct context *context = stack[depth - 1];
    for (i32 i = 0; i < context->n; i++) used -= (u64)context->memory[i] == address ? context->bytes[i] : 0;
    return give((void *)address);
}
i32 cuMemFreeHost(void *memory) { CURRENT(); return give(memory); }
i32 cuMemAllocHost_v2(void **memory, size_t bytes) { CURRENT(); *memory = take(bytes); return OK; }
i32 cuMemcpyHtoDAsync_v2(u64 to, const void *from, size_t n, void *stream) { (void)stream; CURRENT(); WAITS(); TRY("cuMemcpyHtoDAsync"); uploads++; memcpy((void *)to, from, n); return OK; }
i32 cuMemcpyDtoHAsync_v2(void *to, u64 from, size_t n, void *stream) { (void)stream; CURRENT(); WAITS(); TRY("cuMemcpyDtoHAsync"); downloads++; memcpy(to, (void *)from, n); return OK; }
i32 cuMemcpyDtoDAsync_v2(u64 to, u64 from, size_t n, void *stream) { (void)stream; CURRENT(); memcpy((void *)to, (void *)from, n); return OK; }
i32 cuMemsetD8Async(u64 at, unsigned char value, size_t n, void *stream) { (void)stream; CURRENT(); memset((void *)at, value, n); return OK; }

i32 cuStreamCreate(void **stream, unsigned flags) { CURRENT(); *stream = take(1); return flags == 1 ? OK : INVALID_VALUE; }
i32 cuStreamDestroy_v2(void *stream) { CURRENT(); return give(stream); }
i32 cuStreamSynchronize(void *stream) { (void)stream; CURRENT(); WAITS(); TRY("cuStreamSynchronize"); return OK; }
i32 cuEventCreate(void **event, unsigned flags) { CURRENT(); *event = take(1); return flags == 2 ? OK : INVALID_VALUE; }
i32 cuEventDestroy_v2(void *event) { CURRENT(); return give(event); }
i32 cuEventRecord(void *event, void *stream) { (void)event, (void)stream; CURRENT(); return OK; }
i32 cuEventSynchronize(void *event) { (void)event; CURRENT(); WAITS(); return OK; }

i32 cuModuleLoadDataEx(void **module, const void *image, unsigned n, i32 *options, void **values) {
    CURRENT();
    TRY("cuModuleLoadDataEx");
    if (n != 2 || options[0] != 5 || options[1] != 6) return INVALID_VALUE;
    if (!strncmp(image, "\x7f" "ELF", 4)) return *(char *)((char *)image + 4) == 'x' ? NO_BINARY : (*module = take(1), OK);
    if (!strstr(image, ".target sm_90a")) {
        strncpy(values[0], "ptxas error: no target\n", (size_t)values[1]);
        return INVALID_PTX;
    }
    *module = take(1);
    return OK;
}
i32 cuModuleUnload(void *module) { CURRENT(); return give(module); }
i32 cuModuleGetFunction(u64 *function, void *module, const char *name) {
    (void)module;
    for (u64 i = 0; i < sizeof KERNELS / sizeof *KERNELS; i++)
        if (!strcmp(name, KERNELS[i])) return *function = i + 1, OK;
    return NOT_FOUND;
}
// Attribute 9 is the preferred carve-out of shared memory. A kernel that did not ask for all of it cannot be launched.
static i32 carveout[sizeof KERNELS / sizeof *KERNELS + 1];
i32 cuFuncGetAttribute(i32 *value, i32 attribute, u64 function) { (void)function; CURRENT(); *value = 32; return attribute == 4 ? OK : INVALID_VALUE; }
i32 cuFuncSetAttribute(u64 function, i32 attribute, i32 value) {
    CURRENT();
    if (!function) return INVALID_VALUE;
    if (attribute == 9) return carveout[function] = value, OK;
    return attribute == 8 && value == 200000 ? OK : INVALID_VALUE;
}

i32 cuLaunchKernel(u64 function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned ty, unsigned tz, unsigned shared,
                   void *stream, void **params, void **extra) {
    (void)stream, (void)shared;
    CURRENT();
    TRY("cuLaunchKernel");
    if (!x || !y || !z || !threads || ty != 1 || tz != 1 || params || carveout[function] != 100) return INVALID_VALUE;
    if (*(size_t *)extra[3] > sizeof ((struct launch *)0)->args) return INVALID_VALUE;
    if (extra[0] != (void *)1 || extra[2] != (void *)2 || extra[4]) return INVALID_VALUE;
    struct launch launch = { (i32)function - 1, { 0 }, (i32)(*(size_t *)extra[3] / 8) };
    memcpy(launch.args, extra[1], *(size_t *)extra[3]);
    if (fails("kernel")) return sticky = fails("kernel"), OK;
    if (capture) capture->launches[capture->n++] = launch;
    else run(&launch);
    return OK;
}
i32 cuStreamBeginCapture_v2(void *stream, i32 mode) { (void)stream; CURRENT(); capture = calloc(1, sizeof *capture); captures++; return mode == 1 ? OK : INVALID_VALUE; }
i32 cuStreamEndCapture(void *stream, struct graph **graph) { (void)stream; CURRENT(); *graph = capture, capture = NULL; return OK; }
i32 cuGraphInstantiateWithFlags(struct graph **out, const struct graph *graph, u64 flags) {
    (void)flags;
    CURRENT();
    TRY("cuGraphInstantiate");
    *out = take(sizeof *graph), instantiated++;
    **out = *graph;
    return OK;
}
i32 cuGraphExecDestroy(struct graph *graph) { CURRENT(); return give(graph); }
i32 cuGraphDestroy(struct graph *graph) { free(graph); return OK; }
i32 cuGraphLaunch(const struct graph *graph, void *stream) {
    (void)stream;
    CURRENT();
    if (fails("kernel")) return sticky = fails("kernel"), OK;
    replays++;
    for (i32 i = 0; i < graph->n; i++) run(&graph->launches[i]);
    return OK;
}

i32 cuTensorMapEncodeTiled(u64 *map, i32 elem, unsigned rank, void *address, const u64 *dims, const u64 *strides, const unsigned *box,
                           const unsigned *every, i32 interleave, i32 swizzle, i32 promotion, i32 fill) {
    if ((u64)map % 64 || rank != 2 || every[0] != 1 || every[1] != 1 || interleave || fill || promotion != 2) return INVALID_VALUE;
    const u64 fields[] = { (u64)address, dims[0], dims[1], strides[0], box[0], box[1], (u64)elem, (u64)swizzle };
    memcpy(map, fields, sizeof fields);
    return OK;
}
