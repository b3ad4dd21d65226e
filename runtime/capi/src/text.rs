//! Tokenizers, chat templates and text streams.

use std::ffi::c_char;

use crate::arguments::{place, slice, store_text};
use crate::engine::jamba_engine;
use crate::generate::jamba_special_tokens;
use crate::handles::{self, invalid, with_engine};
use crate::status::{Failure, entry, jamba_status};

/// Decodes tokens one at a time.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct jamba_text_stream {
    /// 0 means no stream.
    pub id: u64,
}

/// The error for a feature that this build lacks.
#[cfg(not(feature = "constrain"))]
pub(crate) fn unsupported(what: &str) -> Failure {
    Failure::new(jamba_status::JAMBA_UNSUPPORTED, format!("this build of the library has no {what}"))
}

#[cfg(feature = "tokenizer")]
use with as inner;
#[cfg(feature = "tokenizer")]
pub(crate) use with::{Stream, special_tokens};
#[cfg(not(feature = "tokenizer"))]
use without as inner;

/// Encodes text of `length` bytes, at most 8 MiB, with a start token if the model is configured so. Stores at most `capacity`
/// tokens; JAMBA_TOO_SMALL stores only their number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jamba_encode(
    engine: jamba_engine,
    text: *const c_char,
    length: usize,
    tokens: *mut u32,
    capacity: usize,
    n_tokens: *mut usize,
) -> jamba_status {
    // SAFETY: pointers from C are null or valid during this call (contract of jamba.h); the callee rejects null.
    entry(|| unsafe { inner::encode(engine, (text, length), (tokens, capacity, n_tokens), inner::Begin::AsConfigured) })
}

/// Like jamba_encode, but adds no special tokens: for a rendered chat, which contains them already.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jamba_encode_plain(
    engine: jamba_engine,
    text: *const c_char,
    length: usize,
    tokens: *mut u32,
    capacity: usize,
    n_tokens: *mut usize,
) -> jamba_status {
    // SAFETY: pointers from C are null or valid during this call (contract of jamba.h); the callee rejects null.
    entry(|| unsafe { inner::encode(engine, (text, length), (tokens, capacity, n_tokens), inner::Begin::Plain) })
}

/// Decodes tokens, skipping special ones. Stores the text as jamba_info does.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jamba_decode(
    engine: jamba_engine,
    tokens: *const u32,
    n_tokens: usize,
    buffer: *mut c_char,
    capacity: usize,
    length: *mut usize,
) -> jamba_status {
    entry(|| {
        // SAFETY: pointers from C are null or valid during this call (contract of jamba.h); the callee rejects null.
        let text = unsafe { inner::decode(engine, tokens, n_tokens) }?;
        // SAFETY: pointers from C are null or valid during this call (contract of jamba.h); the callee rejects null.
        unsafe { store_text(&text, buffer, capacity, length) }
    })
}

/// Renders a chat and stores the text as jamba_info does. The chat is JSON: `messages` (objects with `role` and `content`), and
/// optionally `tools`, `documents`, `add_generation_prompt` and `template` (a name, if there are several); other keys are
/// variables of the template. jamba_encode_plain encodes the text, and makes special tokens of those in its content as well;
/// jamba_chat_encode does not.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jamba_chat_render(
    engine: jamba_engine,
    chat: *const c_char,
    buffer: *mut c_char,
    capacity: usize,
    length: *mut usize,
) -> jamba_status {
    entry(|| {
        // SAFETY: pointers from C are null or valid during this call (contract of jamba.h); the callee rejects null.
        let text = unsafe { inner::render(engine, chat) }?;
        // SAFETY: pointers from C are null or valid during this call (contract of jamba.h); the callee rejects null.
        unsafe { store_text(&text, buffer, capacity, length) }
    })
}

