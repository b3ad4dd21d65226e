//! Header parsing and the mmap of one safetensors file.
//!
//!     u64, little-endian    n, the header's length
//!     n bytes               {"name": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}, …}
//!     the rest              the data, which data_offsets count from
//!
//! The tensors must cover the data exactly: none overlaps another, nothing lies between two.
//! Format: <https://github.com/huggingface/safetensors#format>.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::Dtype;
use safetensors::tensor::TensorInfo as HeaderEntry;

use crate::error::{Error, Result};
use crate::index::{DType, TensorInfo};
use crate::json::Object;

/// The format's own limit on a header, in bytes.
const MAX_HEADER_BYTES: usize = 100_000_000;
/// Bytes of the number at the beginning of the file.
const LENGTH_BYTES: usize = 8;
/// What a download without Git LFS leaves in the place of a large file.
const LFS_POINTER: &[u8] = b"version https://git-lfs";

/// One mapped file.
#[derive(Debug)]
pub(crate) struct Shard {
    path: PathBuf,
    map: Mmap,
}

impl Shard {
    /// Maps the file at `path` and reads its header; `shard_idx` goes into the tensors' descriptions, which come back
    /// in name order.
    pub(crate) fn open(path: &Path, shard_idx: usize) -> Result<(Self, Vec<TensorInfo>)> {
        let file = File::open(path).map_err(|cause| Error::io(path, cause))?;
        // SAFETY: the mapping is private and read-only, and nothing of ours writes to checkpoints. That nobody else
        // changes or truncates a checkpoint while it is being compiled is a condition of using this crate: the bytes
        // are only ever read as numbers, so that a change gives other numbers, and a truncation a SIGBUS.
        let map = unsafe { Mmap::map(&file) }.map_err(|cause| Error::io(path, cause))?;
        let tensors = read_header(&map, path, shard_idx)?;
        Ok((Self { path: path.into(), map }, tensors))
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of the file, the header included.
    pub(crate) fn bytes(&self, range: Range<usize>) -> &[u8] {
        &self.map[range]
    }
}

/// The tensors of `file`, the content of `path`, in name order. Their byte ranges lie inside `file` and fit their
/// shapes.
fn read_header(file: &[u8], path: &Path, shard_idx: usize) -> Result<Vec<TensorInfo>> {
    let header = header_bytes(file, path)?;
    let data_start = LENGTH_BYTES + header.len();
    let Object(mut entries) =
        serde_json::from_slice(header).map_err(|cause| Error::Json { path: path.into(), cause })?;
    entries.remove("__metadata__");

    let mut tensors = Vec::with_capacity(entries.len());
    for (name, entry) in entries {
        let entry: HeaderEntry = serde_json::from_value(entry).map_err(|cause| {
            Error::tensor(path, &name, format!("a header entry that says: {cause}"), "dtype, shape and data_offsets")
        })?;
        tensors.push(read_entry(name, entry, path, shard_idx)?);
    }
    check_cover(&tensors, file.len() - data_start, path)?;
    for tensor in &mut tensors {
        tensor.byte_range = data_start + tensor.byte_range.start..data_start + tensor.byte_range.end;
    }
    Ok(tensors)
}

/// The JSON of the header, without the length before it.
fn header_bytes<'a>(file: &'a [u8], path: &Path) -> Result<&'a [u8]> {
    if file.starts_with(LFS_POINTER) {
        return Err(Error::file(path, "a Git LFS pointer", "the tensors themselves (`git lfs pull` fetches them)"));
    }
    let Some((length, rest)) = file.split_first_chunk::<LENGTH_BYTES>() else {
        return Err(Error::file(path, format!("{} bytes", file.len()), "a safetensors file, truncated or not one"));
    };
    let length = u64::from_le_bytes(*length);
    let in_file = usize::try_from(length).ok().filter(|length| *length <= MAX_HEADER_BYTES.min(rest.len()));
    match in_file {
        Some(length) => Ok(&rest[..length]),
        None => Err(Error::file(
            path,
            format!("a header of {length} bytes in a file of {} bytes", file.len()),
            format!("a header that fits, of at most {MAX_HEADER_BYTES} bytes (truncated, or not safetensors)"),
        )),
    }
}

/// One tensor's entry; its byte range still counts from the beginning of the data.
fn read_entry(name: String, entry: HeaderEntry, path: &Path, shard_idx: usize) -> Result<TensorInfo> {
    let dtype = match entry.dtype {
        Dtype::F32 => DType::F32,
        Dtype::BF16 => DType::Bf16,
        Dtype::F16 => DType::F16,
        other => return Err(Error::tensor(path, &name, format!("dtype {other:?}"), "F32, BF16 or F16")),
    };
    let (start, end) = entry.data_offsets;
    let size_bytes = entry.shape.iter().try_fold(dtype.size_bytes(), |product, dim| product.checked_mul(*dim));
    if size_bytes.is_none() || end.checked_sub(start) != size_bytes {
        let expected = match size_bytes {
            Some(size_bytes) => format!("{size_bytes} bytes for {dtype} {:?}", entry.shape),
            None => format!("a size that can be addressed, not {dtype} {:?}", entry.shape),
        };
        return Err(Error::tensor(path, &name, format!("data_offsets [{start}, {end}]"), expected));
    }
    Ok(TensorInfo { name, shard_idx, dtype, shape: entry.shape, byte_range: start..end })
}

/// Checks that the tensors, whose ranges count from the beginning of the data, cover `data_bytes` exactly.
fn check_cover(tensors: &[TensorInfo], data_bytes: usize, path: &Path) -> Result<()> {
    let mut by_place: Vec<&TensorInfo> = tensors.iter().collect();
    by_place.sort_by_key(|tensor| (tensor.byte_range.start, tensor.byte_range.end));
    let (mut covered, mut before) = (0, None);
    for tensor in by_place {
        let Range { start, end } = tensor.byte_range;
        if start != covered {
            let fault = if start < covered { "overlap" } else { "leave a gap after" };
            let place = before.map_or("the header".to_owned(), |name| format!("tensor {name}"));
            let found = format!("data_offsets [{start}, {end}], which {fault} {place}");
            return Err(Error::tensor(path, &tensor.name, found, format!("them to begin at {covered}")));
        }
        if end > data_bytes {
            let found = format!("data_offsets [{start}, {end}] in {data_bytes} bytes of data");
            return Err(Error::tensor(path, &tensor.name, found, "all of them in the file (it is truncated)"));
        }
        (covered, before) = (end, Some(&tensor.name));
    }
    if covered != data_bytes {
        let expected = format!("{covered}, which is all that the tensors take");
        return Err(Error::file(path, format!("{data_bytes} bytes of data"), expected));
    }
    Ok(())
}
