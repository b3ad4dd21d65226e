//! The C library: sequences of calls with handles that are open, closed, of another kind or made up, with options of any size, and null
//! pointers. Pointers that are not null are valid, as C programs promise.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::mem::MaybeUninit;
use std::ptr::{null, null_mut};
use std::sync::{Mutex, PoisonError};

use jamba::batch::*;
use jamba::cache::*;
use jamba::engine::*;
use jamba::events::jamba_event;
use jamba::generate::*;
use jamba::request::*;
use jamba::sampler::*;
use jamba::snapshot::*;
use jamba::status::*;
use jamba::steps::*;
use jamba::text::*;

/// Most calls of a sequence.
const CALLS: usize = 48;

/// The rest of an input.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().map_or((0, &[][..]), |(first, rest)| (*first, rest));
        self.0 = rest;
        first
    }

    fn is(&mut self) -> bool {
        self.byte() % 4 == 1
    }

    fn number(&mut self) -> u64 {
        match self.byte() {
            255 => u64::MAX,
            254 => i64::MAX as u64,
            253 => u64::from(u32::MAX),
            252 => 1 << 62,
            small => u64::from(small % 40),
        }
    }

    fn float(&mut self) -> f32 {
        [0.0, 0.5, 1.0, 2.0, -1.0, f32::NAN, f32::INFINITY, 1e-30][usize::from(self.byte() % 8)]
    }

    /// Null, or a value's address.
    fn out<T>(&mut self, value: &mut T) -> *mut T {
        if self.byte() == 255 { null_mut() } else { value }
    }

    fn tokens(&mut self) -> Vec<u32> {
        let n = self.byte() % 24;
        (0..n).map(|_| u32::from(self.byte()) * u32::from(1 + self.byte() / 128)).collect()
    }

    fn text(&mut self) -> &'static CStr {
        let texts = [
            c"Once upon a time",
            c"",
            c"\xff\xfe",
            c"{\"type\":\"integer\"}",
            c"(a|b)+",
            c"start: \"a\"",
            c"[{\"role\":\"user\",\"content\":\"Hi\"}]",
            c"<s>",
        ];
        texts[usize::from(self.byte()) % texts.len()]
    }
}

/// Handles of all calls, open or not.
#[derive(Default)]
struct Handles {
    engines: Vec<u64>,
    sequences: Vec<u64>,
    snapshots: Vec<u64>,
    caches: Vec<u64>,
    samplers: Vec<u64>,
    streams: Vec<u64>,
    batches: Vec<u64>,
}

/// A handle of a list, mostly the last; sometimes one that never was.
fn choose(bytes: &mut Bytes<'_>, list: &[u64], others: &[u64]) -> u64 {
    match bytes.byte() {
        0 => 0,
        1 => 1 << 60,
        2 => others.last().copied().unwrap_or(7),
        number if number < 200 => list.last().copied().unwrap_or(0),
        number => list.get(usize::from(number) % list.len().max(1)).copied().unwrap_or(0),
    }
}

/// A token of an answer, whose pointers must be readable. A call on the engine from here is refused.
unsafe extern "C" fn on_token(user: *mut c_void, token: *const jamba_token) -> c_int {
    // SAFETY: the library passes the pointer that `generate` got, which is that of a pair on its stack, and a token that is valid here.
    let (&(engine, acts), token) = unsafe { (&*user.cast::<(jamba_engine, u8)>(), &*token) };
    // SAFETY: the text has `text_length` bytes and a zero.
    let text = unsafe { std::slice::from_raw_parts(token.text.cast::<u8>(), token.text_length + 1) };
    assert_eq!(text.last(), Some(&0), "the text ends with a zero");
    let mut sequence = jamba_sequence { id: 0 };
    // SAFETY: a valid place.
    let status = unsafe { jamba_sequence_add(engine, &mut sequence) };
    assert_ne!(status, jamba_status::JAMBA_OK, "a call from inside a callback");
    if acts & 1 > 0 {
        jamba_cancel(engine);
    }
    c_int::from(acts & 2 > 0)
}

