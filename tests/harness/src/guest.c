/* Runs kernels of the shared object that is its argument, on request: the harness starts it under an emulator. Numbers are
 * 64 bits, little endian.
 *
 * A request: length of the symbol, symbol, number of threads, order (0 ascending, 1 descending, 2 together), number of slots,
 * and per slot: kind (0 integer, 1 read, 2 written), integer or length, bytes of the array.
 * An answer: length of a message, message; if it is empty, the bytes of each array that is written. */

#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef void kernel(const uint64_t *args, uint64_t thread, uint64_t n_threads);

struct slot {
    uint64_t kind, length;
    unsigned char *memory, *original;
};

struct share {
    kernel *kernel;
    const uint64_t *args;
    uint64_t thread, n_threads;
};

/* Guard bytes on either side of an array: a page, and NaN as f32 or bf16. */
enum { GUARD = 4096, GUARD_BYTE = 0xff };

static void *allocate(size_t bytes) {
    void *memory = aligned_alloc(64, (bytes + 127) / 64 * 64);
    if (!memory) exit(3);
    return memory;
}

static void take(void *to, size_t bytes) {
    if (fread(to, 1, bytes, stdin) != bytes) exit(2);
}

static uint64_t number(void) {
    uint64_t x;
    take(&x, sizeof x);
    return x;
}

static int is_guard(const unsigned char *bytes) {
    for (size_t i = 0; i < GUARD; i++)
        if (bytes[i] != GUARD_BYTE) return 0;
    return 1;
}

static void *run_share(void *pointer) {
    const struct share *share = pointer;
    share->kernel(share->args, share->thread, share->n_threads);
    return NULL;
}

static void run(kernel *kernel, const uint64_t *args, uint64_t n_threads, uint64_t order) {
    pthread_t threads[64];
    struct share shares[64];
    if (n_threads > 64) exit(4);
    for (uint64_t i = 0; i < n_threads; i++) {
        uint64_t thread = order == 1 ? n_threads - 1 - i : i;
        shares[i] = (struct share){kernel, args, thread, n_threads};
        if (order != 2) run_share(&shares[i]);
        else if (pthread_create(&threads[i], NULL, run_share, &shares[i])) exit(5);
    }
    for (uint64_t i = 0; order == 2 && i < n_threads; i++) pthread_join(threads[i], NULL);
}

static const char *answer(void *code, char *message, size_t room, const char *symbol, struct slot *slots, uint64_t n_slots,
                          const uint64_t *args, uint64_t n_threads, uint64_t order) {
    kernel *kernel;
    *(void **)&kernel = dlsym(code, symbol);
    if (!kernel) return "there is no such kernel";
    run(kernel, args, n_threads, order);
    for (uint64_t i = 0; i < n_slots; i++) {
        struct slot *slot = &slots[i];
        if (slot->kind == 0) continue;
        unsigned char *array = slot->memory + GUARD;
        const char *wrote = NULL;
        if (!is_guard(slot->memory) || !is_guard(array + slot->length)) wrote = "outside the array";
        else if (slot->kind == 1 && memcmp(array, slot->original, slot->length)) wrote = "to what it only reads,";
        if (!wrote) continue;
        snprintf(message, room, "it wrote %s in slot %llu", wrote, (unsigned long long)i);
        return message;
    }
    return "";
}

int main(int n_arguments, char **arguments) {
    void *code = n_arguments == 2 ? dlopen(arguments[1], RTLD_NOW) : NULL;
    if (!code) {
        fprintf(stderr, "guest: %s\n", dlerror());
        return 1;
    }
    uint64_t length;
    while (fread(&length, sizeof length, 1, stdin) == 1) {
        char *symbol = allocate(length + 1);
        take(symbol, length);
        symbol[length] = 0;
        uint64_t n_threads = number(), order = number(), n_slots = number();
        struct slot *slots = allocate(n_slots * sizeof *slots);
        uint64_t *args = allocate(n_slots * sizeof *args);
        for (uint64_t i = 0; i < n_slots; i++) {
            struct slot *slot = &slots[i];
            slot->kind = number();
            args[i] = slot->length = number();
            if (slot->kind == 0) continue;
            slot->memory = allocate(GUARD + slot->length + GUARD);
            slot->original = allocate(slot->length);
            memset(slot->memory, GUARD_BYTE, GUARD + slot->length + GUARD);
            take(slot->original, slot->length);
            memcpy(slot->memory + GUARD, slot->original, slot->length);
            args[i] = (uint64_t)(uintptr_t)(slot->memory + GUARD);
        }
        char room[128];
        const char *message = answer(code, room, sizeof room, symbol, slots, n_slots, args, n_threads, order);
        uint64_t n = strlen(message);
        fwrite(&n, sizeof n, 1, stdout);
        fwrite(message, 1, n, stdout);
        for (uint64_t i = 0; i < n_slots; i++) {
            if (slots[i].kind == 0) continue;
            if (slots[i].kind == 2 && !n) fwrite(slots[i].memory + GUARD, 1, slots[i].length, stdout);
            free(slots[i].memory);
            free(slots[i].original);
        }
        fflush(stdout);
        free(symbol);
        free(slots);
        free(args);
    }
    return 0;
}
