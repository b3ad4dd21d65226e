//! Conversion of C arguments: rejects null and unaligned pointers, checks UTF-8, and handles versions of structs.

use std::ffi::{CStr, OsStr, c_char};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use jamba_runtime::RuntimeError;

use crate::status::{Failure, jamba_status};

/// Most values of a list. No list that the library takes can have more: tokens of a sequence, for example, are counted in 31 bits.
const MOST_VALUES: usize = i32::MAX as usize;

/// A slice of C memory, for the duration of a call. A number of values that no list has is refused, without a look at them: it is
/// uninitialized or negative in C.
///
/// # Safety
/// Unless null, `data` points to `n` values that are not written during `'a`.
pub(crate) unsafe fn slice<'a, T>(name: &str, data: *const T, n: usize) -> Result<&'a [T], Failure> {
    // Bytes of a plan or a text may be more, up to what Rust's slices have.
    let most = if size_of::<T>() == 1 { isize::MAX as usize } else { MOST_VALUES };
    if n > most {
        return Err(Failure::argument(format!("{name}: found a length of {n}, expected at most {most}")));
    }
    match (n, check(name, data)) {
        (0, _) => Ok(&[]),
        (_, Err(failure)) => Err(failure),
        // SAFETY: not null and aligned (checked); the caller guarantees the rest, see `# Safety`.
        (_, Ok(())) => Ok(unsafe { std::slice::from_raw_parts(data, n) }),
    }
}

/// Tokens of a sequence of an engine with this maximum context. More are refused without a look at them.
///
/// # Safety
/// Unless null, `data` points to `n` values that are not written during `'a`.
pub(crate) unsafe fn tokens<'a>(
    name: &str,
    data: *const u32,
    n: usize,
    max_context: u64,
) -> Result<&'a [u32], Failure> {
    match n as u64 {
        wanted if wanted > max_context => Err(RuntimeError::ContextFull { wanted, max_context }.into()),
        // SAFETY: the caller guarantees that the pointer is null or valid, see `# Safety`.
        _ => unsafe { slice(name, data, n) },
    }
}

/// A mutable value in C memory.
///
/// # Safety
/// Unless null, `place` points to a value that is not otherwise accessed during `'a`.
pub(crate) unsafe fn place<'a, T>(name: &str, place: *mut T) -> Result<&'a mut T, Failure> {
    check(name, place)?;
    // SAFETY: not null and aligned (checked); the caller guarantees the rest, see `# Safety`.
    Ok(unsafe { &mut *place })
}

fn check<T>(name: &str, pointer: *const T) -> Result<(), Failure> {
    if pointer.is_null() {
        return Err(Failure::argument(format!("{name} is null")));
    }
    if !pointer.is_aligned() {
        return Err(Failure::argument(format!("{name} is not aligned")));
    }
    Ok(())
}

/// UTF-8 text of `n` bytes.
///
/// # Safety
/// Unless null, `data` points to `n` bytes that are not written during `'a`.
#[cfg(feature = "tokenizer")]
pub(crate) unsafe fn text<'a>(name: &str, data: *const c_char, n: usize) -> Result<&'a str, Failure> {
    // SAFETY: the caller guarantees that the pointers are null or valid, see `# Safety`.
    let bytes = unsafe { slice(name, data.cast::<u8>(), n) }?;
    str::from_utf8(bytes).map_err(|error| Failure::argument(format!("{name} is not UTF-8: {error}")))
}

/// Zero-terminated UTF-8 text.
///
/// # Safety
/// Unless null, `data` points to a zero-terminated string that is not written during `'a`.
pub(crate) unsafe fn string<'a>(name: &str, data: *const c_char) -> Result<&'a str, Failure> {
    check(name, data)?;
    // SAFETY: not null (checked); the caller guarantees the rest, see `# Safety`.
    let text = unsafe { CStr::from_ptr(data) };
    text.to_str().map_err(|error| Failure::argument(format!("{name} is not UTF-8: {error}")))
}

/// A zero-terminated path, which need not be UTF-8.
///
/// # Safety
/// Unless null, `data` points to a zero-terminated string that is not written during `'a`.
pub(crate) unsafe fn file_path<'a>(data: *const c_char) -> Result<&'a Path, Failure> {
    check("path", data)?;
    // SAFETY: not null (checked); the caller guarantees the rest, see `# Safety`.
    let text = unsafe { CStr::from_ptr(data) };
    Ok(Path::new(OsStr::from_bytes(text.to_bytes())))
}

