/* Two threads on one engine: one generates, the other gets JAMBA_BUSY and can cancel. Two threads on two engines run
 * concurrently. */
#include <jamba.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

static jamba_engine engines[2];
static const uint32_t prompt[3] = {1, 20, 30};

struct shared {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    int told;    /* the first token has arrived */
    int go_on;   /* the other thread has checked */
};

static struct shared shared = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 0};

static int wait_once(void *user, const jamba_token *token) {
    (void)user;
    (void)token;
    pthread_mutex_lock(&shared.mutex);
    shared.told = 1;
    pthread_cond_broadcast(&shared.changed);
    while (!shared.go_on) pthread_cond_wait(&shared.changed, &shared.mutex);
    pthread_mutex_unlock(&shared.mutex);
    return 0;
}

static void *work(void *out) {
    jamba_sequence none = {0};
    jamba_generate_options options;
    jamba_generate_options_init(&options, sizeof options);
    options.max_new = 90;
    options.ignore_eos = 1;
    if (jamba_generate(engines[0], none, prompt, 3, &options, wait_once, NULL, (jamba_generated *)out) != JAMBA_OK)
        return (void *)jamba_last_error();
    return NULL;
}

static void *alone(void *index) {
    jamba_sequence none = {0};
    jamba_generated generated;
    int i;
    for (i = 0; i < 20; i++)
        if (jamba_generate(engines[*(int *)index], none, prompt, 3, NULL, NULL, NULL, &generated) != JAMBA_OK) return index;
    return NULL;
}

int main(int argc, char **argv) {
    pthread_t threads[2];
    jamba_generated generated;
    jamba_open_options options;
    void *result;
    size_t length;
    int i, indices[2] = {0, 1};

    if (argc != 2) return 2;
    memset(&options, 0, sizeof options);
    options.size = sizeof options;
    options.threads = 2;
    for (i = 0; i < 2; i++)
        if (jamba_open(argv[1], &options, &engines[i]) != JAMBA_OK) return 1;

    if (pthread_create(&threads[0], NULL, work, &generated) != 0) return 1;
    pthread_mutex_lock(&shared.mutex);
    while (!shared.told) pthread_cond_wait(&shared.changed, &shared.mutex);
    pthread_mutex_unlock(&shared.mutex);
    if (jamba_info(engines[0], NULL, 0, &length) != JAMBA_BUSY) return 1;
    if (strstr(jamba_last_error(), "another call") == NULL) return 1;
    if (jamba_close(engines[0]) != JAMBA_BUSY) return 1;
    if (jamba_cancel(engines[0]) != JAMBA_OK) return 1;
    pthread_mutex_lock(&shared.mutex);
    shared.go_on = 1;
    pthread_cond_broadcast(&shared.changed);
    pthread_mutex_unlock(&shared.mutex);
    pthread_join(threads[0], &result);
    if (result != NULL || generated.finish != JAMBA_FINISH_CANCELLED || generated.n_tokens != 1) return 1;
    if (jamba_cancel_reset(engines[0]) != JAMBA_OK) return 1;

    for (i = 0; i < 2; i++)
        if (pthread_create(&threads[i], NULL, alone, &indices[i]) != 0) return 1;
    for (i = 0; i < 2; i++) {
        pthread_join(threads[i], &result);
        if (result != NULL) return 1;
    }
    for (i = 0; i < 2; i++)
        if (jamba_close(engines[i]) != JAMBA_OK) return 1;
    puts("one at a time on one, both at once on two");
    return 0;
}
