/* libjamba runs Jamba plans. Generated from runtime/capi by cbindgen; do not edit.
 *
 * Every call returns a jamba_status; jamba_last_error() is the message of this thread's last failed call. Pointers must be
 * aligned and point to as many values as the call states, valid during the call; null is rejected unless stated otherwise.
 * Dangling pointers are undefined behavior. Handles are checked: a handle that was closed, or belongs to another engine, is
 * rejected.
 *
 * One thread at a time may be in a call on an engine, a sampler or a stream; calls from other threads return JAMBA_BUSY and may
 * be retried. Different objects are independent. jamba_cancel may be called at any time, but not from a signal handler.
 */

#ifndef JAMBA_H
#define JAMBA_H

#include <stddef.h>
#include <stdint.h>

// The value of jamba_token.token for text without a token.
#define JAMBA_NO_TOKEN UINT32_MAX

// The result of a call. jamba_last_error returns the message.
typedef enum {
  // Success.
  JAMBA_OK = 0,
  // An argument is null, not UTF-8, or outside its range.
  JAMBA_INVALID_ARGUMENT = 1,
  // The handle was closed, belongs to another object, or never existed.
  JAMBA_INVALID_HANDLE = 2,
  // Another call on the same handle is in progress, in another thread or around the current callback.
  JAMBA_BUSY = 3,
  // A file operation failed.
  JAMBA_IO = 4,
  // The plan or the saved state is damaged, has another format, or belongs to another plan.
  JAMBA_BAD_PLAN = 5,
  // Not supported by this machine, this plan or this build of the library.
  JAMBA_UNSUPPORTED = 6,
  // Out of memory or threads.
  JAMBA_NO_MEMORY = 7,
  // The context or a pool is full. Nothing changed; remove a sequence and retry.
  JAMBA_NO_ROOM = 8,
  // jamba_cancel was called.
  JAMBA_CANCELLED = 9,
  // The buffer is too small. The needed length was stored.
  JAMBA_TOO_SMALL = 10,
  // An internal error; please report it. The engine can only be closed.
  JAMBA_INTERNAL = 11,
  // The GPU is lost. The engine can only be closed.
  JAMBA_DEVICE_LOST = 12,
} jamba_status;

// The rows of logits that a feed returns.
typedef enum {
  // No rows, for a prompt that continues in a later step.
  JAMBA_OUTPUTS_NONE = 0,
  // The row of the last token.
  JAMBA_OUTPUTS_LAST = 1,
  // One row per token.
  JAMBA_OUTPUTS_ALL = 2,
} jamba_outputs;

// Kinds of constraints on the text of an answer.
typedef enum {
  // No constraint.
  JAMBA_CONSTRAINT_NONE = 0,
  // JSON that satisfies a JSON schema.
  JAMBA_CONSTRAINT_JSON_SCHEMA = 1,
  // A match of a regular expression.
  JAMBA_CONSTRAINT_REGEX = 2,
  // Text of a grammar, in llguidance's variant of Lark.
  JAMBA_CONSTRAINT_LARK = 3,
} jamba_constraint;

// The special tokens that are part of a text.
typedef enum {
  // Those that the chat template writes around tool calls and reasoning, such as <tool_calls> and <think>.
  JAMBA_SPECIAL_TOKENS_MARKS = 0,
  // All.
  JAMBA_SPECIAL_TOKENS_ALL = 1,
  // None.
  JAMBA_SPECIAL_TOKENS_HIDDEN = 2,
} jamba_special_tokens;

// The reason why generation ended.
typedef enum {
  // The model produced an end token.
  JAMBA_FINISH_EOS = 0,
  // The maximum number of new tokens was reached.
  JAMBA_FINISH_LENGTH = 1,
  // The context or the KV pool is full.
  JAMBA_FINISH_NO_ROOM = 2,
  // A stop string or stop token occurred, or the callback stopped it.
  JAMBA_FINISH_STOPPED = 3,
  // jamba_cancel was called.
  JAMBA_FINISH_CANCELLED = 4,
  // The text satisfies the constraint and no token may follow.
  JAMBA_FINISH_COMPLETE = 5,
} jamba_finish;

// Options for opening a plan. Set `size` to sizeof(jamba_open_options). Zero means the default in all other fields.
typedef struct {
  // Size of this struct in bytes.
  uintptr_t size;
  // Number of threads, including the caller; 0 for one per core.
  uintptr_t threads;
  // Target to load, for example "x86-64-v3"; null for the best that this machine supports.
  const char *target;
  // Nonzero: do not verify the digest of the weights, which opens large plans faster.
  int trust_weights;
  // Nonzero: make all memory resident when opening.
  int prefault;
  // Device, "cpu" or "cuda:0"; null for the CPU.
  const char *device;
} jamba_open_options;