/// Renders and encodes a chat in the JSON of OpenAI's chat completions: `messages` with a role each, content that is text,
/// null or a list of text parts, and calls; optionally `tools`, `documents`, `chat_template_kwargs` and
/// `add_generation_prompt`. Special tokens in the content are text, so that no message can end its turn. Stores the tokens as
/// jamba_encode does.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jamba_chat_encode(
    engine: jamba_engine,
    chat: *const c_char,
    tokens: *mut u32,
    capacity: usize,
    n_tokens: *mut usize,
) -> jamba_status {
    // SAFETY: pointers from C are null or valid during this call (contract of jamba.h); the callee rejects null.
    entry(|| unsafe { inner::encode_chat(engine, chat, (tokens, capacity, n_tokens)) })
}

/// Opens a text stream without special tokens. It may outlive the engine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jamba_text_stream_open(engine: jamba_engine, stream: *mut jamba_text_stream) -> jamba_status {
    let hidden = jamba_special_tokens::JAMBA_SPECIAL_TOKENS_HIDDEN as i32;
    // SAFETY: pointers from C are null or valid during this call (contract of jamba.h); the callee rejects null.
    entry(|| unsafe { open_stream(engine, (std::ptr::null(), 0), hidden, stream) })
}

/// Opens a text stream for tokens that follow `n_before` tokens, so that both read as one text. `special_tokens` is a
/// jamba_special_tokens. `before` may be null if there are none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jamba_text_stream_open_after(
    engine: jamba_engine,
    before: *const u32,
    n_before: usize,
    special_tokens: i32,
    stream: *mut jamba_text_stream,
) -> jamba_status {
    // SAFETY: pointers from C are null or valid during this call (contract of jamba.h); the callee rejects null.
    entry(|| unsafe { open_stream(engine, (before, n_before), special_tokens, stream) })
}

/// # Safety
/// Pointers are null or valid during the call, as jamba.h requires of C callers.
unsafe fn open_stream(
    engine: jamba_engine,
    (before, n_before): (*const u32, usize),
    special: i32,
    stream: *mut jamba_text_stream,
) -> Result<(), Failure> {
    // SAFETY: the caller guarantees that the pointers are null or valid, see `# Safety`.
    let (out, before) = unsafe { (place("stream", stream)?, slice("before", before, n_before)?) };
    *out = jamba_text_stream { id: 0 };
    out.id = inner::open(engine, before, special)?;
    Ok(())
}

/// Appends a token. Stores the text that became final: whole characters, sometimes none, zero-terminated, valid until the next
/// call on the stream.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jamba_text_stream_push(
    stream: jamba_text_stream,
    token: u32,
    text: *mut *const c_char,
    length: *mut usize,
) -> jamba_status {
    // SAFETY: pointers from C are null or valid during this call (contract of jamba.h); the callee rejects null.
    entry(|| unsafe { inner::tell(stream, Some(token), text, length) })
}

/// Stores the held back text at the end of the tokens, as jamba_text_stream_push does, and resets the stream.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jamba_text_stream_finish(
    stream: jamba_text_stream,
    text: *mut *const c_char,
    length: *mut usize,
) -> jamba_status {
    // SAFETY: pointers from C are null or valid during this call (contract of jamba.h); the callee rejects null.
    entry(|| unsafe { inner::tell(stream, None, text, length) })
}

/// Closes a stream.
#[unsafe(no_mangle)]
pub extern "C" fn jamba_text_stream_close(stream: jamba_text_stream) -> jamba_status {
    entry(|| inner::close(stream))
}

#[cfg(feature = "tokenizer")]
mod with {
    use std::sync::{Arc, Mutex};

    use jamba_runtime::{Chat, ChatRequest, SpecialTokens, TextStream, Tokenizer};

    use super::*;
    use crate::arguments::{store, string, text};
    use crate::handles::{Object, lock};

    /// A text stream and its last text.
    pub(crate) struct Stream {
        tokenizer: Arc<Tokenizer>,
        stream: TextStream,
        special: SpecialTokens,
        /// Zero-terminated.
        told: Vec<u8>,
    }

    /// Whether special tokens are added.
    #[derive(PartialEq)]
    pub(super) enum Begin {
        AsConfigured,
        Plain,
    }

    fn tokenizer(engine: jamba_engine) -> Result<Arc<Tokenizer>, Failure> {
        with_engine(engine.id, |inner| Ok(inner.engine.tokenizer()?))
    }

