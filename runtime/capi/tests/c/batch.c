/* Two clients of a batch get the tokens that each gets alone; snapshots, forks, caches and rollbacks go on alike. C99 and C++. */
#include <stdlib.h>
#include <string.h>

#include "check.h"

enum { NEW = 12 };

struct answer {
    uint32_t tokens[NEW];
    size_t n;
};

static int note(void *user, const jamba_token *token) {
    struct answer *answer = (struct answer *)user;
    if (token->token != JAMBA_NO_TOKEN && answer->n < NEW) answer->tokens[answer->n++] = token->token;
    return 0;
}

static int same(const struct answer *a, const struct answer *b) {
    return a->n == b->n && memcmp(a->tokens, b->tokens, a->n * sizeof a->tokens[0]) == 0;
}

static jamba_engine engine;
static jamba_batch batch;
static jamba_snapshot kept;
static jamba_sampler_options sampler;
static jamba_generate_options generate;
static struct answer told[8][2];
static size_t n_prompt_told, n_cached[8];
static int32_t finish[8];
static uint64_t seeds[8][2];

/* Runs the batch until it is idle, and notes the tokens of each request and answer. */
static int run(void) {
    const jamba_event *events;
    size_t n, i;
    int32_t idle = 0;
    for (;;) {
        CHECK(jamba_batch_idle(engine, batch, &idle));
        if (idle) return 0;
        CHECK(jamba_batch_step(engine, batch, &events, &n));
        for (i = 0; i < n; i++) {
            const jamba_event *event = &events[i];
            struct answer *answer = &told[event->request][event->choice];
            TRUE(event->request < 8 && event->choice < 2 && strlen(event->text) == event->text_length);
            TRUE(event->error == NULL);
            if (event->token != JAMBA_NO_TOKEN && answer->n < NEW) answer->tokens[answer->n++] = event->token;
            n_prompt_told += event->n_prompt;
            if (event->n_prompt > 1) TRUE(event->prompt[1].n_top == 2 && event->prompt[1].logprob <= 0);
            n_cached[event->request] = event->cached_tokens;
            if (event->state.id) kept = event->state;
            seeds[event->request][event->choice] = event->seed;
            if (event->finish != JAMBA_FINISH_NONE) finish[event->request] = event->finish;
        }
    }
}