/// The size that a caller says a struct has: whole fields of ours, or one that is refused.
fn size_of_version<T>(bytes: &mut Bytes<'_>) -> usize {
    match bytes.byte() {
        0 => 0,
        1 => size_of::<T>() - 8,
        2 => 12,
        3 => usize::MAX,
        _ => size_of::<T>(),
    }
}

/// Options for generation that point to texts and lists which stay.
fn generate_options(bytes: &mut Bytes<'_>, sampler: *const jamba_sampler_options) -> jamba_generate_options {
    static STOP_TOKENS: [u32; 2] = [3, u32::MAX];
    let mut options = MaybeUninit::<jamba_generate_options>::zeroed();
    // SAFETY: the place has room for the struct, of which all zeros are a value.
    let mut options = unsafe {
        jamba_generate_options_init(options.as_mut_ptr(), size_of::<jamba_generate_options>());
        options.assume_init()
    };
    options.max_new = usize::from(bytes.byte() % 6);
    options.min_new = usize::from(bytes.byte() % 4);
    options.sampler = if bytes.is() { sampler } else { null() };
    options.constraint = i32::from(bytes.byte() % 6) - 1;
    options.constraint_text = if bytes.is() { null() } else { bytes.text().as_ptr() };
    options.logprobs = i32::from(bytes.byte()) - 2;
    options.tokens_only = c_int::from(bytes.is());
    options.special_tokens = i32::from(bytes.byte() % 5) - 1;
    options.ignore_eos = c_int::from(bytes.is());
    options.include_stop = c_int::from(bytes.is());
    if bytes.is() {
        (options.stop_tokens, options.n_stop_tokens) = (STOP_TOKENS.as_ptr(), usize::from(bytes.byte() % 3));
    }
    if bytes.is() {
        (options.allowed_tokens, options.n_allowed_tokens) = (STOP_TOKENS.as_ptr(), usize::from(bytes.byte() % 3));
    }
    options
}

/// An engine that is open from one input to the next: opening takes longer than the calls.
static KEPT: Mutex<Option<u64>> = Mutex::new(None);

/// Sequences of the engine.
const SEQUENCES: usize = 3;

/// The bytes are the calls.
pub fn library(data: &[u8]) {
    let mut bytes = Bytes(data);
    let mut handles = Handles::default();
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    match kept.take() {
        Some(engine) => handles.engines.push(engine),
        None => open(&mut Bytes(&[4; 8]), &mut handles),
    }
    for _ in 0..CALLS {
        if bytes.0.is_empty() {
            break;
        }
        call(&mut bytes, &mut handles);
    }
    handles.streams.iter().for_each(|&id| done(jamba_text_stream_close(jamba_text_stream { id })));
    handles.samplers.iter().for_each(|&id| done(jamba_sampler_close(jamba_sampler { id })));
    handles.snapshots.iter().for_each(|&id| done(jamba_snapshot_close(jamba_snapshot { id })));
    handles.caches.iter().for_each(|&id| done(jamba_cache_close(jamba_cache { id })));
    if let Some((&first, rest)) = handles.engines.split_first() {
        rest.iter().for_each(|&id| done(jamba_close(jamba_engine { id })));
        let engine = jamba_engine { id: first };
        handles.batches.iter().for_each(|&id| done(jamba_batch_close(engine, jamba_batch { id })));
        handles.sequences.iter().for_each(|&id| done(jamba_sequence_remove(engine, jamba_sequence { id })));
        if jamba_cancel_reset(engine) == jamba_status::JAMBA_OK {
            check_slots(engine);
            *kept = Some(first);
        }
    }
    // SAFETY: a zero-terminated string until the next failed call of this thread.
    let _ = unsafe { CStr::from_ptr(jamba_last_error()) }.to_bytes();
}

/// Takes a status that may be any.
fn done(_: jamba_status) {}

/// Every slot came back.
fn check_slots(engine: jamba_engine) {
    let added: Vec<jamba_sequence> = (0..SEQUENCES)
        .map(|_| {
            let mut sequence = jamba_sequence { id: 0 };
            // SAFETY: a valid place.
            let status = unsafe { jamba_sequence_add(engine, &mut sequence) };
            assert_eq!(status, jamba_status::JAMBA_OK, "a slot is lost");
            sequence
        })
        .collect();
    added.iter().for_each(|&sequence| done(jamba_sequence_remove(engine, sequence)));
}