// An open plan. One thread at a time may be in a call on it; calls from other threads return JAMBA_BUSY immediately. Engines
// are independent of each other. A closed handle stays invalid.
typedef struct {
  // 0 means no engine.
  uint64_t id;
} jamba_engine;

// A sequence of an engine. It is invalid for other engines, and after its removal.
typedef struct {
  // 0 means no sequence.
  uint64_t id;
} jamba_sequence;

// The tokens that one step appends to one sequence.
typedef struct {
  // The sequence.
  jamba_sequence sequence;
  // The next tokens.
  const uint32_t *tokens;
  // Number of tokens, at least 1.
  uintptr_t n_tokens;
  // The rows of logits to return, a jamba_outputs.
  int32_t outputs;
} jamba_feed;

// Rows of logits in memory of the engine, valid until the next call on the engine.
typedef struct {
  // Rows of `vocab` floats, in the order of the feeds and, within a feed, of its tokens.
  const float *const *rows;
  // Number of rows.
  uintptr_t n_rows;
  // Number of floats per row: the vocabulary size.
  uintptr_t vocab;
} jamba_logits;

// A token and a value added to its logit.
typedef struct {
  // The token.
  uint32_t token;
  // The value; negative infinity forbids the token.
  float bias;
} jamba_logit_bias;

// Options of a sampler. jamba_sampler_options_init sets the defaults: greedy.
typedef struct {
  // Size of this struct in bytes, set by jamba_sampler_options_init.
  uintptr_t size;
  // Divides the logits; 0 always picks the largest.
  float temperature;
  // Samples from the smallest set of most likely tokens with at least this total probability; 1 disables it.
  float top_p;
  // Samples from tokens with at least this fraction of the largest probability; 0 disables it.
  float min_p;
  // Divides positive logits, and multiplies negative ones, of tokens that occurred; 1 disables it.
  float repetition_penalty;
  // Subtracted from the logits of picked tokens; 0 disables it.
  float presence_penalty;
  // Subtracted from the logits of picked tokens once per occurrence; 0 disables it.
  float frequency_penalty;
  // Samples from the k largest logits only; 0 disables it.
  uintptr_t top_k;
  // Seed of the random generator.
  uint64_t seed;
  // Biases; may be null if there are none.
  const jamba_logit_bias *logit_bias;
  // Number of biases.
  uintptr_t n_logit_bias;
} jamba_sampler_options;

// Picks the tokens of one sequence. It may outlive its engine.
typedef struct {
  // 0 means no sampler.
  uint64_t id;
} jamba_sampler;

// Options for generation. jamba_generate_options_init sets the defaults.
typedef struct {
  // Size of this struct in bytes, set by jamba_generate_options_init.
  uintptr_t size;
  // Maximum number of new tokens; 256 by default.
  uintptr_t max_new;
  // Sampler options; null for greedy.
  const jamba_sampler_options *sampler;
  // Tokens that end the answer; may be null if there are none.
  const uint32_t *stop_tokens;
  // Number of entries of `stop_tokens`.
  uintptr_t n_stop_tokens;
  // Stop strings: they end the answer and are not part of it; may be null if there are none.
  const char *const *stop;
  // Number of entries of `stop`.
  uintptr_t n_stop;
  // Kind of constraint, a jamba_constraint.
  int32_t constraint;
  // Nonzero: continue after end tokens.
  int ignore_eos;
  // The schema, regular expression or grammar.
  const char *constraint_text;
  // Number of most likely tokens to report per token; -1, the default, for no log probabilities.
  int32_t logprobs;
  // Nonzero: produce no text.
  int tokens_only;
  // Special tokens of the text, a jamba_special_tokens. Those that a stop string contains are part of it too.
  int32_t special_tokens;
  // Minimum number of new tokens, before which nothing ends the answer.
  uintptr_t min_new;
  // The only tokens that may be picked; null for all.
  const uint32_t *allowed_tokens;
  // Number of entries of `allowed_tokens`.
  uintptr_t n_allowed_tokens;
  // Nonzero: the stop string that ended the answer is the end of its text.
  int include_stop;
} jamba_generate_options;

// A token and the natural logarithm of its probability.
typedef struct {
  // The token.
  uint32_t token;
  // Log softmax of the model's logits, before any sampler option.
  float logprob;
} jamba_logprob;

// The argument of the callback, valid during the call.
typedef struct {
  // The token; JAMBA_NO_TOKEN in a last call with held back text.
  uint32_t token;
  // Its log probability, if requested.
  float logprob;
  // The text that became final, zero-terminated UTF-8: whole characters, no part of a stop string.
  const char *text;
  // Size of the text in bytes.
  uintptr_t text_length;
  // The most likely tokens, most likely first.
  const jamba_logprob *top;
  // Number of entries of `top`.
  uintptr_t n_top;
} jamba_token;

