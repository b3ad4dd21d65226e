//! What C passes, as Rust sees it: null is refused, text is checked, and structs may be of another version.

use std::ffi::{CStr, OsStr, c_char};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::status::{Failure, jamba_status};

/// Memory of the caller's, for the length of a call.
///
/// # Safety
/// Unless null, `data` points to `n` values that nobody writes during `'a`.
pub(crate) unsafe fn slice<'a, T>(name: &str, data: *const T, n: usize) -> Result<&'a [T], Failure> {
    match (n, check(name, data)) {
        (0, _) => Ok(&[]),
        (_, Err(failure)) => Err(failure),
        // SAFETY: it is neither null nor unaligned; the rest is the caller's word.
        (_, Ok(())) => Ok(unsafe { std::slice::from_raw_parts(data, n) }),
    }
}

/// A place of the caller's to store something in.
///
/// # Safety
/// Unless null, `place` points to a value that nobody else uses during `'a`.
pub(crate) unsafe fn place<'a, T>(name: &str, place: *mut T) -> Result<&'a mut T, Failure> {
    check(name, place)?;
    // SAFETY: it is neither null nor unaligned; the rest is the caller's word.
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

/// Text of a length that is known.
///
/// # Safety
/// As for [`slice`].
#[cfg(feature = "tokenizer")]
pub(crate) unsafe fn text<'a>(name: &str, data: *const c_char, n: usize) -> Result<&'a str, Failure> {
    // SAFETY: the caller's word is the same.
    let bytes = unsafe { slice(name, data.cast::<u8>(), n) }?;
    str::from_utf8(bytes).map_err(|error| Failure::argument(format!("{name} is not UTF-8: {error}")))
}

/// Text that ends with a zero.
///
/// # Safety
/// Unless null, `data` points to bytes up to a zero, which nobody writes during `'a`.
pub(crate) unsafe fn string<'a>(name: &str, data: *const c_char) -> Result<&'a str, Failure> {
    check(name, data)?;
    // SAFETY: it is not null; the rest is the caller's word.
    let text = unsafe { CStr::from_ptr(data) };
    text.to_str().map_err(|error| Failure::argument(format!("{name} is not UTF-8: {error}")))
}

/// A path, which need not be UTF-8.
///
/// # Safety
/// As for [`string`].
pub(crate) unsafe fn file_path<'a>(data: *const c_char) -> Result<&'a Path, Failure> {
    check("path", data)?;
    // SAFETY: it is not null; the rest is the caller's word.
    let text = unsafe { CStr::from_ptr(data) };
    Ok(Path::new(OsStr::from_bytes(text.to_bytes())))
}

/// Stores a list, and how long it is; where it does not fit, only that.
///
/// # Safety
/// Unless null, `data` points to `capacity` values and `length` to one, which nobody else uses meanwhile.
pub(crate) unsafe fn store<T: Copy>(
    items: &[T],
    data: *mut T,
    capacity: usize,
    length: *mut usize,
) -> Result<(), Failure> {
    // SAFETY: the caller's word is the same.
    *unsafe { place("length", length) }? = items.len();
    if items.len() > capacity {
        let message = format!("the buffer holds {capacity}, {} are needed", items.len());
        return Err(Failure::new(jamba_status::JAMBA_TOO_SMALL, message));
    }
    if !items.is_empty() {
        check("buffer", data)?;
        // SAFETY: there is room for them, and memory of the caller's is none of ours.
        unsafe { std::ptr::copy_nonoverlapping(items.as_ptr(), data, items.len()) };
    }
    Ok(())
}

/// Stores text with a zero behind it, which `length` does not count.
///
/// # Safety
/// As for [`store`].
pub(crate) unsafe fn store_text(
    text: &str,
    data: *mut c_char,
    capacity: usize,
    length: *mut usize,
) -> Result<(), Failure> {
    let with_zero: Vec<u8> = text.bytes().chain([0]).collect();
    // SAFETY: the caller's word is the same.
    let stored = unsafe { store(&with_zero, data.cast(), capacity, length) };
    // SAFETY: as above.
    *unsafe { place("length", length) }? = text.len();
    stored
}

/// Structs of options: `size` comes first and says how much of one the caller knows.
///
/// # Safety
/// The type begins with a `usize`, and bytes make one of it in any combination.
pub(crate) unsafe trait Versioned: Sized + Copy {
    /// Bytes of the first version.
    const FIRST: usize;

    /// What an option is that the caller does not know.
    fn defaults() -> Self;
}

/// The caller's options over the defaults; the defaults for null.
///
/// # Safety
/// Unless null, `data` points to a `size` and as many bytes as it says.
pub(crate) unsafe fn options<T: Versioned>(name: &str, data: *const T) -> Result<T, Failure> {
    let mut options = T::defaults();
    if data.is_null() {
        return Ok(options);
    }
    check(name, data)?;
    // SAFETY: every such struct begins with its size.
    let size = unsafe { *data.cast::<usize>() };
    if size < T::FIRST || size > 1 << 16 {
        return Err(Failure::argument(format!("{name}->size is {size}: it has to be the struct's, set before use")));
    }
    let ours = size_of::<T>();
    if size > ours {
        // SAFETY: the caller says that there are so many bytes.
        let more = unsafe { std::slice::from_raw_parts(data.cast::<u8>().add(ours), size - ours) };
        if more.iter().any(|&byte| byte != 0) {
            return Err(Failure::new(
                jamba_status::JAMBA_UNSUPPORTED,
                format!("{name} has options that this version of the library does not know"),
            ));
        }
    }
    let bytes = size.min(ours);
    // SAFETY: both have so many bytes, and any bytes are a value of the type.
    unsafe { std::ptr::copy_nonoverlapping(data.cast::<u8>(), (&raw mut options).cast::<u8>(), bytes) };
    Ok(options)
}

/// Stores the defaults, as far as the caller's struct reaches.
///
/// # Safety
/// Unless null, `data` points to `size` bytes.
pub(crate) unsafe fn store_defaults<T: Versioned>(data: *mut T, size: usize) -> Result<(), Failure> {
    check("options", data)?;
    if size < T::FIRST {
        return Err(Failure::argument(format!("a size of {size}: it has to be the struct's")));
    }
    let defaults = T::defaults();
    let bytes = size.min(size_of::<T>());
    // SAFETY: the caller's struct has `size` bytes, ours `bytes`, and that is not more.
    unsafe {
        std::ptr::write_bytes(data.cast::<u8>(), 0, size);
        std::ptr::copy_nonoverlapping((&raw const defaults).cast::<u8>(), data.cast::<u8>(), bytes);
        *data.cast::<usize>() = size;
    }
    Ok(())
}
