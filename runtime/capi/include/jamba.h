/* libjamba: runs Jamba plans. Made from runtime/capi by cbindgen; do not edit.
 *
 * Every call answers a jamba_status; jamba_last_error() is the message of this thread's last refusal. Pointers point to as
 * many values as the call says, aligned, for the length of the call; null is refused where nothing else is said. What a
 * pointer points to cannot be checked: a dangling one is the caller's fault. Handles are checked: one that was closed, or
 * belongs to another engine, is refused.
 *
 * One thread at a time may be in a call on an engine, a sampler or a stream; another one gets JAMBA_BUSY and may try again.
 * Different ones do not disturb each other. jamba_cancel may be called at any time, but not from a signal handler.
 */

#ifndef JAMBA_H
#define JAMBA_H

#include <stddef.h>
#include <stdint.h>

// Stands for a token where text comes without one.
#define JAMBA_NO_TOKEN UINT32_MAX

// What a call answers; jamba_last_error has the words.
typedef enum {
  // Done.
  JAMBA_OK = 0,
  // An argument is null where it may not be, is not UTF-8, or lies outside its range.
  JAMBA_INVALID_ARGUMENT = 1,
  // The handle was closed, belongs to something else, or never was one.
  JAMBA_INVALID_HANDLE = 2,
  // Another thread, or a callback's caller, is in a call on the same handle.
  JAMBA_BUSY = 3,
  // The file system refused.
  JAMBA_IO = 4,
  // The plan, or the saved state, is damaged, of another format, or belongs to another plan.
  JAMBA_BAD_PLAN = 5,
  // This machine, this plan or this build of the library cannot do it.
  JAMBA_UNSUPPORTED = 6,
  // The system has no memory, or no thread, for it.
  JAMBA_NO_MEMORY = 7,
  // The context or a pool is full: nothing changed; remove a sequence and try again.
  JAMBA_NO_ROOM = 8,
  // jamba_cancel was called.
  JAMBA_CANCELLED = 9,
  // The buffer is too small: the length that is needed was stored.
  JAMBA_TOO_SMALL = 10,
  // A fault of ours: please report it. An engine in which it happened can only be closed.
  JAMBA_INTERNAL = 11,
  // The GPU is gone. The engine can only be closed.
  JAMBA_DEVICE_LOST = 12,
} jamba_status;

// Which rows of logits a sequence's share of a step returns.
typedef enum {
  // None: more of the prompt follows.
  JAMBA_OUTPUTS_NONE = 0,
  // That of the last token.
  JAMBA_OUTPUTS_LAST = 1,
  // Those of every token.
  JAMBA_OUTPUTS_ALL = 2,
} jamba_outputs;

// What the text of an answer has to be.
typedef enum {
  // Anything.
  JAMBA_CONSTRAINT_NONE = 0,
  // JSON that satisfies a JSON schema.
  JAMBA_CONSTRAINT_JSON_SCHEMA = 1,
  // A match of a regular expression.
  JAMBA_CONSTRAINT_REGEX = 2,
  // A text of a grammar, in llguidance's variant of Lark.
  JAMBA_CONSTRAINT_LARK = 3,
} jamba_constraint;

// Why generation ended.
typedef enum {
  // The model ended the text.
  JAMBA_FINISH_EOS = 0,
  // As many tokens as were asked for.
  JAMBA_FINISH_LENGTH = 1,
  // The context or the KV pool is full.
  JAMBA_FINISH_NO_ROOM = 2,
  // A stop string, a stop token, or the callback.
  JAMBA_FINISH_STOPPED = 3,
  // jamba_cancel was called.
  JAMBA_FINISH_CANCELLED = 4,
  // The text is what the constraint asks for, and nothing may follow it.
  JAMBA_FINISH_COMPLETE = 5,
} jamba_finish;

// How to open a plan. Set `size` to sizeof(jamba_open_options); zero means the default everywhere else.
typedef struct {
  // Bytes of this struct.
  uintptr_t size;
  // Threads, the caller's included; 0 for one for every core.
  uintptr_t threads;
  // The target whose code is loaded, "x86-64-v3"; null for the best that this machine runs.
  const char *target;
  // Nonzero: do not compare the weights with their digest, which opens large plans sooner.
  int trust_weights;
  // Nonzero: make all memory resident now.
  int prefault;
  // The device, "cpu" or "cuda:0"; null for the CPU.
  const char *device;
} jamba_open_options;