fn open(bytes: &mut Bytes<'_>, handles: &mut Handles) {
    let path = CString::new(crate::plans::TOY).expect("no zero");
    let target = [null(), c"x86-64".as_ptr(), c"z80".as_ptr()][usize::from(bytes.byte() % 3)];
    let mut options = MaybeUninit::<jamba_open_options>::zeroed();
    let mut engine = jamba_engine { id: 7 };
    // SAFETY: all zeros are options; the pointers are null, or valid during the call.
    let status = unsafe {
        let options = options.assume_init_mut();
        options.size = size_of_version::<jamba_open_options>(bytes);
        if options.size == usize::MAX {
            options.size = 1 << 17;
        }
        (options.threads, options.target) = (1, target);
        options.device = if bytes.byte() == 0 { c"tpu".as_ptr() } else { null() };
        options.trust_weights = c_int::from(bytes.is());
        jamba_open(if bytes.byte() == 0 { null() } else { path.as_ptr() }, options, bytes.out(&mut engine))
    };
    if status == jamba_status::JAMBA_OK {
        handles.engines.push(engine.id);
    }
}

/// The next bytes choose what is called, and with which handles.
#[allow(clippy::too_many_lines, reason = "a table of calls")]
fn call(bytes: &mut Bytes<'_>, handles: &mut Handles) {
    let kind = bytes.byte() % 44;
    let engine = jamba_engine { id: choose(bytes, &handles.engines, &handles.samplers) };
    let sequence = jamba_sequence { id: choose(bytes, &handles.sequences, &handles.engines) };
    let snapshot = jamba_snapshot { id: choose(bytes, &handles.snapshots, &handles.sequences) };
    let cache = jamba_cache { id: choose(bytes, &handles.caches, &handles.snapshots) };
    let sampler = jamba_sampler { id: choose(bytes, &handles.samplers, &handles.caches) };
    let stream = jamba_text_stream { id: choose(bytes, &handles.streams, &handles.samplers) };
    let batch = jamba_batch { id: choose(bytes, &handles.batches, &handles.streams) };
    let tokens = bytes.tokens();
    // A length that is not that of the list must be refused before the list is looked at.
    let n_tokens = |bytes: &mut Bytes<'_>| if bytes.byte() < 250 { tokens.len() } else { 1 << 62 };
    let (mut n, mut text) = (0_usize, null::<c_char>());
    let (mut chars, mut ids) = ([0 as c_char; 96], [0_u32; 24]);
    let is_ok = |status: jamba_status| status == jamba_status::JAMBA_OK;
    let mut logits = MaybeUninit::<jamba_logits>::zeroed();
    let (mut new_sequence, mut new_snapshot) = (jamba_sequence { id: 0 }, jamba_snapshot { id: 0 });
    // SAFETY: each pointer is null, or points to as many values as its length says, or its length is one that the library refuses without a
    // look at them. Structs are values of their types, and live longer than the call.
    unsafe {
        match kind {
            0 if handles.engines.len() < 3 => open(bytes, handles),
            1 => done(jamba_close(engine)),
            2 => done(jamba_cancel(engine)),
            3 => done(jamba_cancel_reset(engine)),
            4 => done(jamba_info(engine, chars.as_mut_ptr(), chars.len(), bytes.out(&mut n))),
            5 | 6 => {
                if is_ok(jamba_sequence_add(engine, bytes.out(&mut new_sequence))) {
                    handles.sequences.push(new_sequence.id);
                }
            }
            7 => done(jamba_sequence_remove(engine, sequence)),
            8 => done(jamba_sequence_length(engine, sequence, bytes.out(&mut n))),
            9 => {
                if is_ok(jamba_sequence_fork(engine, sequence, bytes.out(&mut new_sequence))) {
                    handles.sequences.push(new_sequence.id);
                }
            }
            10 => done(jamba_sequence_tokens(engine, sequence, ids.as_mut_ptr(), ids.len(), bytes.out(&mut n))),
            11 => done(jamba_sequence_checkpoint(engine, sequence)),
            12 => done(jamba_sequence_rollback(engine, sequence, bytes.number() as usize)),
            13 | 14 => {
                let length = n_tokens(bytes);
                let out = if bytes.byte() == 255 { null_mut() } else { logits.as_mut_ptr() };
                let status = jamba_prefill(engine, sequence, tokens.as_ptr(), length, out);
                read_rows(status, out);
            }
            15 | 16 => {
                let n_feeds = usize::from(bytes.byte() % 4);
                let feeds: Vec<jamba_feed> = (0..n_feeds)
                    .map(|_| jamba_feed {
                        sequence: jamba_sequence { id: choose(bytes, &handles.sequences, &handles.engines) },
                        tokens: if bytes.byte() == 255 { null() } else { tokens.as_ptr() },
                        n_tokens: n_tokens(bytes),
                        outputs: i32::from(bytes.byte() % 5) - 1,
                    })
                    .collect();
                let n_feeds = if bytes.byte() < 250 { n_feeds } else { 1 << 40 };
                let out = if bytes.byte() == 255 { null_mut() } else { logits.as_mut_ptr() };
                let status = jamba_step(engine, feeds.as_ptr(), n_feeds, out);
                read_rows(status, out);
            }
            17 => {
                let earlier = if bytes.is() { snapshot } else { jamba_snapshot { id: 0 } };
                if is_ok(jamba_snapshot_take(engine, sequence, earlier, bytes.out(&mut new_snapshot))) {
                    handles.snapshots.push(new_snapshot.id);
                }
            }
            18 => {
                let length = n_tokens(bytes);
                if is_ok(jamba_snapshot_with_next(snapshot, tokens.as_ptr(), length, bytes.out(&mut new_snapshot))) {
                    handles.snapshots.push(new_snapshot.id);
                }
            }
            19 => done(jamba_snapshot_next(snapshot, ids.as_mut_ptr(), ids.len(), bytes.out(&mut n))),
            20 => done(jamba_snapshot_tokens(snapshot, ids.as_mut_ptr(), ids.len(), bytes.out(&mut n))),
            21 => {
                if is_ok(jamba_snapshot_restore(engine, snapshot, bytes.out(&mut new_sequence))) {
                    handles.sequences.push(new_sequence.id);
                }
            }
            22 => {
                let mut state = vec![0_u8; 16 << 10];
                let status = jamba_snapshot_to_bytes(snapshot, state.as_mut_ptr().cast(), state.len(), &mut n);
                if is_ok(status) {
                    let at = bytes.number() as usize % n.max(1);
                    state[at] ^= bytes.byte();
                    let made =
                        jamba_snapshot_from_bytes(engine, state.as_ptr().cast(), n, bytes.out(&mut new_snapshot));
                    if is_ok(made) {
                        handles.snapshots.push(new_snapshot.id);
                    }
                }
            }
            23 => done(jamba_snapshot_close(snapshot)),
            24 => {
                let mut made = jamba_cache { id: 0 };
                if is_ok(jamba_cache_open(bytes.number() << 10, bytes.number() as usize, bytes.out(&mut made))) {
                    handles.caches.push(made.id);
                }
            }
            25 => {
                let length = n_tokens(bytes);
                let out = logits.as_mut_ptr();
                let sequence = bytes.out(&mut new_sequence);
                if is_ok(jamba_prefill_cached(engine, cache, tokens.as_ptr(), length, sequence, out)) {
                    handles.sequences.push(new_sequence.id);
                }
            }
            26 => done(jamba_cache_insert(cache, snapshot)),
            27 => {
                let length = n_tokens(bytes);
                if is_ok(jamba_cache_longest(cache, tokens.as_ptr(), length, bytes.out(&mut new_snapshot))) {
                    handles.snapshots.push(new_snapshot.id);
                }
            }
            28 => {
                let mut counters = MaybeUninit::<jamba_cache_counters>::zeroed();
                jamba_cache_count(cache, counters.as_mut_ptr());
                jamba_cache_close(if bytes.is() { cache } else { jamba_cache { id: 3 } });
            }
            29 | 30 => {
                let options = sampler_options(bytes);
                let mut made = jamba_sampler { id: 0 };
                if is_ok(jamba_sampler_open(engine, &options, bytes.out(&mut made))) {
                    handles.samplers.push(made.id);
                }
            }
            31 => {
                let length = n_tokens(bytes);
                jamba_sampler_observe(sampler, tokens.as_ptr(), length);
            }
            32 => {
                let values: Vec<f32> = (0..300).map(|at| if at % 7 == 0 { bytes.float() } else { at as f32 }).collect();
                let (mut token, length) = (0, if bytes.is() { 3 } else { values.len() });
                if is_ok(jamba_sampler_pick(sampler, values.as_ptr(), length, bytes.out(&mut token))) {
                    assert!((token as usize) < length, "{token} of {length}");
                }
            }
            33 => done(jamba_sampler_close(sampler)),
            34 | 35 => {
                let drawing = sampler_options(bytes);
                let options = generate_options(bytes, &drawing);
                let (length, mut user) = (n_tokens(bytes), (engine, bytes.byte()));
                let mut made = MaybeUninit::<jamba_generated>::zeroed();
                let sequence = if bytes.is() { sequence } else { jamba_sequence { id: 0 } };
                let tell: jamba_on_token = if bytes.is() { None } else { Some(on_token) };
                let user = (&raw mut user).cast();
                jamba_generate(engine, sequence, tokens.as_ptr(), length, &options, tell, user, made.as_mut_ptr());
                jamba_cancel_reset(engine);
            }
            36 => {
                let mut options = MaybeUninit::<jamba_batch_options>::zeroed();
                jamba_batch_options_init(options.as_mut_ptr(), size_of::<jamba_batch_options>());
                let options = options.assume_init_mut();
                options.step_tokens = bytes.number() as usize;
                options.step_target = f64::from(bytes.float());
                options.swap_bytes = bytes.number() << 8;
                options.cache_bytes = (bytes.number() % 64) << 10;
                options.max_waiting = usize::from(bytes.byte() % 9);
                let mut made = jamba_batch { id: 0 };
                if is_ok(jamba_batch_open(engine, options, bytes.out(&mut made))) {
                    handles.batches.push(made.id);
                }
            }
            37 | 38 => {
                let drawing = sampler_options(bytes);
                let options = generate_options(bytes, &drawing);
                let mut request = MaybeUninit::<jamba_request>::zeroed();
                jamba_request_init(request.as_mut_ptr(), size_of::<jamba_request>());
                let request = request.assume_init_mut();
                (request.prompt, request.n_prompt) = (tokens.as_ptr(), n_tokens(bytes));
                request.options = if bytes.is() { null() } else { &options };
                request.n = usize::from(bytes.byte() % 4);
                request.timeout = f64::from(bytes.float());
                request.priority = i32::from(bytes.byte()) - 3;
                request.prompt_logprobs = i32::from(bytes.byte() % 5) - 2;
                request.state = if bytes.is() { snapshot } else { jamba_snapshot { id: 0 } };
                request.keeps_state = c_int::from(bytes.is());
                let mut number = 0;
                jamba_batch_submit(engine, batch, request, bytes.out(&mut number));
            }
            39 => step_batch(bytes, engine, batch, handles),
            40 => {
                let mut idle = 0;
                jamba_batch_idle(engine, batch, bytes.out(&mut idle));
                jamba_batch_cancel(engine, batch, bytes.number());
                if bytes.is() {
                    jamba_batch_insert(engine, batch, snapshot);
                    jamba_batch_close(engine, batch);
                }
            }
            41 => {
                let of = bytes.text();
                let length = if bytes.byte() < 250 { of.count_bytes() } else { usize::MAX };
                let (out, n) = (ids.as_mut_ptr(), bytes.out(&mut n));
                jamba_encode(engine, of.as_ptr(), length, out, 24, n);
                jamba_chat_encode(engine, of.as_ptr(), out, 24, n);
                jamba_chat_render(engine, of.as_ptr(), chars.as_mut_ptr(), chars.len(), n);
                let length = n_tokens(bytes);
                jamba_decode(engine, tokens.as_ptr(), length, chars.as_mut_ptr(), chars.len(), n);
            }
            42 => {
                let mut made = jamba_text_stream { id: 0 };
                let (length, special) = (n_tokens(bytes), i32::from(bytes.byte() % 5) - 1);
                let status =
                    jamba_text_stream_open_after(engine, tokens.as_ptr(), length, special, bytes.out(&mut made));
                if is_ok(status) {
                    handles.streams.push(made.id);
                }
            }
            _ => {
                let token = bytes.number() as u32;
                let status = match bytes.byte() % 8 {
                    0 => jamba_text_stream_finish(stream, &mut text, &mut n),
                    1 => jamba_text_stream_close(stream),
                    _ => jamba_text_stream_push(stream, token, &mut text, &mut n),
                };
                if is_ok(status) && !text.is_null() {
                    assert_eq!(*text.add(n), 0, "the text ends with a zero");
                }
            }
        }
    }
}

