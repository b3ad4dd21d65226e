/* Decodes two sequences in one batch step by step, and saves and loads a state. C99 and C++.
 *
 *     cc steps.c $(pkg-config --cflags --libs jamba) -o steps && ./steps jamba.plan steps.state
 */
#include <jamba.h>
#include <stdio.h>
#include <string.h>

#define CHECK(call)                                                         \
    do {                                                                    \
        if ((call) != JAMBA_OK) {                                           \
            fprintf(stderr, "line %d: %s\n", __LINE__, jamba_last_error()); \
            return 1;                                                       \
        }                                                                   \
    } while (0)

int main(int argc, char **argv) {
    jamba_engine engine;
    jamba_sequence sequences[2], restored;
    jamba_sampler samplers[2];
    jamba_text_stream stream;
    jamba_logits logits;
    const uint32_t prompts[2][3] = {{1, 20, 30}, {1, 40, 50}};
    uint32_t next[2];
    const char *text;
    size_t length, after;
    int i, step;

    if (argc != 3) return 2;
    CHECK(jamba_open(argv[1], NULL, &engine));
    CHECK(jamba_text_stream_open(engine, &stream));
    for (i = 0; i < 2; i++) {
        CHECK(jamba_sequence_add(engine, &sequences[i]));
        CHECK(jamba_sampler_open(engine, NULL, &samplers[i])); /* greedy */
        CHECK(jamba_prefill(engine, sequences[i], prompts[i], 3, &logits));
        CHECK(jamba_sampler_pick(samplers[i], logits.rows[0], logits.vocab, &next[i]));
    }
    for (step = 0; step < 12; step++) {
        jamba_feed feeds[2];
        for (i = 0; i < 2; i++) {
            feeds[i].sequence = sequences[i];
            feeds[i].tokens = &next[i];
            feeds[i].n_tokens = 1;
            feeds[i].outputs = JAMBA_OUTPUTS_LAST;
        }
        CHECK(jamba_text_stream_push(stream, next[0], &text, &length));
        fwrite(text, 1, length, stdout);
        CHECK(jamba_step(engine, feeds, 2, &logits));
        if (logits.n_rows != 2) return 1;
        for (i = 0; i < 2; i++) CHECK(jamba_sampler_pick(samplers[i], logits.rows[i], logits.vocab, &next[i]));
    }
    CHECK(jamba_text_stream_finish(stream, &text, &length));
    printf("%s\n", text);

    /* Save and load the first sequence: it continues bit-identically. */
    CHECK(jamba_snapshot_save(engine, sequences[0], argv[2]));
    CHECK(jamba_snapshot_load(engine, argv[2], &restored));
    CHECK(jamba_sequence_length(engine, restored, &length));
    {
        float first, second;
        CHECK(jamba_prefill(engine, sequences[0], &next[0], 1, &logits));
        first = logits.rows[0][next[0]];
        CHECK(jamba_prefill(engine, restored, &next[0], 1, &logits));
        second = logits.rows[0][next[0]];
        if (memcmp(&first, &second, sizeof first) != 0) return 1;
    }
    CHECK(jamba_sequence_length(engine, restored, &after));
    printf("%u tokens, then %u\n", (unsigned)length, (unsigned)after);
    for (i = 0; i < 2; i++) {
        CHECK(jamba_sampler_close(samplers[i]));
        CHECK(jamba_sequence_remove(engine, sequences[i]));
    }
    CHECK(jamba_text_stream_close(stream));
    CHECK(jamba_close(engine));
    return 0;
}