// Called with each token; a nonzero result ends the answer. Calls on the same engine return JAMBA_BUSY meanwhile. It must
// return normally: no longjmp and no C++ exception may leave it.
typedef int (*jamba_on_token)(void *user, const jamba_token *token);

// The result of a generation.
typedef struct {
  // Number of new tokens.
  uintptr_t n_tokens;
  // The reason why it ended, a jamba_finish.
  int32_t finish;
  // Time of the prompt, in seconds.
  double prefill_seconds;
  // Time after the prompt without the callback's, in seconds.
  double decode_seconds;
  // Number of decode steps.
  uintptr_t decode_steps;
} jamba_generated;

// Decodes tokens one at a time.
typedef struct {
  // 0 means no stream.
  uint64_t id;
} jamba_text_stream;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// The message of the last failed call on this thread; empty if there was none. Valid until the next failed call.
const char *jamba_last_error(void);

// The version of the library: "0.1.0".
const char *jamba_version(void);

// Opens a plan file. `options` may be null.
jamba_status jamba_open(const char *path, const jamba_open_options *options, jamba_engine *engine);

// Opens a plan in memory without copying it: `bytes` bytes, aligned to 4096, which must stay unchanged until the engine is
// closed. `options` may be null.
jamba_status jamba_open_memory(const void *data,
                               uintptr_t bytes,
                               const jamba_open_options *options,
                               jamba_engine *engine);

// Closes an engine and its sequences. Fails with JAMBA_BUSY while another thread is in a call on it.
jamba_status jamba_close(jamba_engine engine);

// Cancels, from any thread, the current and later operations of an engine until jamba_cancel_reset. Operations stop between
// two steps: jamba_generate with JAMBA_FINISH_CANCELLED, jamba_prefill with JAMBA_CANCELLED.
jamba_status jamba_cancel(jamba_engine engine);

// Ends the effect of jamba_cancel.
jamba_status jamba_cancel_reset(jamba_engine engine);

// Stores a description of the engine as JSON: `plan`, `digest`, `target`, `device`, `threads`, `free` (state slots and KV
// pages), and the plan's `manifest` with model, limits and memory in bytes. Stores at most `capacity` bytes including a
// terminating zero, and the length without it. JAMBA_TOO_SMALL stores only the length.
jamba_status jamba_info(jamba_engine engine,
                        char *buffer,
                        uintptr_t capacity,
                        uintptr_t *length);

// Adds an empty sequence.
jamba_status jamba_sequence_add(jamba_engine engine, jamba_sequence *sequence);

// Removes a sequence and frees its memory.
jamba_status jamba_sequence_remove(jamba_engine engine, jamba_sequence sequence);

// Stores the number of tokens in a sequence.
jamba_status jamba_sequence_length(jamba_engine engine, jamba_sequence sequence, uintptr_t *length);

// Saves the state of a sequence to a file. After jamba_snapshot_load it continues bit-identically.
jamba_status jamba_snapshot_save(jamba_engine engine, jamba_sequence sequence, const char *path);

// Adds a sequence with the state from a file of the same plan.
jamba_status jamba_snapshot_load(jamba_engine engine, const char *path, jamba_sequence *sequence);

// Runs one step that appends tokens to each fed sequence. Validates all feeds before changing any state. `logits` may be null
// if no feed returns rows.
jamba_status jamba_step(jamba_engine engine,
                        const jamba_feed *feeds,
                        uintptr_t n_feeds,
                        jamba_logits *logits);

// Appends a prompt of any length to a sequence, in as many steps as needed, and returns the logits of its last token.
// Validates all tokens before changing any state. After JAMBA_CANCELLED the sequence has the tokens of the steps that ran.
jamba_status jamba_prefill(jamba_engine engine,
                           jamba_sequence sequence,
                           const uint32_t *tokens,
                           uintptr_t n_tokens,
                           jamba_logits *logits);

// Sets options to their defaults; `size` is sizeof(jamba_sampler_options).
jamba_status jamba_sampler_options_init(jamba_sampler_options *options, uintptr_t size);

// Sets options to the sampling defaults of the model, as `jamba run` uses them: the values of generation_config.json, or
// temperature 0.8, top-k 40, top-p 0.95 and min-p 0.05 if it has none. `size` is sizeof(jamba_sampler_options).
jamba_status jamba_sampler_options_of_model(jamba_engine engine,
                                            jamba_sampler_options *options,
                                            uintptr_t size);

// Creates a sampler for an engine's vocabulary. `options` may be null for greedy.
jamba_status jamba_sampler_open(jamba_engine engine,
                                const jamba_sampler_options *options,
                                jamba_sampler *sampler);