/// Reads every row that a step returned.
///
/// # Safety
/// `logits` is null, or what a call filled that returned this status.
unsafe fn read_rows(status: jamba_status, logits: *const jamba_logits) {
    if status != jamba_status::JAMBA_OK || logits.is_null() {
        return;
    }
    // SAFETY: the caller guarantees that the call filled it, and the rows are valid until the next call.
    unsafe {
        for row in 0..(*logits).n_rows {
            let row = std::slice::from_raw_parts(*(*logits).rows.add(row), (*logits).vocab);
            std::hint::black_box(row.iter().sum::<f32>());
        }
    }
}

/// Runs a step of a batch and reads its events.
///
/// # Safety
/// As for any call of the library.
unsafe fn step_batch(bytes: &mut Bytes<'_>, engine: jamba_engine, batch: jamba_batch, handles: &mut Handles) {
    let (mut events, mut n) = (null::<jamba_event>(), 0);
    // SAFETY: both places are valid; the library says how many events there are, and their pointers are valid until the next step.
    unsafe {
        if jamba_batch_step(engine, batch, bytes.out(&mut events), &mut n) != jamba_status::JAMBA_OK || n == 0 {
            return;
        }
        for event in std::slice::from_raw_parts(events, n) {
            if !event.text.is_null() {
                assert_eq!(*event.text.add(event.text_length), 0, "the text ends with a zero");
            }
            if !event.error.is_null() {
                std::hint::black_box(CStr::from_ptr(event.error).to_bytes().len());
            }
            if event.n_top > 0 {
                std::hint::black_box(std::slice::from_raw_parts(event.top, event.n_top).len());
            }
            if event.n_prompt > 0 {
                std::hint::black_box(std::slice::from_raw_parts(event.prompt, event.n_prompt).len());
            }
            if event.state.id != 0 {
                handles.snapshots.push(event.state.id);
            }
        }
    }
}