// A plan that is open. One thread at a time may be in a call on it: another one gets JAMBA_BUSY at once. Engines do not
// disturb each other. A handle that was closed is refused for ever.
typedef struct {
  // 0 is no engine.
  uint64_t id;
} jamba_engine;

// A sequence of an engine. Every other engine refuses it, and its own once it was removed.
typedef struct {
  // 0 is no sequence.
  uint64_t id;
} jamba_sequence;

// What one sequence gets in one step.
typedef struct {
  // The sequence.
  jamba_sequence sequence;
  // Its next tokens.
  const uint32_t *tokens;
  // Number of tokens, at least 1.
  uintptr_t n_tokens;
  // The logits that are wanted: a jamba_outputs.
  int32_t outputs;
} jamba_feed;

// Rows of logits in the engine's own memory: valid until the next call on the engine.
typedef struct {
  // Rows, in order of the feeds and within a feed of its tokens: `vocab` floats each.
  const float *const *rows;
  // Number of rows.
  uintptr_t n_rows;
  // Number of floats in a row: the size of the vocabulary.
  uintptr_t vocab;
} jamba_logits;

// A token, and what is added to its logit.
typedef struct {
  // The token.
  uint32_t token;
  // What is added; negative infinity forbids the token.
  float bias;
} jamba_logit_bias;

// How tokens are picked. jamba_sampler_options_init sets all to what they are by default: greedy.
typedef struct {
  // Bytes of this struct: set by jamba_sampler_options_init.
  uintptr_t size;
  // Logits are divided by it; 0 picks the largest.
  float temperature;
  // Only the likeliest tokens that together reach this probability are drawn from; 1 for all.
  float top_p;
  // Only tokens with at least this share of the likeliest one's probability are drawn from; 0 for all.
  float min_p;
  // Logits of tokens that occurred are divided by it when positive, else multiplied; 1 for none.
  float repetition_penalty;
  // Taken from the logits of tokens that were picked, however often; 0 for none.
  float presence_penalty;
  // Taken from the logits of tokens that were picked, once for each time; 0 for none.
  float frequency_penalty;
  // Only the k largest logits are drawn from; 0 for all.
  uintptr_t top_k;
  // Seed of the draws.
  uint64_t seed;
  // Biases; may be null where there are none.
  const jamba_logit_bias *logit_bias;
  // Number of biases.
  uintptr_t n_logit_bias;
} jamba_sampler_options;

// Picks the tokens of one sequence. Not bound to an engine's life.
typedef struct {
  // 0 is no sampler.
  uint64_t id;
} jamba_sampler;

// How to generate. jamba_generate_options_init sets all to what they are by default.
typedef struct {
  // Bytes of this struct: set by jamba_generate_options_init.
  uintptr_t size;
  // Most tokens to generate; 256 by default.
  uintptr_t max_new;
  // How they are picked; null for greedy.
  const jamba_sampler_options *sampler;
  // Tokens that end the answer; may be null where there are none.
  const uint32_t *stop_tokens;
  // Number of those.
  uintptr_t n_stop_tokens;
  // Texts that end the answer and are no part of it; may be null where there are none.
  const char *const *stop;
  // Number of those.
  uintptr_t n_stop;
  // What the text has to be: a jamba_constraint.
  int32_t constraint;
  // Nonzero: go on after a token that ends a text.
  int ignore_eos;
  // The schema, expression or grammar.
  const char *constraint_text;
  // How many of the likeliest tokens to tell in each one's place; -1 for no probabilities at all, the default.
  int32_t logprobs;
  // Nonzero: make no text of the tokens.
  int tokens_only;
} jamba_generate_options;

// A token and the natural logarithm of its probability.
typedef struct {
  // The token.
  uint32_t token;
  // Of the softmax of the logits as the model gave them, before whatever changes what is picked.
  float logprob;
} jamba_logprob;

