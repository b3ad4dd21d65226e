/* Serves several clients with one thread: all share each step, and each gets the answer that it would get alone. C99 and C++.
 *
 *     cc batch.c $(pkg-config --cflags --libs jamba) -o batch && ./batch jamba.plan "Once upon a time." "The mill was old."
 */
#include <jamba.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_CLIENTS = 8, MOST_TOKENS = 1024, MOST_TEXT = 4096 };

#define CHECK(call)                                                         \
    do {                                                                    \
        if ((call) != JAMBA_OK) {                                           \
            fprintf(stderr, "line %d: %s\n", __LINE__, jamba_last_error()); \
            return 1;                                                       \
        }                                                                   \
    } while (0)

static uint32_t tokens[MOST_TOKENS];
static char texts[MOST_CLIENTS + 1][MOST_TEXT];

int main(int argc, char **argv) {
    jamba_engine engine;
    jamba_batch batch;
    jamba_batch_options options;
    jamba_sampler_options sampler;
    jamba_generate_options generate;
    const jamba_event *events;
    size_t n_events, i;
    uint64_t number;
    int32_t idle;
    int client;

    if (argc < 3 || argc > 2 + MOST_CLIENTS) {
        fprintf(stderr, "usage: batch PLAN PROMPT... (up to %d)\n", MOST_CLIENTS);
        return 2;
    }
    CHECK(jamba_open(argv[1], NULL, &engine));
    CHECK(jamba_batch_options_init(&options, sizeof options));
    options.cache_bytes = (uint64_t)64 << 20; /* prompts that begin alike are read once */
    options.max_waiting = MOST_CLIENTS;
    CHECK(jamba_batch_open(engine, &options, &batch));
    CHECK(jamba_sampler_options_of_model(engine, &sampler, sizeof sampler));
    sampler.seed = 1;
    CHECK(jamba_generate_options_of_model(engine, &generate, sizeof generate));
    generate.sampler = &sampler;
    generate.max_new = 40;

    for (client = 2; client < argc; client++) {
        jamba_request request;
        CHECK(jamba_request_init(&request, sizeof request));
        CHECK(jamba_encode(engine, argv[client], strlen(argv[client]), tokens, MOST_TOKENS, &request.n_prompt));
        request.prompt = tokens; /* copied by jamba_batch_submit */
        request.options = &generate;
        request.timeout = 600;
        CHECK(jamba_batch_submit(engine, batch, &request, &number)); /* 1, 2, … */
    }
    for (;;) {
        CHECK(jamba_batch_idle(engine, batch, &idle));
        if (idle) break;
        /* A server would take new requests here, and jamba_batch_cancel those whose client has gone. */
        CHECK(jamba_batch_step(engine, batch, &events, &n_events));
        for (i = 0; i < n_events; i++) {
            const jamba_event *event = &events[i];
            char *text = texts[event->request];
            strncat(text, event->text, MOST_TEXT - 1 - strlen(text));
            if (event->error) fprintf(stderr, "%u: %s\n", (unsigned)event->request, event->error);
            if (event->finish == JAMBA_FINISH_NONE) continue;
            printf("%u: %s [%u tokens, finish %d]\n", (unsigned)event->request, text, (unsigned)event->new_tokens,
                   (int)event->finish);
        }
    }
    CHECK(jamba_batch_close(engine, batch));
    CHECK(jamba_close(engine));
    return 0;
}