    fn stream(stream: jamba_text_stream) -> Result<Arc<Mutex<Stream>>, Failure> {
        match handles::get(stream.id) {
            Some(Object::Stream(stream)) => Ok(stream),
            _ => Err(invalid("stream of text")),
        }
    }

    /// # Safety
    /// Pointers are null or valid during the call, as jamba.h requires of C callers.
    pub(super) unsafe fn encode(
        engine: jamba_engine,
        (data, length): (*const c_char, usize),
        (tokens, capacity, n_tokens): (*mut u32, usize, *mut usize),
        begin: Begin,
    ) -> Result<(), Failure> {
        // SAFETY: the caller guarantees that the pointers are null or valid, see `# Safety`.
        let text = unsafe { text("text", data, length) }?;
        let tokenizer = tokenizer(engine)?;
        let found = if begin == Begin::Plain { tokenizer.encode_plain(text) } else { tokenizer.encode(text) }?;
        // SAFETY: the caller guarantees that the pointers are null or valid, see `# Safety`.
        unsafe { store(&found, tokens, capacity, n_tokens) }
    }

    /// # Safety
    /// Pointers are null or valid during the call, as jamba.h requires of C callers.
    pub(super) unsafe fn decode(engine: jamba_engine, tokens: *const u32, n: usize) -> Result<String, Failure> {
        // SAFETY: the caller guarantees that the pointers are null or valid, see `# Safety`.
        let tokens = unsafe { slice("tokens", tokens, n) }?;
        Ok(tokenizer(engine)?.decode(tokens)?)
    }

    /// # Safety
    /// Pointers are null or valid during the call, as jamba.h requires of C callers.
    pub(super) unsafe fn render(engine: jamba_engine, chat: *const c_char) -> Result<String, Failure> {
        // SAFETY: the caller guarantees that the pointers are null or valid, see `# Safety`.
        let text = unsafe { string("chat", chat) }?;
        let chat: Chat = serde_json::from_str(text).map_err(|error| Failure::argument(format!("chat: {error}")))?;
        let template = with_engine(engine.id, |inner| Ok(inner.engine.chat_template()?))?;
        Ok(template.render_parts_until(&chat, &handles::engine(engine.id)?.cancel)?.into_text())
    }

    /// # Safety
    /// Pointers are null or valid during the call, as jamba.h requires of C callers.
    pub(super) unsafe fn encode_chat(
        engine: jamba_engine,
        chat: *const c_char,
        (tokens, capacity, n_tokens): (*mut u32, usize, *mut usize),
    ) -> Result<(), Failure> {
        // SAFETY: the caller guarantees that the pointers are null or valid, see `# Safety`.
        let text = unsafe { string("chat", chat) }?;
        let request = ChatRequest::from_json(text).map_err(|error| Failure::argument(error.to_string()))?;
        let (tokenizer, template) =
            with_engine(engine.id, |inner| Ok((inner.engine.tokenizer()?, inner.engine.chat_template()?)))?;
        let rendered = template.render_parts_until(&request.chat(), &handles::engine(engine.id)?.cancel)?;
        let encoded = tokenizer.encode_chat(&rendered)?;
        // SAFETY: the caller guarantees that the pointers are null or valid, see `# Safety`.
        unsafe { store(&encoded.tokens, tokens, capacity, n_tokens) }
    }

    /// Converts a jamba_special_tokens.
    pub(crate) fn special_tokens(value: i32) -> Result<SpecialTokens, Failure> {
        const MARKS: i32 = jamba_special_tokens::JAMBA_SPECIAL_TOKENS_MARKS as i32;
        const ALL: i32 = jamba_special_tokens::JAMBA_SPECIAL_TOKENS_ALL as i32;
        const HIDDEN: i32 = jamba_special_tokens::JAMBA_SPECIAL_TOKENS_HIDDEN as i32;
        match value {
            MARKS => Ok(SpecialTokens::Marks),
            ALL => Ok(SpecialTokens::All),
            HIDDEN => Ok(SpecialTokens::Hidden),
            other => Err(Failure::argument(format!("special_tokens is {other}, expected a jamba_special_tokens"))),
        }
    }