// What jamba_generate tells of. Valid during the callback.
typedef struct {
  // The token; JAMBA_NO_TOKEN in the last call, where text was held back until it was known that no more comes.
  uint32_t token;
  // Its logprob, where logprobs were asked for.
  float logprob;
  // The text that is certain now, in UTF-8, with a zero behind it: whole characters, no part of a stop string.
  const char *text;
  // Bytes of the text.
  uintptr_t text_length;
  // The likeliest tokens in its place, likeliest first.
  const jamba_logprob *top;
  // Number of those.
  uintptr_t n_top;
} jamba_token;

// Hears of each token; nonzero ends the answer. Calls on the same engine are refused with JAMBA_BUSY meanwhile. It must
// return: no longjmp and no C++ exception may leave it.
typedef int (*jamba_on_token)(void *user, const jamba_token *token);

// What was generated, and how long it took.
typedef struct {
  // Number of new tokens.
  uintptr_t n_tokens;
  // Why there are no more: a jamba_finish.
  int32_t finish;
  // Time of the prompt, in seconds.
  double prefill_seconds;
  // Time of everything after that but the callback's, in seconds.
  double decode_seconds;
  // Steps that this took.
  uintptr_t decode_steps;
} jamba_generated;

// The text of tokens that come one by one.
typedef struct {
  // 0 is no stream.
  uint64_t id;
} jamba_text_stream;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// The message of the last call on this thread that was refused; empty where none was. Valid until the next one is.
const char *jamba_last_error(void);

// The version of the library: "0.1.0".
const char *jamba_version(void);

// Opens a plan file. `options` may be null.
jamba_status jamba_open(const char *path, const jamba_open_options *options, jamba_engine *engine);

// Opens a plan that is in memory: `bytes` bytes that begin on a page of 4096, and that stay as they are until the
// engine is closed. Nothing is copied and no file is touched. `options` may be null.
jamba_status jamba_open_memory(const void *data,
                               uintptr_t bytes,
                               const jamba_open_options *options,
                               jamba_engine *engine);

// Closes an engine and its sequences. Refused with JAMBA_BUSY while another thread is in a call on it.
jamba_status jamba_close(jamba_engine engine);

// Ends what the engine does between two steps, from any thread: jamba_generate with JAMBA_FINISH_CANCELLED, jamba_prefill
// with JAMBA_CANCELLED; and all that is begun later, until jamba_cancel_reset.
jamba_status jamba_cancel(jamba_engine engine);

// Lets the engine work again after jamba_cancel.
jamba_status jamba_cancel_reset(jamba_engine engine);

// What the engine runs, as JSON: `plan`, `digest`, `target`, `device`, `threads`, `free` (state slots and KV pages), and the
// plan's `manifest` with model, limits and memory in bytes. Stores at most `capacity` bytes, a zero at the end included,
// and the length without it; JAMBA_TOO_SMALL stores the length alone.
jamba_status jamba_info(jamba_engine engine,
                        char *buffer,
                        uintptr_t capacity,
                        uintptr_t *length);

// Begins a sequence without tokens.
jamba_status jamba_sequence_add(jamba_engine engine, jamba_sequence *sequence);

// Ends a sequence; its memory is free for others.
jamba_status jamba_sequence_remove(jamba_engine engine, jamba_sequence sequence);

// Stores the number of tokens that a sequence has taken.
jamba_status jamba_sequence_length(jamba_engine engine, jamba_sequence sequence, uintptr_t *length);

// Writes what a sequence remembers to a file, from which jamba_snapshot_load goes on with the same bits.
jamba_status jamba_snapshot_save(jamba_engine engine, jamba_sequence sequence, const char *path);

// Begins a sequence that goes on from such a file, of the same plan.
jamba_status jamba_snapshot_load(jamba_engine engine, const char *path, jamba_sequence *sequence);

// Feeds every sequence its tokens, all in one step. Refused before anything changes, or not at all. `logits` may be null
// where no feed wants any.
jamba_status jamba_step(jamba_engine engine,
                        const jamba_feed *feeds,
                        uintptr_t n_feeds,
                        jamba_logits *logits);

