/* Streams text from a prompt. C99 and C++.
 *
 *     cc generate.c $(pkg-config --cflags --libs jamba) -o generate && ./generate jamba.plan "Once upon a time."
 */
#include <jamba.h>
#include <stdio.h>
#include <string.h>

static int failed(const char *what) {
    fprintf(stderr, "%s: %s\n", what, jamba_last_error());
    return 1;
}

static int print(void *user, const jamba_token *token) {
    size_t *n_calls = (size_t *)user;
    *n_calls += 1;
    fwrite(token->text, 1, token->text_length, stdout);
    fflush(stdout);
    return 0; /* continue */
}

int main(int argc, char **argv) {
    jamba_engine engine;
    jamba_sequence none = {0};
    jamba_sampler_options sampler;
    jamba_generate_options options;
    jamba_generated generated;
    uint32_t prompt[4096];
    size_t n_prompt, n_calls = 0;
    const char *stop[1] = {"\n\n"};

    if (argc != 3) {
        fprintf(stderr, "usage: generate PLAN PROMPT\n");
        return 2;
    }
    if (jamba_open(argv[1], NULL, &engine) != JAMBA_OK) return failed("open");
    if (jamba_encode(engine, argv[2], strlen(argv[2]), prompt, 4096, &n_prompt) != JAMBA_OK) return failed("encode");

    if (jamba_sampler_options_of_model(engine, &sampler, sizeof sampler) != JAMBA_OK) return failed("sampler options");
    sampler.seed = 1;
    if (jamba_generate_options_of_model(engine, &options, sizeof options) != JAMBA_OK) return failed("options");
    options.max_new = 40;
    options.sampler = &sampler;
    options.stop = stop;
    options.n_stop = 1;
    if (jamba_generate(engine, none, prompt, n_prompt, &options, print, &n_calls, &generated) != JAMBA_OK)
        return failed("generate");
    printf("\n[%u tokens, finish %d]\n", (unsigned)generated.n_tokens, (int)generated.finish);
    if (n_calls < generated.n_tokens) return 1;
    return jamba_close(engine) == JAMBA_OK ? 0 : failed("close");
}
