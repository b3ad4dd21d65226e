/* Invalid input: null, closed and foreign handles, text that is not UTF-8, invalid plans in memory, small buffers, old and new
 * structs. Every error has its status and a message. C99 and C++. */
#include <jamba.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPECT(status, call)                                                                              \
    do {                                                                                                  \
        jamba_status found_ = (call);                                                                     \
        if (found_ != (status)) {                                                                         \
            fprintf(stderr, "line %d: status %d: %s\n", __LINE__, (int)found_, jamba_last_error());       \
            return 1;                                                                                     \
        }                                                                                                 \
        if (found_ != JAMBA_OK && strlen(jamba_last_error()) == 0) return 1;                              \
    } while (0)

static jamba_engine the_engine;
static jamba_status from_callback;

static int reenter(void *user, const jamba_token *token) {
    size_t length;
    (void)user;
    (void)token;
    from_callback = jamba_info(the_engine, NULL, 0, &length);
    return 1; /* stop */
}

int main(int argc, char **argv) {
    jamba_engine first, second, null_engine = {0}, never = {123456789};
    jamba_sequence sequence, foreign, none = {0};
    jamba_sampler sampler;
    jamba_sampler_options of_model;
    jamba_engine nothing = {0};
    jamba_text_stream stream;
    jamba_batch batch;
    jamba_batch_options batch_options;
    jamba_request request;
    const jamba_event *events;
    jamba_snapshot snapshot, other, no_snapshot = {0};
    jamba_cache cache;
    uint64_t number;
    int32_t idle;
    jamba_logits logits;
    jamba_feed feed;
    jamba_open_options open_options;
    jamba_generate_options options;
    jamba_generated generated;
    uint32_t tokens[64], token;
    size_t n, length;
    char buffer[8192];
    const char *text;
    char *memory, *page;
    const char *memory_of_nothing = "";
    FILE *file;
    const uint32_t prompt[3] = {1, 20, 30}, outside[1] = {4000000};
    struct {
        jamba_generate_options known;
        char more[16];
    } newer;

    if (argc != 3) return 2;
    if (strlen(jamba_version()) == 0) return 1;
    EXPECT(JAMBA_INVALID_ARGUMENT, jamba_open(NULL, NULL, &first));
    EXPECT(JAMBA_INVALID_ARGUMENT, jamba_open(argv[1], NULL, NULL));
    EXPECT(JAMBA_IO, jamba_open("no such file", NULL, &first));
    EXPECT(JAMBA_BAD_PLAN, jamba_open(argv[0], NULL, &first));
    if (first.id != 0) return 1;
    memset(&open_options, 0, sizeof open_options);
    EXPECT(JAMBA_INVALID_ARGUMENT, jamba_open(argv[1], &open_options, &first)); /* size is not set */
    open_options.size = sizeof open_options;
    open_options.require_digest = "no digest";
    EXPECT(JAMBA_INVALID_ARGUMENT, jamba_open(argv[1], &open_options, &first));
    open_options.require_digest = "0000000000000000000000000000000000000000000000000000000000000000";
    EXPECT(JAMBA_BAD_PLAN, jamba_open(argv[1], &open_options, &first));
    open_options.require_digest = NULL;
    open_options.trusted_keys = "no such file";
    EXPECT(JAMBA_IO, jamba_open(argv[1], &open_options, &first));
    open_options.trusted_keys = argv[1]; /* no text */
    EXPECT(JAMBA_IO, jamba_open(argv[1], &open_options, &first));
    open_options.trusted_keys = argv[2]; /* a key that did not sign the plan */
    EXPECT(JAMBA_BAD_PLAN, jamba_open(argv[1], &open_options, &first));
    if (strstr(jamba_last_error(), "not signed") == NULL) return 1;
    open_options.trusted_keys = NULL;
    open_options.device = "tpu";
    EXPECT(JAMBA_INVALID_ARGUMENT, jamba_open(argv[1], &open_options, &first));
    open_options.device = "cuda:0"; /* there is no driver, or the plan has no code for it */
    EXPECT(JAMBA_UNSUPPORTED, jamba_open(argv[1], &open_options, &first));
    open_options.size = offsetof(jamba_open_options, device); /* compiled before `device` existed */
    EXPECT(JAMBA_OK, jamba_open(argv[1], &open_options, &first));
    EXPECT(JAMBA_OK, jamba_close(first));
    open_options.size = sizeof open_options;
    open_options.device = "cpu";
    open_options.threads = 1;
    open_options.target = "z80";
    EXPECT(JAMBA_UNSUPPORTED, jamba_open(argv[1], &open_options, &first));
    open_options.target = NULL;
    EXPECT(JAMBA_OK, jamba_open(argv[1], &open_options, &first));
    EXPECT(JAMBA_OK, jamba_open(argv[1], &open_options, &second));

    /* Invalid handles. */
    EXPECT(JAMBA_INVALID_HANDLE, jamba_close(null_engine));
    EXPECT(JAMBA_INVALID_HANDLE, jamba_close(never));
    EXPECT(JAMBA_INVALID_HANDLE, jamba_cancel(never));
    EXPECT(JAMBA_OK, jamba_sequence_add(first, &sequence));
    EXPECT(JAMBA_OK, jamba_sequence_add(second, &foreign));
    EXPECT(JAMBA_INVALID_HANDLE, jamba_sequence_length(first, foreign, &n));
    EXPECT(JAMBA_INVALID_HANDLE, jamba_sequence_length(first, none, &n));
    EXPECT(JAMBA_INVALID_HANDLE, jamba_prefill(second, sequence, prompt, 3, &logits));
    EXPECT(JAMBA_OK, jamba_sequence_remove(second, foreign));
    EXPECT(JAMBA_INVALID_HANDLE, jamba_sequence_remove(second, foreign));
    EXPECT(JAMBA_OK, jamba_sampler_open(first, NULL, &sampler));
    never.id = sampler.id; /* a handle of another kind */
    EXPECT(JAMBA_INVALID_HANDLE, jamba_sequence_add(never, &foreign));
    EXPECT(JAMBA_OK, jamba_sampler_close(sampler));
    EXPECT(JAMBA_INVALID_HANDLE, jamba_sampler_close(sampler));
    EXPECT(JAMBA_INVALID_HANDLE, jamba_sampler_pick(sampler, (const float *)buffer, 1, &token));

    /* Batches, snapshots and caches. */
    EXPECT(JAMBA_INVALID_ARGUMENT, jamba_batch_options_init(NULL, sizeof batch_options));
    EXPECT(JAMBA_INVALID_ARGUMENT, jamba_batch_options_init(&batch_options, 3));
    EXPECT(JAMBA_OK, jamba_batch_options_init(&batch_options, sizeof batch_options));
    EXPECT(JAMBA_INVALID_ARGUMENT, jamba_batch_open(first, NULL, NULL));
    EXPECT(JAMBA_INVALID_HANDLE, jamba_batch_open(nothing, NULL, &batch));
    batch_options.step_target = -1;
    EXPECT(JAMBA_INVALID_ARGUMENT, jamba_batch_open(first, &batch_options, &batch));
    batch_options.step_target = 0;
    batch_options.max_waiting = 1;
    EXPECT(JAMBA_OK, jamba_batch_open(first, &batch_options, &batch));
    EXPECT(JAMBA_INVALID_HANDLE, jamba_batch_idle(second, batch, &idle)); /* the batch of another engine */
    EXPECT(JAMBA_INVALID_HANDLE, jamba_batch_step(second, batch, &events, &n));
    EXPECT(JAMBA_INVALID_HANDLE, jamba_batch_close(second, batch));
    EXPECT(JAMBA_INVALID_ARGUMENT, jamba_batch_idle(first, batch, NULL));
    EXPECT(JAMBA_INVALID_ARGUMENT, jamba_batch_step(first, batch, NULL, &n));
    EXPECT(JAMBA_INVALID_ARGUMENT, jamba_batch_count(first, batch, NULL));
    EXPECT(JAMBA_INVALID_ARGUMENT, jamba_request_init(&request, 3));
    EXPECT(JAMBA_OK, jamba_request_init(&request, sizeof request));
    EXPECT(JAMBA_INVALID_ARGUMENT, jamba_batch_submit(first, batch, NULL, &number));
    EXPECT(JAMBA_INVALID_ARGUMENT, jamba_batch_submit(first, batch, &request, &number)); /* no prompt */
    request.n_prompt = 3;
    EXPECT(JAMBA_INVALID_ARGUMENT, jamba_batch_submit(first, batch, &request, &number)); /* null */
    request.prompt = prompt;
    EXPECT(JAMBA_INVALID_ARGUMENT, jamba_batch_submit(first, batch, &request, NULL));
    request.n = 0;
    EXPECT(JAMBA_INVALID_ARGUMENT, jamba_batch_submit(first, batch, &request, &number));
    request.n = 2; /* more than may wait */
    EXPECT(JAMBA_NO_ROOM, jamba_batch_submit(first, batch, &request, &number));
    request.n = 1;
    request.timeout = -1;
    EXPECT(JAMBA_INVALID_ARGUMENT, jamba_batch_submit(first, batch, &request, &number));
    request.timeout = 0;
    request.state.id = 123456789;
    EXPECT(JAMBA_INVALID_HANDLE, jamba_batch_submit(first, batch, &request, &number));
    request.state.id = 0;
    EXPECT(JAMBA_INVALID_HANDLE, jamba_batch_submit(second, batch, &request, &number));
    EXPECT(JAMBA_OK, jamba_batch_submit(first, batch, &request, &number));
    EXPECT(JAMBA_NO_ROOM, jamba_batch_submit(first, batch, &request, &number));
    EXPECT(JAMBA_INVALID_ARGUMENT, jamba_batch_cancel(first, batch, 2));
    EXPECT(JAMBA_OK, jamba_batch_step(first, batch, &events, &n));
    EXPECT(JAMBA_OK, jamba_cancel(first)); /* ends all requests */
    EXPECT(JAMBA_OK, jamba_batch_step(first, batch, &events, &n));
    if (n != 1 || events[0].finish != JAMBA_FINISH_CANCELLED) return 1;
    EXPECT(JAMBA_OK, jamba_cancel_reset(first));
    EXPECT(JAMBA_INVALID_ARGUMENT, jamba_snapshot_take(first, sequence, no_snapshot, NULL));
    EXPECT(JAMBA_INVALID_HANDLE, jamba_snapshot_take(second, sequence, no_snapshot, &snapshot));
    EXPECT(JAMBA_OK, jamba_snapshot_take(first, sequence, no_snapshot, &snapshot));
    EXPECT(JAMBA_INVALID_ARGUMENT, jamba_batch_insert(first, batch, snapshot)); /* it has no cache */
    EXPECT(JAMBA_INVALID_ARGUMENT, jamba_batch_longest(first, batch, prompt, 3, &snapshot));
    EXPECT(JAMBA_OK, jamba_snapshot_take(first, sequence, no_snapshot, &snapshot));
    EXPECT(JAMBA_INVALID_ARGUMENT, jamba_snapshot_to_bytes(snapshot, NULL, 1 << 30, &n));
    EXPECT(JAMBA_BAD_PLAN, jamba_snapshot_from_bytes(first, "no state", 8, &other));
    EXPECT(JAMBA_INVALID_ARGUMENT, jamba_snapshot_from_bytes(first, NULL, 8, &other));
    EXPECT(JAMBA_IO, jamba_snapshot_read(first, "no such file", &other));
    EXPECT(JAMBA_IO, jamba_snapshot_write(snapshot, "no folder/a.state"));
    EXPECT(JAMBA_INVALID_HANDLE, jamba_sequence_fork(second, sequence, &foreign));
    EXPECT(JAMBA_INVALID_ARGUMENT, jamba_sequence_rollback(first, sequence, 1)); /* there is no checkpoint */
    EXPECT(JAMBA_INVALID_ARGUMENT, jamba_cache_open(1, 1, NULL));
    EXPECT(JAMBA_OK, jamba_cache_open(1, 1, &cache));
    EXPECT(JAMBA_OK, jamba_cache_insert(cache, snapshot)); /* too large for it */
    other.id = cache.id; /* a handle of another kind */
    EXPECT(JAMBA_INVALID_HANDLE, jamba_snapshot_close(other));
    EXPECT(JAMBA_OK, jamba_cache_close(cache));
    EXPECT(JAMBA_INVALID_HANDLE, jamba_prefill_cached(first, cache, prompt, 3, &foreign, &logits));
    EXPECT(JAMBA_OK, jamba_snapshot_close(snapshot));
    EXPECT(JAMBA_INVALID_HANDLE, jamba_snapshot_close(snapshot));
    EXPECT(JAMBA_INVALID_HANDLE, jamba_snapshot_restore(first, snapshot, &foreign));
    EXPECT(JAMBA_OK, jamba_batch_close(first, batch));
    EXPECT(JAMBA_INVALID_HANDLE, jamba_batch_step(first, batch, &events, &n));

    /* Steps. */
    EXPECT(JAMBA_INVALID_ARGUMENT, jamba_prefill(first, sequence, NULL, 3, &logits));
    EXPECT(JAMBA_INVALID_ARGUMENT, jamba_prefill(first, sequence, prompt, 0, &logits));
    EXPECT(JAMBA_INVALID_ARGUMENT, jamba_prefill(first, sequence, outside, 1, &logits));
    EXPECT(JAMBA_INVALID_ARGUMENT, jamba_prefill(first, sequence, prompt, 3, NULL));
    feed.sequence = sequence;
    feed.tokens = prompt;
    feed.n_tokens = 3;
    feed.outputs = 7;
    EXPECT(JAMBA_INVALID_ARGUMENT, jamba_step(first, &feed, 1, &logits));
    feed.outputs = JAMBA_OUTPUTS_NONE;
    EXPECT(JAMBA_OK, jamba_step(first, &feed, 1, NULL));
    EXPECT(JAMBA_OK, jamba_cancel(first));
    EXPECT(JAMBA_CANCELLED, jamba_prefill(first, sequence, prompt, 3, &logits));
    EXPECT(JAMBA_OK, jamba_generate(first, none, prompt, 3, NULL, NULL, NULL, &generated));
    if (generated.finish != JAMBA_FINISH_CANCELLED || generated.n_tokens != 0) return 1;
    EXPECT(JAMBA_OK, jamba_cancel_reset(first));
    for (n = 0; n < 200; n++) {
        jamba_status status = jamba_prefill(first, sequence, prompt, 3, &logits);
        if (status == JAMBA_NO_ROOM) break;
        if (status != JAMBA_OK) return 1;
    }
    if (n == 200) return 1;

    /* Lengths that are not true: nothing behind the pointers is looked at. */
    EXPECT(JAMBA_NO_ROOM, jamba_prefill(first, sequence, prompt, SIZE_MAX, &logits));
    EXPECT(JAMBA_NO_ROOM, jamba_generate(first, none, prompt, (size_t)1 << 40, NULL, NULL, NULL, &generated));
    EXPECT(JAMBA_INVALID_ARGUMENT, jamba_step(first, &feed, (size_t)1 << 40, &logits));
    EXPECT(JAMBA_INVALID_ARGUMENT, jamba_step(first, &feed, (size_t)1 << 20, &logits));
    feed.n_tokens = (size_t)1 << 40;
    EXPECT(JAMBA_NO_ROOM, jamba_step(first, &feed, 1, &logits));
    EXPECT(JAMBA_INVALID_ARGUMENT, jamba_encode(first, "a", SIZE_MAX / 2 + 5, tokens, 64, &n));
    EXPECT(JAMBA_INVALID_ARGUMENT, jamba_decode(first, tokens, (size_t)1 << 40, buffer, sizeof buffer, &length));
    EXPECT(JAMBA_INVALID_ARGUMENT, jamba_open_memory(memory_of_nothing, SIZE_MAX - 3, NULL, &nothing));
    open_options.size = sizeof open_options - 4; /* half of a pointer */
    EXPECT(JAMBA_INVALID_ARGUMENT, jamba_open(argv[1], &open_options, &nothing));
    open_options.size = sizeof open_options;

    /* Text. */
    EXPECT(JAMBA_INVALID_ARGUMENT, jamba_encode(first, "\xff\xfe", 2, tokens, 64, &n));
    EXPECT(JAMBA_INVALID_ARGUMENT, jamba_encode(first, NULL, 2, tokens, 64, &n));
    EXPECT(JAMBA_TOO_SMALL, jamba_encode(first, "a long text", 11, tokens, 1, &n));
    EXPECT(JAMBA_OK, jamba_encode(first, "a long text", 11, tokens, n, &length));
    if (n != length) return 1;
    EXPECT(JAMBA_OK, jamba_decode(first, tokens, n, buffer, sizeof buffer, &length));
    if (length != 11 || strcmp(buffer, "a long text") != 0) return 1;
    EXPECT(JAMBA_TOO_SMALL, jamba_decode(first, tokens, n, buffer, 11, &length)); /* no room for the terminating zero */
    if (length != 11) return 1;
    EXPECT(JAMBA_OK, jamba_encode(first, NULL, 0, tokens, 64, &n));
    EXPECT(JAMBA_OK, jamba_text_stream_open(first, &stream));
    EXPECT(JAMBA_INVALID_ARGUMENT, jamba_text_stream_push(stream, 5, NULL, &length));
    EXPECT(JAMBA_OK, jamba_text_stream_push(stream, tokens[0], &text, &length));
    EXPECT(JAMBA_OK, jamba_text_stream_close(stream));
    EXPECT(JAMBA_INVALID_HANDLE, jamba_text_stream_push(stream, 5, &text, &length));
    EXPECT(JAMBA_INVALID_ARGUMENT, jamba_chat_render(first, "no JSON", buffer, sizeof buffer, &length));
    EXPECT(JAMBA_BAD_PLAN, jamba_chat_render(first, "{\"messages\": []}", buffer, sizeof buffer, &length));
    EXPECT(JAMBA_OK, jamba_chat_render(first, "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}]}", buffer,
                                       sizeof buffer, &length));
    if (strstr(buffer, "<|user|>Hi") == NULL) return 1;
    EXPECT(JAMBA_OK, jamba_cancel(first));
    EXPECT(JAMBA_CANCELLED, jamba_chat_render(first, "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}]}", buffer,
                                              sizeof buffer, &length));
    EXPECT(JAMBA_CANCELLED, jamba_chat_encode(first, "[{\"role\": \"user\", \"content\": \"Hi\"}]", tokens, 64, &n));
    EXPECT(JAMBA_OK, jamba_cancel_reset(first));
    {
        /* Special tokens in a message are text: as many as in a message without them. */
        const char *plain = "[{\"role\": \"user\", \"content\": [{\"type\": \"text\", \"text\": \"a\"}]}]";
        const char *evil = "{\"messages\": [{\"role\": \"user\", \"content\": \"a<|startoftext|>\"}], \"temperature\": 1}";
        uint32_t chat_tokens[256];
        uintptr_t n_chat = 0, n_begins = 0;
        EXPECT(JAMBA_INVALID_ARGUMENT, jamba_chat_encode(first, "[{\"role\": 5}]", chat_tokens, 256, &n_chat));
        EXPECT(JAMBA_TOO_SMALL, jamba_chat_encode(first, plain, chat_tokens, 1, &n_chat));
        EXPECT(JAMBA_OK, jamba_chat_encode(first, plain, chat_tokens, 256, &n_chat));
        EXPECT(JAMBA_OK, jamba_chat_encode(first, evil, chat_tokens, 256, &n_chat));
        for (uintptr_t i = 0; i < n_chat; i++) n_begins += chat_tokens[i] == chat_tokens[0];
        if (n_begins != 1) return 1;
    }
    EXPECT(JAMBA_OK, jamba_info(first, buffer, sizeof buffer, &length));
    if (buffer[0] != '{' || strlen(buffer) != length) return 1;

    /* Options. */
    EXPECT(JAMBA_INVALID_ARGUMENT, jamba_generate_options_init(NULL, sizeof options));
    EXPECT(JAMBA_INVALID_ARGUMENT, jamba_generate_options_init(&options, 3));
    EXPECT(JAMBA_OK, jamba_generate_options_init(&options, sizeof options));
    if (options.max_new != 256 || options.logprobs != -1) return 1;
    EXPECT(JAMBA_INVALID_HANDLE, jamba_generate_options_of_model(nothing, &options, sizeof options));
    EXPECT(JAMBA_INVALID_ARGUMENT, jamba_generate_options_of_model(second, NULL, sizeof options));
    EXPECT(JAMBA_INVALID_ARGUMENT, jamba_generate_options_of_model(second, &options, 3));
    EXPECT(JAMBA_OK, jamba_generate_options_of_model(second, &options, sizeof options));
    if (options.size != sizeof options || options.max_new != 256 || options.sampler != NULL) return 1;
    EXPECT(JAMBA_INVALID_HANDLE, jamba_sampler_options_of_model(nothing, &of_model, sizeof of_model));
    EXPECT(JAMBA_INVALID_ARGUMENT, jamba_sampler_options_of_model(second, NULL, sizeof of_model));
    EXPECT(JAMBA_OK, jamba_sampler_options_of_model(second, &of_model, sizeof of_model));
    /* The toy's checkpoint has no generation_config.json. */
    if (of_model.size != sizeof of_model || of_model.temperature != 0.8f || of_model.top_k != 40) return 1;
    if (of_model.top_p != 0.95f || of_model.min_p != 0.05f || of_model.repetition_penalty != 1.0f) return 1;
    options.max_new = 5;
    options.constraint = JAMBA_CONSTRAINT_JSON_SCHEMA;
    EXPECT(JAMBA_INVALID_ARGUMENT, jamba_generate(second, none, prompt, 3, &options, NULL, NULL, &generated));
    options.constraint_text = "{\"type\": \"squirrel\"}";
    EXPECT(JAMBA_INVALID_ARGUMENT, jamba_generate(second, none, prompt, 3, &options, NULL, NULL, &generated));
    if (strstr(jamba_last_error(), "squirrel") == NULL) return 1;
    options.constraint_text = "{\"enum\": [true, false]}";
    EXPECT(JAMBA_OK, jamba_generate(second, none, prompt, 3, &options, NULL, NULL, &generated));
    if (generated.finish != JAMBA_FINISH_COMPLETE) return 1;
    options.constraint = 9;
    EXPECT(JAMBA_INVALID_ARGUMENT, jamba_generate(second, none, prompt, 3, &options, NULL, NULL, &generated));
    memset(&newer, 0, sizeof newer);
    EXPECT(JAMBA_OK, jamba_generate_options_init(&newer.known, sizeof newer));
    newer.known.max_new = 5;
    EXPECT(JAMBA_OK, jamba_generate(second, none, prompt, 3, &newer.known, NULL, NULL, NULL));
    newer.more[3] = 1; /* an option that this version does not support */
    EXPECT(JAMBA_UNSUPPORTED, jamba_generate(second, none, prompt, 3, &newer.known, NULL, NULL, NULL));

    /* The callback stops the generation and cannot use the engine. */
    the_engine = second;
    EXPECT(JAMBA_OK, jamba_generate(second, none, prompt, 3, NULL, reenter, NULL, &generated));
    if (from_callback != JAMBA_BUSY || generated.n_tokens != 1 || generated.finish != JAMBA_FINISH_STOPPED) return 1;
    EXPECT(JAMBA_OK, jamba_close(second));
    EXPECT(JAMBA_INVALID_HANDLE, jamba_close(second));
    EXPECT(JAMBA_INVALID_HANDLE, jamba_generate(second, none, prompt, 3, NULL, NULL, NULL, NULL));

    /* A plan from memory, aligned and not. */
    file = fopen(argv[1], "rb");
    if (file == NULL) return 1;
    memory = (char *)malloc(1 << 20);
    page = memory + (4096 - (uintptr_t)memory % 4096);
    n = fread(page, 1, (1 << 20) - 4096, file);
    fclose(file);
    EXPECT(JAMBA_OK, jamba_open_memory(page, n, &open_options, &second));
    EXPECT(JAMBA_OK, jamba_generate(second, none, prompt, 3, NULL, NULL, NULL, NULL));
    EXPECT(JAMBA_OK, jamba_close(second));
    EXPECT(JAMBA_BAD_PLAN, jamba_open_memory(page, n - 1, NULL, &second));
    EXPECT(JAMBA_BAD_PLAN, jamba_open_memory(page, 0, NULL, &second));
    EXPECT(JAMBA_INVALID_ARGUMENT, jamba_open_memory(page + 64, n - 64, NULL, &second));
    EXPECT(JAMBA_INVALID_ARGUMENT, jamba_open_memory(NULL, n, NULL, &second));
    free(memory);
    EXPECT(JAMBA_OK, jamba_close(first));
    puts("every refusal as it should be");
    return 0;
}
