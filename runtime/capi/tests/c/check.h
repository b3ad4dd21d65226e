/* Ends a test with the line of what failed. */
#ifndef CHECK_H
#define CHECK_H

#include <jamba.h>
#include <stdio.h>

#define CHECK(call)                                                         \
    do {                                                                    \
        if ((call) != JAMBA_OK) {                                           \
            fprintf(stderr, "line %d: %s\n", __LINE__, jamba_last_error()); \
            return 1;                                                       \
        }                                                                   \
    } while (0)
#define TRUE(condition)                                                  \
    do {                                                                 \
        if (!(condition)) {                                              \
            fprintf(stderr, "line %d: not %s\n", __LINE__, #condition);  \
            return 1;                                                    \
        }                                                                \
    } while (0)

#endif
