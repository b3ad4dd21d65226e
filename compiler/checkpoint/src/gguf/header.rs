//! The header of a GGUF file: metadata and the list of tensors. Little-endian.
//!
//! ```text
//! "GGUF"   u32 version (2 or 3)   u64 tensors   u64 keys
//! each key:      text, u32 type, value         a text is u64 length and UTF-8; an array is u32 type, u64 length, values
//! each tensor:   text, u32 dimensions, u64 each (innermost first), u32 type, u64 offset from the beginning of the data
//! padding to general.alignment (32 where it is absent), data
//! ```
//!
//! Tensors follow each other, each padded to the alignment. Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use serde_json::{Number, Value};

use crate::error::{Error, Result};
use crate::index::DType;
use crate::small_file::refuse_pointer;

/// Alignment of a file that states none.
const ALIGNMENT: u64 = 32;
/// Arrays of arrays are not used by models; deeper ones are damage.
const MOST_DEPTH: usize = 4;
/// Most bytes of a header; a vocabulary of 262,144 tokens takes 10 MB.
const MOST_BYTES: usize = 64 << 20;
/// Most values of the metadata, those of arrays included. Each takes 100 bytes of memory or so.
const MOST_VALUES: usize = 4 << 20;
/// GGUF allows 4 dimensions.
const MOST_DIMENSIONS: u32 = 4;

/// What a header says.
#[derive(Debug)]
pub(super) struct Header {
    /// Numbers with the digits that they need, so that an f32 of 1e-6 is 1e-6.
    pub(super) metadata: BTreeMap<String, Value>,
    /// In the order of the file.
    pub(super) tensors: Vec<Entry>,
}

/// A tensor in a header.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) dtype: DType,
    /// Outermost first.
    pub(super) shape: Vec<usize>,
    /// In the file.
    pub(super) byte_range: Range<usize>,
}

/// Reads the header of `file`, the content of `path`. Byte ranges lie inside `file` and fit types and shapes.
pub(super) fn read(file: &[u8], path: &Path) -> Result<Header> {
    refuse_pointer(file, path)?;
    if !file.starts_with(b"GGUF") {
        return Err(Error::file(path, "other first bytes", "those of a GGUF file: \"GGUF\""));
    }
    let mut reader = Reader { file: &file[..file.len().min(MOST_BYTES)], at: 4, n_values: 0, path };
    match reader.u32("the version")? {
        2 | 3 => {}
        version if [2, 3].contains(&version.swap_bytes()) => {
            return Err(Error::file(path, "a big-endian GGUF file", "a little-endian one"));
        }
        version => return Err(Error::file(path, format!("GGUF version {version}"), "version 2 or 3")),
    }
    let (n_tensors, n_keys) = (reader.u64("the number of tensors")?, reader.u64("the number of keys")?);
    let mut metadata = BTreeMap::new();
    for _ in 0..n_keys {
        let key = reader.text("a key")?;
        let kind = reader.u32(&key)?;
        let value = reader.value(kind, &key, 0)?;
        if metadata.insert(key.clone(), value).is_some() {
            return Err(Error::key(path, &key, "it twice", "it once"));
        }
    }
    let alignment = match metadata.get("general.alignment") {
        None => ALIGNMENT,
        Some(value) => match value.as_u64() {
            Some(alignment) if alignment.is_power_of_two() && alignment <= 1 << 20 => alignment,
            _ => return Err(Error::key(path, "general.alignment", value.to_string(), "a power of two")),
        },
    } as usize;
    let entries = (0..n_tensors).map(|_| reader.entry()).collect::<Result<Vec<_>>>()?;
    let data_start = reader.at.next_multiple_of(alignment);
    let tensors = placed(entries, data_start, alignment, file.len(), path)?;
    Ok(Header { metadata, tensors })
}

/// A tensor whose offset counts from the beginning of the data.
struct Unplaced {
    name: String,
    dtype: DType,
    shape: Vec<usize>,
    bytes: usize,
    offset: u64,
}

/// Checks that the tensors follow each other in `file_bytes`, and places them.
fn placed(
    entries: Vec<Unplaced>,
    data_start: usize,
    alignment: usize,
    file_bytes: usize,
    path: &Path,
) -> Result<Vec<Entry>> {
    let (mut next, mut end) = (data_start, data_start);
    let mut placed = Vec::with_capacity(entries.len());
    for Unplaced { name, dtype, shape, bytes, offset } in entries {
        if usize::try_from(offset).ok().and_then(|offset| offset.checked_add(data_start)) != Some(next) {
            let expected = format!("offset {}, where the tensor before it ends", next - data_start);
            return Err(Error::tensor(path, &name, format!("offset {offset}"), expected));
        }
        let Some(found) = next.checked_add(bytes).filter(|end| *end <= file_bytes) else {
            let found = format!("{bytes} bytes at {next} of {file_bytes}");
            return Err(Error::tensor(path, &name, found, "all of them in the file (it is truncated)"));
        };
        end = found;
        placed.push(Entry { name, dtype, shape, byte_range: next..end });
        next = end.next_multiple_of(alignment);
    }
    if file_bytes > next {
        return Err(Error::file(path, format!("{file_bytes} bytes"), format!("{end}, where the last tensor ends")));
    }
    Ok(placed)
}

