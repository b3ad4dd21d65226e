/* libjamba runs Jamba plans. Generated from runtime/capi by cbindgen; do not edit.
 *
 * Every call returns a jamba_status; jamba_last_error() is the message of this thread's last failed call. Pointers must be
 * aligned and point to as many values as the call states, valid during the call; null is rejected unless stated otherwise.
 * Dangling pointers are undefined behavior. Handles are checked: a handle that was closed, or belongs to another engine, is
 * rejected.
 *
 * One thread at a time may be in a call on an engine with its batches, a cache, a sampler or a stream; calls from other threads
 * return JAMBA_BUSY and may be retried. Different objects are independent. jamba_cancel may be called at any time, but not from
 * a signal handler.
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
  // The context, a pool or the queue of a batch is full. Nothing changed; remove a sequence, or run steps of the batch, and
  // retry.
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
  // The time of a request is over. Only in a batch.
  JAMBA_FINISH_DEADLINE = 6,
  // The request failed; the event has the message. Only in a batch, whose other requests continue.
  JAMBA_FINISH_FAILED = 7,
  // The answer has not ended. Only in events of a batch.
  JAMBA_FINISH_NONE = -1,
} jamba_finish;

// How the hidden states of a text become one vector.
typedef enum {
  // The state of the last token.
  JAMBA_POOLING_LAST = 0,
  // The mean of the states of all tokens.
  JAMBA_POOLING_MEAN = 1,
} jamba_pooling;

// Options for opening a plan. Set `size` to sizeof(jamba_open_options). Zero means the default in all other fields.
typedef struct {
  // Size of this struct in bytes.
  uintptr_t size;
  // Number of threads, including the caller; 0 for one per core.
  uintptr_t threads;
  // Target to load, for example "x86-64-v3"; null for the best that this machine supports.
  const char *target;
  // Nonzero: do not verify the digest of the weights, which opens large plans faster. Refused where a signature is required.
  int trust_weights;
  // Nonzero: make all memory resident when opening.
  int prefault;
  // Device, "cpu" or "cuda:0"; null for the CPU.
  const char *device;
  // The plan's digest as 64 hexadecimal digits, which `jamba verify` prints; null for any plan. A plan with another digest is
  // refused before any of its code is loaded. With trust_weights the digest does not cover the weights.
  const char *require_digest;
  // A file of public keys, one per line, in the format of ssh's authorized_keys. One of them must have signed the plan. The
  // signature is read from PLAN.sig, which `jambac build --sign` or `ssh-keygen -Y sign -n jamba-plan` writes. Null for no file.
  const char *trusted_keys;
  // Nonzero: without trusted_keys, take the keys in $XDG_CONFIG_HOME/jamba/trusted_keys.
  int require_signature;
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
  // Number of floats per row: the vocabulary size; of other heads, the number of labels or of hidden states.
  uintptr_t vocab;
} jamba_logits;

// A copy of the state of a sequence in host memory. It never changes, may be used by several threads at once, and may
// outlive its engine.
typedef struct {
  // 0 means no snapshot.
  uint64_t id;
} jamba_snapshot;

// Snapshots of prompts within a budget of host memory, of one plan. It may outlive its engines. A batch has a cache of its
// own.
typedef struct {
  // 0 means no cache.
  uint64_t id;
} jamba_cache;

// Statistics of a cache.
typedef struct {
  // Number of prompts.
  uint64_t prompts;
  // Number of prompts with a cached beginning.
  uint64_t hits;
  // Number of prompt tokens taken from the cache.
  uint64_t tokens_saved;
  // Number of prompt tokens that were read.
  uint64_t tokens_read;
  // Number of snapshots that left because the budget was exceeded.
  uint64_t evictions;
  // Number of snapshots in the cache.
  uint64_t snapshots;
  // Host memory of the snapshots in the cache, in bytes.
  uint64_t bytes;
} jamba_cache_counters;

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
  // Nonzero: draw with a random seed in place of `seed`. The events of a batch tell it.
  int random_seed;
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

// Options of a batch. jamba_batch_options_init sets the defaults.
typedef struct {
  // Size of this struct in bytes, set by jamba_batch_options_init.
  uintptr_t size;
  // Most tokens per step; 0, the default, for the plan's. Answers always get their token; prompts use the rest.
  uintptr_t step_tokens;
  // The time that a step should take at most, in seconds; 0, the default, for no limit. Prompts are cut to keep to it.
  double step_target;
  // Host memory for the states of requests that gave way to others, in bytes; 1 GiB by default.
  uint64_t swap_bytes;
  // Host memory of the prefix cache, in bytes; 0, the default, for no cache.
  uint64_t cache_bytes;
  // Interval between snapshots of one prompt in the cache, in tokens; 512 by default.
  uintptr_t cache_interval;
  // Most answers that wait; 0, the default, for no limit. Each of the `n` of a request counts.
  uintptr_t max_waiting;
  // Most prompt tokens of waiting requests; 0, the default, for no limit. A request is taken if no other one waits.
  uintptr_t max_waiting_tokens;
  // How often later requests may join before one that finds no room; 4 by default.
  uint32_t skip_ahead;
  // Nonzero, the default: the states of answers go into the cache, for the next turn of a chat.
  int cache_answers;
} jamba_batch_options;

// A request for a batch. jamba_request_init sets the defaults.
typedef struct {
  // Size of this struct in bytes, set by jamba_request_init.
  uintptr_t size;
  // Tokens of the prompt.
  const uint32_t *prompt;
  // Number of tokens of the prompt, at least 1.
  uintptr_t n_prompt;
  // Options for generation; null for the defaults.
  const jamba_generate_options *options;
  // Number of answers; 1 by default. The prompt is read once. Answer i draws with the seed plus i.
  uintptr_t n;
  // Time after which the answers end with JAMBA_FINISH_DEADLINE, in seconds; 0, the default, for no limit.
  double timeout;
  // Lengths of the prompt, 1 … `n_prompt`, at which the cache takes snapshots besides its own, for example where turns of
  // a chat end; may be null if there are none.
  const uintptr_t *snapshot_at;
  // Number of entries of `snapshot_at`.
  uintptr_t n_snapshot_at;
  // Requests with lower numbers come first; 0 by default.
  int32_t priority;
  // Number of most likely tokens to report for each token of the prompt, with answer 0; -1, the default, for no log
  // probabilities of the prompt. `max_new` may be 0 with them.
  int32_t prompt_logprobs;
  // The state of the prompt's first tokens, to start from; 0, the default, for none. At least the last token follows it.
  jamba_snapshot state;
  // Nonzero: the last event of answer 0 has the state of the prompt without its last token. `max_new` may be 0 then.
  int keeps_state;
  // The request starts from cached beginnings of requests with the same number only, so that the time of its answer does not
  // tell what others have sent; 0 by default.
  uint64_t cache_salt;
} jamba_request;

// The requests of many clients on one engine: they join and leave between steps. The tokens of a request do not depend on the
// others. A batch belongs to its engine: it is invalid for other engines, and closed with its own.
typedef struct {
  // 0 means no batch.
  uint64_t id;
} jamba_batch;

// A token of a prompt and its probability.
typedef struct {
  // The token.
  uint32_t token;
  // Log softmax of the model's logits after the tokens before it; 0 for the first token.
  float logprob;
  // The most likely tokens in its place, most likely first; none for the first token.
  const jamba_logprob *top;
  // Number of entries of `top`.
  uintptr_t n_top;
} jamba_prompt_token;

// A result of a step for one answer of a request: a token, the end of the answer, tokens of the prompt, or several of these.
typedef struct {
  // The request, as jamba_batch_submit numbered it.
  uint64_t request;
  // Which of the request's answers, from 0.
  uintptr_t choice;
  // The new token; JAMBA_NO_TOKEN if there is none.
  uint32_t token;
  // Its log probability, if requested.
  float logprob;
  // The most likely tokens, most likely first, if requested.
  const jamba_logprob *top;
  // Number of entries of `top`.
  uintptr_t n_top;
  // The text that became final, zero-terminated UTF-8: whole characters, no part of a stop string. In the last event of an
  // answer also the text that was held back.
  const char *text;
  // Size of the text in bytes.
  uintptr_t text_length;
  // The reason why the answer ended, a jamba_finish; JAMBA_FINISH_NONE if it goes on.
  int32_t finish;
  // The message of an answer that failed, otherwise null.
  const char *error;
  // Tokens of the prompt that were read in this step, if the request asks for their probabilities.
  const jamba_prompt_token *prompt;
  // Number of entries of `prompt`.
  uintptr_t n_prompt;
  // The state that the request keeps, in the last event of answer 0, or 0. The caller closes it.
  jamba_snapshot state;
  // The seed of the answer's draws.
  uint64_t seed;
  // Tokens of the prompt.
  uintptr_t prompt_tokens;
  // Prompt tokens that were not read for this answer: they came from the cache or, for answers after the first, from that
  // one.
  uintptr_t cached_tokens;
  // Tokens of the answer so far.
  uintptr_t new_tokens;
  // How often the answer gave way to others.
  uint32_t preemptions;
  // Time before the request had a sequence, in seconds.
  double queue_seconds;
  // Time from then to the first new token, in seconds.
  double prefill_seconds;
  // Time from then to the last new token, in seconds.
  double decode_seconds;
} jamba_event;

// What a batch holds.
typedef struct {
  // Answers that wait.
  uintptr_t waiting;
  // Answers that have a sequence.
  uintptr_t running;
  // How often an answer gave way to others.
  uint64_t preemptions;
  // Host memory for the states of waiting answers, in bytes.
  uint64_t swapped_bytes;
  // The prefix cache; zeros without one.
  jamba_cache_counters cache;
} jamba_batch_state;

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

// Opens a plan file. `options` may be null. A plan is a program: open only plans that you built, or whose digest you have from
// somebody you trust (require_digest), or who signed them (trusted_keys).
jamba_status jamba_open(const char *path,
                        const jamba_open_options *options,
                        jamba_engine *engine);

// Opens a plan in memory without copying it: `bytes` bytes, aligned to 4096, which must stay unchanged until the engine is
// closed. `options` may be null.
jamba_status jamba_open_memory(const void *data,
                               uintptr_t bytes,
                               const jamba_open_options *options,
                               jamba_engine *engine);

// Closes an engine with its sequences and batches. Fails with JAMBA_BUSY while another thread is in a call on it.
jamba_status jamba_close(jamba_engine engine);

// Cancels, from any thread, the current and later operations of an engine until jamba_cancel_reset. Operations stop between
// two steps: jamba_generate with JAMBA_FINISH_CANCELLED, jamba_prefill with JAMBA_CANCELLED. Chat templates and constraints end with
// JAMBA_CANCELLED.
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

// Adds a copy of a sequence. The two share memory until one of them goes on.
jamba_status jamba_sequence_fork(jamba_engine engine, jamba_sequence sequence, jamba_sequence *fork);

// Stores the tokens of a sequence. Stores at most `capacity` tokens; JAMBA_TOO_SMALL stores only their number.
jamba_status jamba_sequence_tokens(jamba_engine engine,
                                   jamba_sequence sequence,
                                   uint32_t *tokens,
                                   uintptr_t capacity,
                                   uintptr_t *n_tokens);

// Keeps the state of a sequence for jamba_sequence_rollback, in place of what was kept before.
jamba_status jamba_sequence_checkpoint(jamba_engine engine, jamba_sequence sequence);

// Removes the last `n_tokens` tokens of a sequence, at most those after the last jamba_sequence_checkpoint.
jamba_status jamba_sequence_rollback(jamba_engine engine, jamba_sequence sequence, uintptr_t n_tokens);

// Copies the state of a sequence. The copy shares memory with `earlier`, a snapshot of its first tokens; 0 for none.
jamba_status jamba_snapshot_take(jamba_engine engine,
                                 jamba_sequence sequence,
                                 jamba_snapshot earlier,
                                 jamba_snapshot *snapshot);

// Makes a snapshot of the same state with tokens that are to be read next: jamba_generate with them as prompt, after
// jamba_snapshot_restore, goes on without further text. A state has no logits, so keep the last token of a prompt for this.
jamba_status jamba_snapshot_with_next(jamba_snapshot snapshot,
                                      const uint32_t *tokens,
                                      uintptr_t n_tokens,
                                      jamba_snapshot *with_next);

// Stores the tokens to read next, none unless jamba_snapshot_with_next or `jamba run --save-state` noted them. Stores them as
// jamba_sequence_tokens does.
jamba_status jamba_snapshot_next(jamba_snapshot snapshot,
                                 uint32_t *tokens,
                                 uintptr_t capacity,
                                 uintptr_t *n_tokens);

// Stores the tokens of a snapshot as jamba_sequence_tokens does.
jamba_status jamba_snapshot_tokens(jamba_snapshot snapshot,
                                   uint32_t *tokens,
                                   uintptr_t capacity,
                                   uintptr_t *n_tokens);

// Stores the host memory of a snapshot in bytes, with what it shares with others.
jamba_status jamba_snapshot_size(jamba_snapshot snapshot, uint64_t *bytes);

// Adds a sequence with the state of a snapshot of the same plan. It continues bit-identically.
jamba_status jamba_snapshot_restore(jamba_engine engine, jamba_snapshot snapshot, jamba_sequence *sequence);

// Stores a snapshot as bytes, the same as those of its file. Stores at most `capacity` bytes; JAMBA_TOO_SMALL stores only
// their number.
jamba_status jamba_snapshot_to_bytes(jamba_snapshot snapshot,
                                     void *buffer,
                                     uintptr_t capacity,
                                     uintptr_t *length);

// Makes a snapshot of the bytes that jamba_snapshot_to_bytes stored, for an engine of the same plan.
jamba_status jamba_snapshot_from_bytes(jamba_engine engine,
                                       const void *data,
                                       uintptr_t bytes,
                                       jamba_snapshot *snapshot);

// Writes a snapshot to a file. Replaces an existing state file when the new one is complete.
jamba_status jamba_snapshot_write(jamba_snapshot snapshot, const char *path);

// Reads a snapshot from a file, for an engine of the same plan.
jamba_status jamba_snapshot_read(jamba_engine engine, const char *path, jamba_snapshot *snapshot);

// Frees a snapshot. Sequences, batches and caches that were given it are not affected.
jamba_status jamba_snapshot_close(jamba_snapshot snapshot);

// Saves the state of a sequence to a file. After jamba_snapshot_load it continues bit-identically.
jamba_status jamba_snapshot_save(jamba_engine engine, jamba_sequence sequence, const char *path);

// Adds a sequence with the state from a file of the same plan, and reads the file's next tokens, if it has any. To generate
// from those, use jamba_snapshot_read.
jamba_status jamba_snapshot_load(jamba_engine engine,
                                 const char *path,
                                 jamba_sequence *sequence);

// Creates a cache of at most `budget` bytes of host memory. It takes a snapshot at every multiple of `interval` tokens,
// besides those at the ends of prompts and where prompts part; an interval of 512 suits most, and 0 takes only those.
jamba_status jamba_cache_open(uint64_t budget,
                              uintptr_t interval,
                              jamba_cache *cache);

// Adds a sequence with a prompt, starting from the longest beginning in the cache, and returns the logits of its last token.
// Puts snapshots of the prompt into the cache.
jamba_status jamba_prefill_cached(jamba_engine engine,
                                  jamba_cache cache,
                                  const uint32_t *tokens,
                                  uintptr_t n_tokens,
                                  jamba_sequence *sequence,
                                  jamba_logits *logits);

// Puts a snapshot into a cache. A cache ignores one that exceeds its budget, or is of another plan than those in it.
jamba_status jamba_cache_insert(jamba_cache cache,
                                jamba_snapshot snapshot);

// Makes a snapshot of the cached one whose tokens are the longest beginning of `tokens`; 0 if there is none.
jamba_status jamba_cache_longest(jamba_cache cache,
                                 const uint32_t *tokens,
                                 uintptr_t n_tokens,
                                 jamba_snapshot *snapshot);

// Stores the statistics of a cache.
jamba_status jamba_cache_count(jamba_cache cache, jamba_cache_counters *counters);

// Frees a cache.
jamba_status jamba_cache_close(jamba_cache cache);

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

// Generates from a prompt of `n_prompt` tokens, in `sequence`, which can be continued afterwards (the last new token is not
// yet part of it), or in a temporary sequence if that is 0. `options`, `on_token` and `generated` may be null.
jamba_status jamba_generate(jamba_engine engine,
                            jamba_sequence sequence,
                            const uint32_t *prompt,
                            uintptr_t n_prompt,
                            const jamba_generate_options *options,
                            jamba_on_token on_token,
                            void *user,
                            jamba_generated *generated);

// Sets options to their defaults; `size` is sizeof(jamba_batch_options).
jamba_status jamba_batch_options_init(jamba_batch_options *options, uintptr_t size);

// Sets a request to the defaults; `size` is sizeof(jamba_request).
jamba_status jamba_request_init(jamba_request *request, uintptr_t size);

// Creates an empty batch. `given` may be null for the defaults.
jamba_status jamba_batch_open(jamba_engine engine, const jamba_batch_options *given, jamba_batch *batch);

// Appends a request to the queue and stores its number, which is unique in the batch. Fails if the request is invalid or can
// never run, and with JAMBA_NO_ROOM if the queue is full. jamba_cancel ends all requests.
jamba_status jamba_batch_submit(jamba_engine engine,
                                jamba_batch batch,
                                const jamba_request *wanted,
                                uint64_t *number);

// Runs one step for all requests that fit and returns its events, which are valid until the next call with this batch. There
// may be none: if only parts of prompts were read, or if other sequences of the engine hold the memory that all requests
// wait for. After an error the batch can only be closed.
jamba_status jamba_batch_step(jamba_engine engine,
                              jamba_batch batch,
                              const jamba_event **events,
                              uintptr_t *n_events);

// Stores 1 if a batch has no requests, otherwise 0.
jamba_status jamba_batch_idle(jamba_engine engine, jamba_batch batch, int32_t *idle);

// Ends the answers of a request, without events. Nothing happens if they had ended.
jamba_status jamba_batch_cancel(jamba_engine engine, jamba_batch batch, uint64_t number);

// Stores what a batch holds.
jamba_status jamba_batch_count(jamba_engine engine, jamba_batch batch, jamba_batch_state *state);

// Puts a snapshot into the cache of a batch: requests without a `cache_salt` whose prompts begin with its tokens start from
// it. Fails without a cache.
jamba_status jamba_batch_insert(jamba_engine engine,
                                jamba_batch batch,
                                jamba_snapshot snapshot);

// Makes a snapshot of the one in the cache of a batch whose tokens are the longest beginning of `tokens`; 0 if there is none.
jamba_status jamba_batch_longest(jamba_engine engine,
                                 jamba_batch batch,
                                 const uint32_t *tokens,
                                 uintptr_t n_tokens,
                                 jamba_snapshot *snapshot);

// Closes a batch and ends its requests, without events.
jamba_status jamba_batch_close(jamba_engine engine, jamba_batch batch);

// Classifies a text by its last token, in a sequence of its own. Stores a score of each label, and its probability by the
// model's activation; `scores` and `probabilities` have room for `capacity` floats each. JAMBA_TOO_SMALL stores only the number
// of labels.
jamba_status jamba_classify(jamba_engine engine,
                            const uint32_t *tokens,
                            uintptr_t n_tokens,
                            float *scores,
                            float *probabilities,
                            uintptr_t capacity,
                            uintptr_t *n_labels);

// Stores the name of a label, as jamba_info does. Plans that classify nothing have no labels.
jamba_status jamba_label(jamba_engine engine,
                         uintptr_t index,
                         char *buffer,
                         uintptr_t capacity,
                         uintptr_t *length);

// Computes the embedding of a text, in a sequence of its own. `pooling` is a jamba_pooling. Unless `normalized` is 0, the
// embedding's Euclidean norm is 1. Stores at most `capacity` floats; JAMBA_TOO_SMALL stores only their number.
jamba_status jamba_embed(jamba_engine engine,
                         const uint32_t *tokens,
                         uintptr_t n_tokens,
                         int32_t pooling,
                         int normalized,
                         float *embedding,
                         uintptr_t capacity,
                         uintptr_t *n_floats);

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

// Renders and encodes a chat in the JSON of OpenAI's chat completions: `messages` with a role each, content that is text,
// null or a list of text parts, and calls; optionally `tools`, `documents`, `chat_template_kwargs` and
// `add_generation_prompt`. Special tokens in the content are text, so that no message can end its turn. Stores the tokens as
// jamba_encode does.
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