// Feeds one sequence a prompt of any length, in as many steps as it takes, and returns the logits of its last token.
// Refused before anything changes; after JAMBA_CANCELLED the sequence has read the prompt up to some step.
jamba_status jamba_prefill(jamba_engine engine,
                           jamba_sequence sequence,
                           const uint32_t *tokens,
                           uintptr_t n_tokens,
                           jamba_logits *logits);

// Sets options to their defaults; `size` is sizeof(jamba_sampler_options).
jamba_status jamba_sampler_options_init(jamba_sampler_options *options, uintptr_t size);

// Makes a sampler for an engine's vocabulary. `options` may be null: greedy.
jamba_status jamba_sampler_open(jamba_engine engine,
                                const jamba_sampler_options *options,
                                jamba_sampler *sampler);

// Notes tokens that occurred before, for the repetition penalty: the prompt's. Picked tokens are noted anyway.
jamba_status jamba_sampler_observe(jamba_sampler sampler,
                                   const uint32_t *tokens,
                                   uintptr_t n_tokens);

// Picks the next token from a row of `vocab` logits.
jamba_status jamba_sampler_pick(jamba_sampler sampler, const float *logits, uintptr_t vocab, uint32_t *token);

// Closes a sampler.
jamba_status jamba_sampler_close(jamba_sampler sampler);

// Sets options to their defaults; `size` is sizeof(jamba_generate_options).
jamba_status jamba_generate_options_init(jamba_generate_options *options, uintptr_t size);

// Generates from a prompt of `n_prompt` tokens. In `sequence`, which goes on afterwards (the last new token was not fed to
// it), or in one of its own where that is 0. `options` may be null, and so may `on_token` and `generated`.
jamba_status jamba_generate(jamba_engine engine,
                            jamba_sequence sequence,
                            const uint32_t *prompt,
                            uintptr_t n_prompt,
                            const jamba_generate_options *options,
                            jamba_on_token on_token,
                            void *user,
                            jamba_generated *generated);

// Stores the tokens of a text of `length` bytes, with the token that begins a text where the model wants one. At most
// `capacity`; JAMBA_TOO_SMALL stores how many there are.
jamba_status jamba_encode(jamba_engine engine,
                          const char *text,
                          uintptr_t length,
                          uint32_t *tokens,
                          uintptr_t capacity,
                          uintptr_t *n_tokens);

// As jamba_encode, of a text that already says how it begins: a rendered chat.
jamba_status jamba_encode_plain(jamba_engine engine,
                                const char *text,
                                uintptr_t length,
                                uint32_t *tokens,
                                uintptr_t capacity,
                                uintptr_t *n_tokens);

// Stores the text of tokens, without special ones, as jamba_info stores its text.
jamba_status jamba_decode(jamba_engine engine,
                          const uint32_t *tokens,
                          uintptr_t n_tokens,
                          char *buffer,
                          uintptr_t capacity,
                          uintptr_t *length);

// Stores a chat as text, as jamba_info stores its text. The chat is JSON: `messages` (objects with `role` and `content`),
// and where wanted `tools`, `documents`, `add_generation_prompt`, `template` (a name, where there are several); other keys
// are variables of the template. Give the text to jamba_encode_plain.
jamba_status jamba_chat_render(jamba_engine engine,
                               const char *chat,
                               char *buffer,
                               uintptr_t capacity,
                               uintptr_t *length);

// Opens a stream of text. It needs the engine only now.
jamba_status jamba_text_stream_open(jamba_engine engine, jamba_text_stream *stream);

// Takes the next token. `text` and `length` get the text that is certain now: whole characters, sometimes none; a zero
// follows it; it is valid until the next call on the stream.
jamba_status jamba_text_stream_push(jamba_text_stream stream,
                                    uint32_t token,
                                    const char **text,
                                    uintptr_t *length);

// As jamba_text_stream_push, where no more tokens come: the text that was held back. The stream begins anew.
jamba_status jamba_text_stream_finish(jamba_text_stream stream, const char **text, uintptr_t *length);

// Closes a stream.
jamba_status jamba_text_stream_close(jamba_text_stream stream);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* JAMBA_H */