    pub(super) fn open(engine: jamba_engine, before: &[u32], special: i32) -> Result<u64, Failure> {
        let (tokenizer, special) = (tokenizer(engine)?, special_tokens(special)?);
        let stream = Stream { stream: tokenizer.stream_after(before, special), tokenizer, special, told: vec![0] };
        Ok(handles::insert(Object::Stream(Arc::new(Mutex::new(stream)))))
    }

    /// # Safety
    /// Pointers are null or valid during the call, as jamba.h requires of C callers.
    pub(super) unsafe fn tell(
        handle: jamba_text_stream,
        token: Option<u32>,
        text: *mut *const c_char,
        length: *mut usize,
    ) -> Result<(), Failure> {
        // SAFETY: the caller guarantees that the pointers are null or valid, see `# Safety`.
        let (text, length) = unsafe { (place("text", text)?, place("length", length)?) };
        let stream = stream(handle)?;
        let mut open = lock("stream of text", &stream)?;
        let open = &mut *open;
        let news = match token {
            Some(token) => open.stream.push(token)?,
            None => std::mem::replace(&mut open.stream, open.tokenizer.stream_after(&[], open.special)).finish()?,
        };
        open.told.clear();
        open.told.extend_from_slice(news.as_bytes());
        open.told.push(0);
        (*text, *length) = (open.told.as_ptr().cast(), news.len());
        Ok(())
    }

    pub(super) fn close(handle: jamba_text_stream) -> Result<(), Failure> {
        let found = stream(handle)?;
        handles::close("stream of text", handle.id, &found, |_| ())
    }
}

/// A build without tokenizers rejects all calls.
#[cfg(not(feature = "tokenizer"))]
mod without {
    use super::*;

    pub(super) enum Begin {
        AsConfigured,
        Plain,
    }

    /// # Safety
    /// Dereferences no pointer. `unsafe` only matches the signature with the feature `tokenizer`.
    pub(super) unsafe fn encode(
        engine: jamba_engine,
        _text: (*const c_char, usize),
        _tokens: (*mut u32, usize, *mut usize),
        _begin: Begin,
    ) -> Result<(), Failure> {
        refuse(engine)
    }

    /// # Safety
    /// Dereferences no pointer. `unsafe` only matches the signature with the feature `tokenizer`.
    pub(super) unsafe fn decode(engine: jamba_engine, _tokens: *const u32, _n: usize) -> Result<String, Failure> {
        refuse(engine)
    }

    /// # Safety
    /// Dereferences no pointer. `unsafe` only matches the signature with the feature `tokenizer`.
    pub(super) unsafe fn render(engine: jamba_engine, _chat: *const c_char) -> Result<String, Failure> {
        refuse(engine)
    }

    /// # Safety
    /// Dereferences no pointer. `unsafe` only matches the signature with the feature `tokenizer`.
    pub(super) unsafe fn encode_chat(
        engine: jamba_engine,
        _chat: *const c_char,
        _tokens: (*mut u32, usize, *mut usize),
    ) -> Result<(), Failure> {
        refuse(engine)
    }

    pub(super) fn open(engine: jamba_engine, _before: &[u32], _special: i32) -> Result<u64, Failure> {
        refuse(engine)
    }

    /// # Safety
    /// Dereferences no pointer. `unsafe` only matches the signature with the feature `tokenizer`.
    pub(super) unsafe fn tell(
        stream: jamba_text_stream,
        _token: Option<u32>,
        _text: *mut *const c_char,
        _length: *mut usize,
    ) -> Result<(), Failure> {
        close(stream)
    }

    pub(super) fn close(stream: jamba_text_stream) -> Result<(), Failure> {
        handles::get(stream.id);
        Err(invalid("stream of text"))
    }

    fn refuse<T>(engine: jamba_engine) -> Result<T, Failure> {
        with_engine(engine.id, |_| Err(unsupported("tokenizer")))
    }
}
