/* Scores of labels of the first plan, embeddings of the second. C99 and C++. */
#include <math.h>
#include <string.h>

#include "check.h"

enum { WIDTH = 300 };

int main(int argc, char **argv) {
    const uint32_t tokens[] = {1, 20, 30};
    float scores[WIDTH], probabilities[WIDTH], embedding[WIDTH], mean[WIDTH];
    double sum = 0, norm = 0;
    char label[32];
    size_t n = 0, i;
    jamba_engine classifier, embedder;
    TRUE(argc == 3);
    CHECK(jamba_open(argv[1], NULL, &classifier));
    CHECK(jamba_open(argv[2], NULL, &embedder));

    TRUE(jamba_classify(classifier, tokens, 3, scores, probabilities, WIDTH - 1, &n) == JAMBA_TOO_SMALL);
    TRUE(n == WIDTH);
    CHECK(jamba_classify(classifier, tokens, 3, scores, probabilities, WIDTH, &n));
    for (i = 0; i < n; i++) sum += probabilities[i];
    TRUE(fabs(sum - 1) < 1e-4);
    TRUE(fabs(log(probabilities[0] / probabilities[1]) - (scores[0] - scores[1])) < 1e-3);
    CHECK(jamba_label(classifier, 299, label, sizeof label, &n));
    TRUE(strcmp(label, "label 299") == 0);
    TRUE(jamba_label(classifier, 300, label, sizeof label, &n) == JAMBA_INVALID_ARGUMENT);

    CHECK(jamba_embed(embedder, tokens, 3, JAMBA_POOLING_LAST, 1, embedding, WIDTH, &n));
    for (i = 0; i < n; i++) norm += embedding[i] * embedding[i];
    TRUE(n == WIDTH && fabs(norm - 1) < 1e-4);
    CHECK(jamba_embed(embedder, tokens, 3, JAMBA_POOLING_MEAN, 1, mean, WIDTH, &n));
    TRUE(memcmp(embedding, mean, sizeof mean) != 0);
    TRUE(jamba_embed(embedder, tokens, 3, 7, 1, mean, WIDTH, &n) == JAMBA_INVALID_ARGUMENT);
    TRUE(jamba_embed(classifier, tokens, 3, JAMBA_POOLING_LAST, 1, mean, WIDTH, &n) != JAMBA_OK);
    TRUE(strstr(jamba_last_error(), "expected hidden states") != NULL);
    CHECK(jamba_close(classifier));
    CHECK(jamba_close(embedder));
    puts("scores and embeddings");
    return 0;
}