int main(int argc, char **argv) {
    const uint32_t prompts[2][4] = {{1, 20, 30, 40}, {1, 20, 50, 60}};
    struct answer alone[2], again;
    jamba_sequence none = {0}, sequence, fork, restored;
    jamba_snapshot no_snapshot = {0}, first, second, copy, found, found_less;
    jamba_batch_options batch_options;
    jamba_batch_state state;
    jamba_cache cache;
    jamba_cache_counters counters;
    jamba_request request;
    jamba_generate_options read_only;
    jamba_logits logits;
    jamba_generated generated;
    uint32_t tokens[64];
    uint64_t numbers[8], size;
    size_t n, needed;
    float before, after;
    unsigned char *bytes;
    int i;

    if (argc != 3) return 2;
    CHECK(jamba_open(argv[1], NULL, &engine));
    CHECK(jamba_sampler_options_init(&sampler, sizeof sampler));
    CHECK(jamba_generate_options_init(&generate, sizeof generate));
    sampler.temperature = 1;
    sampler.seed = 7;
    CHECK(jamba_generate_options_init(&read_only, sizeof read_only));
    read_only.max_new = 0;
    generate.sampler = &sampler;
    generate.max_new = NEW;
    generate.ignore_eos = 1;
    for (i = 0; i < 2; i++) {
        memset(&alone[i], 0, sizeof alone[i]);
        CHECK(jamba_generate(engine, none, prompts[i], 4, &generate, note, &alone[i], &generated));
        TRUE(alone[i].n == NEW);
    }
    TRUE(!same(&alone[0], &alone[1]));

    /* Two clients at once. */
    CHECK(jamba_batch_options_init(&batch_options, sizeof batch_options));
    batch_options.cache_bytes = 1 << 20;
    batch_options.step_target = 10;
    CHECK(jamba_batch_open(engine, &batch_options, &batch));
    CHECK(jamba_request_init(&request, sizeof request));
    request.options = &generate;
    request.n_prompt = 4;
    for (i = 0; i < 2; i++) {
        request.prompt = prompts[i];
        CHECK(jamba_batch_submit(engine, batch, &request, &numbers[i]));
        TRUE(numbers[i] == (uint64_t)i + 1);
    }
    CHECK(jamba_batch_count(engine, batch, &state));
    TRUE(state.waiting == 2 && state.running == 0);
    if (run()) return 1;
    for (i = 0; i < 2; i++) TRUE(same(&told[i + 1][0], &alone[i]) && finish[i + 1] == JAMBA_FINISH_LENGTH);

    /* The first prompt again comes from the cache, two answers to it draw with two seeds. */
    request.prompt = prompts[0];
    request.n = 2;
    CHECK(jamba_batch_submit(engine, batch, &request, &numbers[2]));
    if (run()) return 1;
    TRUE(same(&told[3][0], &alone[0]) && !same(&told[3][1], &alone[0]) && n_cached[3] == 3);
    TRUE(seeds[3][0] == 7 && seeds[3][1] == 8);
    request.n = 1;
    sampler.random_seed = 1;
    CHECK(jamba_batch_submit(engine, batch, &request, &numbers[3]));
    if (run()) return 1;
    sampler.random_seed = 0;
    sampler.seed = seeds[4][0];
    memset(&again, 0, sizeof again);
    CHECK(jamba_generate(engine, none, prompts[0], 4, &generate, note, &again, NULL));
    TRUE(same(&told[4][0], &again));
    sampler.seed = 7;

    /* Probabilities of the prompt, a time that is over, a client that has gone. */
    request.prompt_logprobs = 2;
    CHECK(jamba_batch_submit(engine, batch, &request, &numbers[4]));
    request.prompt_logprobs = -1;
    request.timeout = 1e-9;
    CHECK(jamba_batch_submit(engine, batch, &request, &numbers[5]));
    request.timeout = 0;
    CHECK(jamba_batch_submit(engine, batch, &request, &numbers[6]));
    CHECK(jamba_batch_cancel(engine, batch, numbers[6]));
    CHECK(jamba_batch_cancel(engine, batch, numbers[0])); /* has ended */
    if (run()) return 1;
    TRUE(n_prompt_told == 4 && same(&told[5][0], &alone[0]));
    TRUE(finish[6] == JAMBA_FINISH_DEADLINE && told[6][0].n == 0);
    TRUE(told[7][0].n == 0);
    CHECK(jamba_batch_count(engine, batch, &state));
    TRUE(state.waiting == 0 && state.running == 0 && state.cache.hits >= 2 && state.cache.bytes > 0);

    /* A state out of the cache of one batch, into the cache of another. */
    CHECK(jamba_batch_longest(engine, batch, prompts[0], 4, &found));
    CHECK(jamba_snapshot_tokens(found, tokens, 64, &n));
    TRUE(n == 3 && memcmp(tokens, prompts[0], sizeof tokens[0] * 3) == 0);
    CHECK(jamba_batch_close(engine, batch));
    CHECK(jamba_batch_open(engine, &batch_options, &batch));
    CHECK(jamba_batch_insert(engine, batch, found));
    CHECK(jamba_snapshot_close(found));
    CHECK(jamba_batch_submit(engine, batch, &request, &numbers[0]));
    memset(told, 0, sizeof told);
    if (run()) return 1;
    TRUE(same(&told[1][0], &alone[0]) && n_cached[1] == 3);
    /* The state of a prompt that is only read, and an answer that starts from it. */
    request.options = &read_only;
    request.keeps_state = 1;
    request.prompt = prompts[1];
    CHECK(jamba_batch_submit(engine, batch, &request, &numbers[0]));
    if (run()) return 1;
    TRUE(kept.id != 0 && told[2][0].n == 0);
    CHECK(jamba_snapshot_tokens(kept, tokens, 64, &n));
    TRUE(n == 3);
    request.keeps_state = 0;
    request.options = &generate;
    request.state = kept;
    CHECK(jamba_batch_submit(engine, batch, &request, &numbers[0]));
    if (run()) return 1;
    TRUE(same(&told[3][0], &alone[1]) && n_cached[3] == 3);
    request.prompt = prompts[0]; /* another one's state */
    TRUE(jamba_batch_submit(engine, batch, &request, &numbers[0]) == JAMBA_INVALID_ARGUMENT);
    request.state = no_snapshot;
    CHECK(jamba_snapshot_close(kept));
    /* Closing ends what runs and gives its memory back. */
    CHECK(jamba_batch_submit(engine, batch, &request, &numbers[0]));
    CHECK(jamba_batch_close(engine, batch));

    /* A fork, a snapshot in memory and its bytes go on alike. */
    CHECK(jamba_sequence_add(engine, &sequence));
    CHECK(jamba_prefill(engine, sequence, prompts[0], 2, &logits));
    CHECK(jamba_snapshot_take(engine, sequence, no_snapshot, &first));
    CHECK(jamba_prefill(engine, sequence, prompts[0] + 2, 1, &logits));
    CHECK(jamba_snapshot_take(engine, sequence, first, &second));
    CHECK(jamba_sequence_fork(engine, sequence, &fork));
    CHECK(jamba_sequence_tokens(engine, fork, tokens, 64, &n));
    TRUE(n == 3);
    CHECK(jamba_prefill(engine, sequence, prompts[0] + 3, 1, &logits));
    before = logits.rows[0][5];
    CHECK(jamba_prefill(engine, fork, prompts[0] + 3, 1, &logits));
    after = logits.rows[0][5];
    TRUE(memcmp(&before, &after, sizeof before) == 0);
    CHECK(jamba_sequence_remove(engine, fork));
    CHECK(jamba_snapshot_size(second, &size));
    TRUE(size > 0);
    TRUE(jamba_snapshot_to_bytes(second, NULL, 0, &needed) == JAMBA_TOO_SMALL && needed > size);
    bytes = (unsigned char *)malloc(needed);
    CHECK(jamba_snapshot_to_bytes(second, bytes, needed, &n));
    CHECK(jamba_snapshot_from_bytes(engine, bytes, n, &copy));
    bytes[n - 1] ^= 1;
    TRUE(jamba_snapshot_from_bytes(engine, bytes, n, &found) == JAMBA_BAD_PLAN && found.id == 0);
    free(bytes);
    CHECK(jamba_snapshot_restore(engine, copy, &restored));
    CHECK(jamba_prefill(engine, restored, prompts[0] + 3, 1, &logits));
    after = logits.rows[0][5];
    TRUE(memcmp(&before, &after, sizeof before) == 0);
    CHECK(jamba_sequence_remove(engine, restored));

    /* Going back. */
    CHECK(jamba_sequence_checkpoint(engine, sequence));
    CHECK(jamba_prefill(engine, sequence, prompts[1], 4, &logits));
    CHECK(jamba_sequence_rollback(engine, sequence, 4));
    CHECK(jamba_sequence_length(engine, sequence, &n));
    TRUE(n == 4);
    CHECK(jamba_sequence_remove(engine, sequence));

    /* A state with its next token, through a file: three seeds draw what they draw without it. */
    CHECK(jamba_snapshot_with_next(second, prompts[0] + 3, 1, &found));
    CHECK(jamba_snapshot_write(found, argv[2]));
    CHECK(jamba_snapshot_close(found));
    CHECK(jamba_snapshot_read(engine, argv[2], &found));
    CHECK(jamba_snapshot_next(found, tokens, 64, &n));
    TRUE(n == 1 && tokens[0] == prompts[0][3]);
    for (sampler.seed = 1; sampler.seed <= 3; sampler.seed++) {
        struct answer fresh;
        memset(&fresh, 0, sizeof fresh);
        memset(&again, 0, sizeof again);
        CHECK(jamba_generate(engine, none, prompts[0], 4, &generate, note, &fresh, NULL));
        CHECK(jamba_snapshot_restore(engine, found, &restored));
        CHECK(jamba_generate(engine, restored, tokens, n, &generate, note, &again, NULL));
        TRUE(same(&fresh, &again) && fresh.n == NEW);
        CHECK(jamba_sequence_remove(engine, restored));
    }
    CHECK(jamba_snapshot_load(engine, argv[2], &restored)); /* reads the next token */
    CHECK(jamba_sequence_length(engine, restored, &n));
    TRUE(n == 4);
    CHECK(jamba_sequence_remove(engine, restored));

    /* A cache without a batch. */
    CHECK(jamba_cache_open(1 << 20, 512, &cache));
    CHECK(jamba_cache_insert(cache, second));
    CHECK(jamba_prefill_cached(engine, cache, prompts[0], 4, &sequence, &logits));
    after = logits.rows[0][5];
    TRUE(memcmp(&before, &after, sizeof before) == 0);
    CHECK(jamba_cache_count(cache, &counters));
    TRUE(counters.hits == 1 && counters.tokens_saved == 3);
    CHECK(jamba_cache_longest(cache, prompts[1], 1, &found_less));
    TRUE(found_less.id == 0);
    CHECK(jamba_snapshot_close(copy));
    CHECK(jamba_cache_close(cache));
    CHECK(jamba_snapshot_close(first));
    CHECK(jamba_snapshot_close(second));
    CHECK(jamba_snapshot_close(found));
    CHECK(jamba_close(engine));
    puts("each as alone");
    return 0;
}