// Records tokens of the prompt, for the repetition penalty. Picked tokens are recorded automatically.
jamba_status jamba_sampler_observe(jamba_sampler sampler, const uint32_t *tokens, uintptr_t n_tokens);

// Picks the next token from a row of `vocab` logits.
jamba_status jamba_sampler_pick(jamba_sampler sampler, const float *logits, uintptr_t vocab, uint32_t *token);

// Closes a sampler.
jamba_status jamba_sampler_close(jamba_sampler sampler);

// Sets options to their defaults; `size` is sizeof(jamba_generate_options).
jamba_status jamba_generate_options_init(jamba_generate_options *options, uintptr_t size);

// Sets options to the defaults of the model: `max_new` from the `max_new_tokens` of generation_config.json, or 256, and the
// rest as jamba_generate_options_init does. jamba_sampler_options_of_model sets the sampler's. `size` is
// sizeof(jamba_generate_options).
jamba_status jamba_generate_options_of_model(jamba_engine engine,
                                             jamba_generate_options *options,
                                             uintptr_t size);

// Generates from a prompt of `n_prompt` tokens, in `sequence`, which can be continued afterwards (the last new token is not yet
// part of it), or in a temporary sequence if that is 0. `options`, `on_token` and `generated` may be null.
jamba_status jamba_generate(jamba_engine engine,
                            jamba_sequence sequence,
                            const uint32_t *prompt,
                            uintptr_t n_prompt,
                            const jamba_generate_options *options,
                            jamba_on_token on_token,
                            void *user,
                            jamba_generated *generated);

// Encodes text of `length` bytes, at most 8 MiB, with a start token if the model is configured so. Stores at most `capacity`
// tokens; JAMBA_TOO_SMALL stores only their number.
jamba_status jamba_encode(jamba_engine engine,
                          const char *text,
                          uintptr_t length,
                          uint32_t *tokens,
                          uintptr_t capacity,
                          uintptr_t *n_tokens);

// Like jamba_encode, but adds no special tokens: for a rendered chat, which contains them already.
jamba_status jamba_encode_plain(jamba_engine engine,
                                const char *text,
                                uintptr_t length,
                                uint32_t *tokens,
                                uintptr_t capacity,
                                uintptr_t *n_tokens);

// Decodes tokens, skipping special ones. Stores the text as jamba_info does.
jamba_status jamba_decode(jamba_engine engine,
                          const uint32_t *tokens,
                          uintptr_t n_tokens,
                          char *buffer,
                          uintptr_t capacity,
                          uintptr_t *length);

// Renders a chat and stores the text as jamba_info does. The chat is JSON: `messages` (objects with `role` and `content`), and
// optionally `tools`, `documents`, `add_generation_prompt` and `template` (a name, if there are several); other keys are
// variables of the template. jamba_encode_plain encodes the text, and makes special tokens of those in its content as well;
// jamba_chat_encode does not.
jamba_status jamba_chat_render(jamba_engine engine,
                               const char *chat,
                               char *buffer,
                               uintptr_t capacity,
                               uintptr_t *length);

// Renders and encodes a chat in the JSON of OpenAI's chat completions: `messages` with a role each, content that is text, null or
// a list of text parts, and calls; optionally `tools`, `documents`, `chat_template_kwargs` and `add_generation_prompt`. Special
// tokens in the content are text, so that no message can end its turn. Stores the tokens as jamba_encode does.
jamba_status jamba_chat_encode(jamba_engine engine,
                               const char *chat,
                               uint32_t *tokens,
                               uintptr_t capacity,
                               uintptr_t *n_tokens);

// Opens a text stream without special tokens. It may outlive the engine.
jamba_status jamba_text_stream_open(jamba_engine engine, jamba_text_stream *stream);

// Opens a text stream for tokens that follow `n_before` tokens, so that both read as one text. `special_tokens` is a
// jamba_special_tokens. `before` may be null if there are none.
jamba_status jamba_text_stream_open_after(jamba_engine engine,
                                          const uint32_t *before,
                                          uintptr_t n_before,
                                          int32_t special_tokens,
                                          jamba_text_stream *stream);

// Appends a token. Stores the text that became final: whole characters, sometimes none, zero-terminated, valid until the next
// call on the stream.
jamba_status jamba_text_stream_push(jamba_text_stream stream,
                                    uint32_t token,
                                    const char **text,
                                    uintptr_t *length);

// Stores the held back text at the end of the tokens, as jamba_text_stream_push does, and resets the stream.
jamba_status jamba_text_stream_finish(jamba_text_stream stream, const char **text, uintptr_t *length);

// Closes a stream.
jamba_status jamba_text_stream_close(jamba_text_stream stream);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* JAMBA_H */