/// Types of tensors by number: our type, or the name of one that is not read.
fn tensor_type(number: u32) -> Result<DType, &'static str> {
    Err(match number {
        0 => return Ok(DType::F32),
        1 => return Ok(DType::F16),
        2 => return Ok(DType::Q4_0),
        3 => return Ok(DType::Q4_1),
        6 => return Ok(DType::Q5_0),
        7 => return Ok(DType::Q5_1),
        8 => return Ok(DType::Q8_0),
        12 => return Ok(DType::Q4K),
        13 => return Ok(DType::Q5K),
        14 => return Ok(DType::Q6K),
        30 => return Ok(DType::Bf16),
        9 => "Q8_1",
        10 => "Q2_K",
        11 => "Q3_K",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        _ => "",
    })
}

/// Reads a file from front to back, and never past its end.
struct Reader<'a> {
    file: &'a [u8],
    at: usize,
    n_values: usize,
    path: &'a Path,
}

impl<'a> Reader<'a> {
    fn take(&mut self, bytes: u64, what: &str) -> Result<&'a [u8]> {
        let rest = &self.file[self.at..];
        match usize::try_from(bytes).ok().filter(|bytes| *bytes <= rest.len()) {
            Some(bytes) => {
                self.at += bytes;
                Ok(&rest[..bytes])
            }
            None if self.file.len() == MOST_BYTES => Err(Error::file(
                self.path,
                format!("a header of more than {MOST_BYTES} bytes, at {what:?}"),
                "a header that is shorter",
            )),
            None => Err(Error::file(
                self.path,
                format!("the end of the file in its header, at {what:?}"),
                format!("{bytes} bytes at {} (it is truncated or damaged)", self.at),
            )),
        }
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N as u64, what)?);
        Ok(bytes)
    }

    fn u32(&mut self, what: &str) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: &str) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    fn text(&mut self, what: &str) -> Result<String> {
        let length = self.u64(what)?;
        let bytes = self.take(length, what)?;
        String::from_utf8(bytes.to_owned())
            .map_err(|cause| Error::key(self.path, what, cause.utf8_error().to_string(), "UTF-8"))
    }

    fn value(&mut self, kind: u32, key: &str, depth: usize) -> Result<Value> {
        self.n_values += 1;
        if self.n_values > MOST_VALUES {
            return Err(Error::key(self.path, key, format!("more than {MOST_VALUES} values"), "fewer"));
        }
        Ok(match kind {
            0 => Value::from(self.array::<1>(key)?[0]),
            1 => Value::from(self.array::<1>(key)?[0] as i8),
            2 => Value::from(u16::from_le_bytes(self.array(key)?)),
            3 => Value::from(i16::from_le_bytes(self.array(key)?)),
            4 => Value::from(self.u32(key)?),
            5 => Value::from(self.u32(key)? as i32),
            6 => number(f32::from_le_bytes(self.array(key)?).to_string()),
            7 => match self.array::<1>(key)? {
                [0] => Value::from(false),
                [1] => Value::from(true),
                [other] => return Err(Error::key(self.path, key, format!("{other} as a boolean"), "0 or 1")),
            },
            8 => Value::from(self.text(key)?),
            9 if depth < MOST_DEPTH => {
                let kind = self.u32(key)?;
                let length = self.u64(key)?;
                let mut values = Vec::new();
                for _ in 0..length {
                    values.push(self.value(kind, key, depth + 1)?);
                }
                Value::from(values)
            }
            10 => Value::from(self.u64(key)?),
            11 => Value::from(self.u64(key)? as i64),
            12 => number(f64::from_le_bytes(self.array(key)?).to_string()),
            9 => return Err(Error::key(self.path, key, "arrays inside of arrays", "a list")),
            other => return Err(Error::key(self.path, key, format!("a value of type {other}"), "a type from 0 to 12")),
        })
    }

    fn entry(&mut self) -> Result<Unplaced> {
        let name = self.text("the name of a tensor")?;
        let path = self.path;
        let fail = |found: String, expected: &str| Error::tensor(path, &name, found, expected);
        let n_dimensions = u32::from_le_bytes(self.array(&name)?);
        if !(1..=MOST_DIMENSIONS).contains(&n_dimensions) {
            return Err(fail(format!("{n_dimensions} dimensions"), "1 to 4"));
        }
        let mut shape = Vec::new();
        for _ in 0..n_dimensions {
            let size = u64::from_le_bytes(self.array(&name)?);
            shape.push(usize::try_from(size).unwrap_or(0));
        }
        shape.reverse();
        let number = u32::from_le_bytes(self.array(&name)?);
        let offset = u64::from_le_bytes(self.array(&name)?);
        let dtype = tensor_type(number).map_err(|kind| {
            let expected = "F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K or Q6_K";
            fail(format!("type {number} {kind}").trim().to_owned(), expected)
        })?;
        let n_elements = shape.iter().try_fold(1usize, |product, size| product.checked_mul(*size));
        let (in_block, block_bytes) = dtype.block();
        let row = shape.last().copied().unwrap_or(0);
        let bytes = n_elements
            .filter(|n| *n > 0 && row.is_multiple_of(in_block))
            .and_then(|n| (n / in_block).checked_mul(block_bytes));
        match bytes {
            Some(bytes) => Ok(Unplaced { name, dtype, shape, bytes, offset }),
            None => Err(fail(
                format!("{dtype} {shape:?}"),
                &format!("sizes above 0 that can be addressed, and rows of whole blocks of {in_block}"),
            )),
        }
    }
}

/// A number by its digits; null for NaN and infinities.
fn number(digits: String) -> Value {
    digits.parse::<f64>().ok().and_then(Number::from_f64).map_or(Value::Null, Value::from)
}