/// Stores items and their number. Stores only the number if they do not fit.
///
/// # Safety
/// Unless null, `data` points to `capacity` writable values and `length` to one, which are not otherwise accessed meanwhile.
pub(crate) unsafe fn store<T: Copy>(
    items: &[T],
    data: *mut T,
    capacity: usize,
    length: *mut usize,
) -> Result<(), Failure> {
    // SAFETY: the caller guarantees that the pointers are null or valid, see `# Safety`.
    *unsafe { place("length", length) }? = items.len();
    if items.len() > capacity {
        let message = format!("the buffer has room for {capacity}, expected {}", items.len());
        return Err(Failure::new(jamba_status::JAMBA_TOO_SMALL, message));
    }
    if !items.is_empty() {
        check("buffer", data)?;
        // SAFETY: `data` has room for `capacity` ≥ `items.len()` values and does not overlap `items`, which Rust allocated.
        unsafe { std::ptr::copy_nonoverlapping(items.as_ptr(), data, items.len()) };
    }
    Ok(())
}

/// Stores text and a terminating zero. `length` does not count the zero.
///
/// # Safety
/// Unless null, `data` points to `capacity` writable bytes and `length` to a value, which are not otherwise accessed meanwhile.
pub(crate) unsafe fn store_text(
    text: &str,
    data: *mut c_char,
    capacity: usize,
    length: *mut usize,
) -> Result<(), Failure> {
    let with_zero: Vec<u8> = text.bytes().chain([0]).collect();
    // SAFETY: the caller guarantees that the pointers are null or valid, see `# Safety`.
    let stored = unsafe { store(&with_zero, data.cast(), capacity, length) };
    // SAFETY: the caller guarantees that the pointers are null or valid, see `# Safety`.
    *unsafe { place("length", length) }? = text.len();
    stored
}

/// Option structs. The first field, `size`, is the size of the struct that the caller was compiled with.
///
/// # Safety
/// The type is `repr(C)`, its first field is a `usize`, and any bytes are a valid value.
pub(crate) unsafe trait Versioned: Sized + Copy {
    /// Size of the first version, in bytes.
    const FIRST: usize;

    /// Default values, for fields that the caller does not know.
    fn defaults() -> Self;
}

/// Reads options; fields that the caller does not know, and all fields for null, have their defaults.
///
/// # Safety
/// Unless null, `data` points to a struct of as many bytes as its field `size` states.
pub(crate) unsafe fn options<T: Versioned>(name: &str, data: *const T) -> Result<T, Failure> {
    let mut options = T::defaults();
    if data.is_null() {
        return Ok(options);
    }
    check(name, data)?;
    // SAFETY: not null and aligned (checked); `Versioned` structs start with their size.
    let size = unsafe { *data.cast::<usize>() };
    // A struct ends with a whole field: a copied half of a pointer would be followed.
    if size < T::FIRST || size > 1 << 16 || !size.is_multiple_of(align_of::<T>()) {
        return Err(Failure::argument(format!("{name}->size is {size}, expected the size of the struct")));
    }
    let ours = size_of::<T>();
    if size > ours {
        // SAFETY: the caller guarantees that `size` bytes are readable, see `# Safety`.
        let more = unsafe { std::slice::from_raw_parts(data.cast::<u8>().add(ours), size - ours) };
        if more.iter().any(|&byte| byte != 0) {
            return Err(Failure::new(
                jamba_status::JAMBA_UNSUPPORTED,
                format!("{name} has options that this version of the library does not support"),
            ));
        }
    }
    let bytes = size.min(ours);
    // SAFETY: source and destination have at least `bytes` bytes, and any bytes are a valid value (`Versioned`).
    unsafe { std::ptr::copy_nonoverlapping(data.cast::<u8>(), (&raw mut options).cast::<u8>(), bytes) };
    Ok(options)
}

/// Stores the defaults of the fields that the caller's struct has.
///
/// # Safety
/// Unless null, `data` points to `size` writable bytes.
pub(crate) unsafe fn store_defaults<T: Versioned>(data: *mut T, size: usize) -> Result<(), Failure> {
    // SAFETY: the caller guarantees that `size` bytes are writable, see `# Safety`.
    unsafe { store_options(&T::defaults(), data, size) }
}

/// Stores the fields of `options` that the caller's struct has.
///
/// # Safety
/// Unless null, `data` points to `size` writable bytes.
pub(crate) unsafe fn store_options<T: Versioned>(options: &T, data: *mut T, size: usize) -> Result<(), Failure> {
    check("options", data)?;
    if size < T::FIRST || size > 1 << 16 || !size.is_multiple_of(align_of::<T>()) {
        return Err(Failure::argument(format!("size is {size}, expected the size of the struct")));
    }
    let bytes = size.min(size_of::<T>());
    // SAFETY: `data` has `size` writable bytes (caller), `options` has `bytes` ≤ `size` bytes.
    unsafe {
        std::ptr::write_bytes(data.cast::<u8>(), 0, size);
        std::ptr::copy_nonoverlapping((&raw const *options).cast::<u8>(), data.cast::<u8>(), bytes);
        *data.cast::<usize>() = size;
    }
    Ok(())
}
