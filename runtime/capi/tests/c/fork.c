/* Forks of a process that has opened a plan: a child opens the plan again, and another one goes on with the engine that it
 * inherited. Both get the parent's tokens. */
#define _POSIX_C_SOURCE 200809L
#include <jamba.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { NEW_TOKENS = 8 };

static const uint32_t prompt[3] = {1, 20, 30};

struct answer {
    uint32_t tokens[NEW_TOKENS];
    size_t n;
};

static int note(void *user, const jamba_token *token) {
    struct answer *answer = user;
    if (answer->n < NEW_TOKENS) answer->tokens[answer->n++] = token->token;
    return 0;
}

static int generate(jamba_engine engine, struct answer *answer) {
    jamba_sequence none = {0};
    jamba_generate_options options;
    jamba_generated generated;
    jamba_generate_options_init(&options, sizeof options);
    options.max_new = NEW_TOKENS;
    options.ignore_eos = 1;
    memset(answer, 0, sizeof *answer);
    return jamba_generate(engine, none, prompt, 3, &options, note, answer, &generated) == JAMBA_OK;
}

static int opened(const char *path, jamba_engine *engine) {
    jamba_open_options options;
    memset(&options, 0, sizeof options);
    options.size = sizeof options;
    options.threads = 3;
    return jamba_open(path, &options, engine) == JAMBA_OK;
}

/* 0 if the child has the expected answer. */
static int child(const char *path, jamba_engine engine, const struct answer *expected) {
    struct answer answer;
    if (path && !opened(path, &engine)) return 3;
    if (!generate(engine, &answer)) return 4;
    if (memcmp(&answer, expected, sizeof answer)) return 5;
    return jamba_close(engine) == JAMBA_OK ? 0 : 6;
}

int main(int argc, char **argv) {
    jamba_engine engine;
    struct answer expected;
    int again;
    if (argc != 2 || !opened(argv[1], &engine) || !generate(engine, &expected)) return 2;
    for (again = 0; again < 2; again++) {
        int status;
        pid_t id = fork();
        if (id == 0) {
            alarm(300); /* ends a child that hangs */
            _exit(child(again ? argv[1] : NULL, engine, &expected));
        }
        if (id < 0 || waitpid(id, &status, 0) != id) return 2;
        if (status) {
            fprintf(stderr, "child %d ended with status %#x\n", again, status);
            return 1;
        }
    }
    /* The parent's threads are still there. */
    if (!generate(engine, &expected) || jamba_close(engine) != JAMBA_OK) return 2;
    puts("both children answered");
    return 0;
}