fn sampler_options(bytes: &mut Bytes<'_>) -> jamba_sampler_options {
    static BIAS: [jamba_logit_bias; 2] =
        [jamba_logit_bias { token: 5, bias: -1.0 }, jamba_logit_bias { token: 1 << 20, bias: f32::NAN }];
    let mut options = MaybeUninit::<jamba_sampler_options>::zeroed();
    // SAFETY: the place has room for the struct, of which all zeros are a value.
    let mut options = unsafe {
        jamba_sampler_options_init(options.as_mut_ptr(), size_of::<jamba_sampler_options>());
        options.assume_init()
    };
    (options.temperature, options.top_p, options.min_p) = (bytes.float(), bytes.float(), bytes.float());
    (options.repetition_penalty, options.top_k) = (bytes.float(), bytes.number() as usize);
    options.seed = bytes.number();
    if bytes.is() {
        (options.logit_bias, options.n_logit_bias) = (BIAS.as_ptr(), usize::from(bytes.byte() % 3));
    }
    options
}

pub fn calls() -> Vec<Vec<u8>> {
    // Kinds of calls, with the last handles and no odd values.
    let sequence = |kinds: &[u8]| kinds.iter().flat_map(|&kind| [&[kind][..], &[100; 40]].concat()).collect();
    vec![
        sequence(&[5, 13, 15, 17, 21, 9, 11, 12, 22, 23, 7]),
        sequence(&[24, 25, 26, 27, 28, 29, 31, 32, 33]),
        sequence(&[36, 37, 38, 39, 39, 39, 40, 39]),
        sequence(&[34, 41, 42, 43, 43, 43, 4, 1, 0]),
    ]
}
