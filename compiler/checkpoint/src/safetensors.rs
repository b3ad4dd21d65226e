//! Header parsing and the mmap of one safetensors file.
//!
//! ```text
//! u64, little-endian    n, the header's length
//! n bytes               {"name": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}, …}
//! the rest              the data, which data_offsets count from
//! ```
//!
//! The tensors must cover the data exactly, without overlaps or gaps.
//! Format: <https://github.com/huggingface/safetensors#format>.

use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::{Mmap, MmapMut};
use safetensors::tensor::TensorInfo as HeaderEntry;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::folder::Folder;
use crate::ignore::Ignore;
use crate::index::{DType, TensorInfo, Values};
use crate::json::Object;
use crate::small_file::refuse_pointer;

/// Limit on a header, in bytes; the format's is 100 MB. Parsed, it takes up to 30 times as many. A tensor takes some 150 bytes of it.
const MAX_HEADER_BYTES: usize = 16 << 20;
/// Size of the header's length at the beginning of the file.
const LENGTH_BYTES: usize = 8;

/// One mapped file.
#[derive(Debug)]
pub(crate) struct Shard {
    path: PathBuf,
    map: Mmap,
}

/// The tensors that a header lists.
#[derive(Debug)]
pub(crate) struct Contents {
    /// In name order.
    pub(crate) tensors: Vec<TensorInfo>,
    /// Names of those that the user wants to be ignored.
    pub(crate) ignored: Vec<String>,
}

impl Shard {
    /// Maps a file of the folder and reads its header. The shard of the tensors is `shard_idx`.
    pub(crate) fn open(folder: &Folder, name: &str, shard_idx: usize, ignore: &Ignore) -> Result<(Self, Contents)> {
        Self::map(folder, name)?.read(shard_idx, ignore)
    }

    /// Reads the header of a safetensors file.
    pub(crate) fn read(self, shard_idx: usize, ignore: &Ignore) -> Result<(Self, Contents)> {
        let contents = read_header(&self.map, &self.path, shard_idx, ignore)?;
        Ok((self, contents))
    }

    /// Maps a file of the folder, of any format.
    pub(crate) fn map(folder: &Folder, name: &str) -> Result<Self> {
        let path = folder.path().join(name);
        let file = folder.file(name)?;
        // SAFETY: the mapping is read-only, and this project never writes to checkpoints. Another process can change the file while it is
        // compiled. The header is parsed from the mapping with checks of every bound, and the data are only read as numbers: a change
        // gives other numbers, or an error. A file cut short raises SIGBUS, which ends the program.
        let map = unsafe { Mmap::map(&file) }.map_err(|cause| Error::io(&path, cause))?;
        Ok(Self { path, map })
    }

    /// Memory in place of a file, of any format.
    pub(crate) fn in_memory(bytes: &[u8], path: &Path) -> Result<Self> {
        let mut map = MmapMut::map_anon(bytes.len()).map_err(|cause| Error::io(path, cause))?;
        map.copy_from_slice(bytes);
        let map = map.make_read_only().map_err(|cause| Error::io(path, cause))?;
        Ok(Self { path: path.into(), map })
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Length of the file in bytes.
    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }

    /// Bytes of the file, the header included.
    pub(crate) fn bytes(&self, range: Range<usize>) -> &[u8] {
        &self.map[range]
    }
}

/// The tensors of `file`, the content of `path`.
pub(crate) fn tensors(file: &[u8], path: &Path) -> Result<Vec<TensorInfo>> {
    Ok(read_header(file, path, 0, &Ignore::default())?.tensors)
}

/// The tensors of `file`, the content of `path`. Their byte ranges lie inside `file` and fit their shapes.
fn read_header(file: &[u8], path: &Path, shard_idx: usize, ignore: &Ignore) -> Result<Contents> {
    let header = header_bytes(file, path)?;
    let data_start = LENGTH_BYTES + header.len();
    let Object(mut entries) =
        serde_json::from_slice(header).map_err(|cause| Error::Json { path: path.into(), cause })?;
    entries.remove("__metadata__");

    let (mut tensors, mut places, mut ignored) = (Vec::with_capacity(entries.len()), Vec::new(), Vec::new());
    for (name, entry) in entries {
        if ignore.has_tensor(&name) {
            // Its dtype may be one that is not supported.
            places.push((name.clone(), data_range(&name, &entry, path)?));
            ignored.push(name);
        } else {
            let tensor = read_entry(name, entry, path, shard_idx)?;
            places.push((tensor.name.clone(), tensor.byte_range.clone()));
            tensors.push(tensor);
        }
    }
    check_cover(places, file.len() - data_start, path)?;
    for tensor in &mut tensors {
        tensor.byte_range = data_start + tensor.byte_range.start..data_start + tensor.byte_range.end;
    }
    Ok(Contents { tensors, ignored })
}

/// The data of a tensor that is ignored.
fn data_range(name: &str, entry: &Value, path: &Path) -> Result<Range<usize>> {
    let offsets: Option<(usize, usize)> =
        entry.get("data_offsets").and_then(|offsets| serde_json::from_value(offsets.clone()).ok());
    match offsets {
        Some((start, end)) if start <= end => Ok(start..end),
        _ => Err(Error::tensor(path, name, format!("{entry}"), "data_offsets that begin before they end")),
    }
}

/// The JSON of the header, without the length before it.
fn header_bytes<'a>(file: &'a [u8], path: &Path) -> Result<&'a [u8]> {
    refuse_pointer(file, path)?;
    let Some((length, rest)) = file.split_first_chunk::<LENGTH_BYTES>() else {
        return Err(Error::file(path, format!("{} bytes", file.len()), "at least 8 (it is truncated)"));
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
fn read_entry(name: String, entry: Value, path: &Path, shard_idx: usize) -> Result<TensorInfo> {
    // Before the safetensors crate parses it, so that dtypes unknown to the crate are refused in the same way.
    let named = entry.get("dtype").and_then(Value::as_str);
    let Some(dtype) = DType::SAFETENSORS.into_iter().find(|dtype| Some(dtype.name()) == named) else {
        let found = named.map_or("no dtype".to_owned(), |other| format!("dtype {other}"));
        return Err(Error::tensor(path, &name, found, "F32, BF16, F16, I8, F8_E4M3 or F8_E5M2"));
    };
    let entry: HeaderEntry = serde_json::from_value(entry).map_err(|cause| {
        Error::tensor(path, &name, format!("a header entry with {cause}"), "dtype, shape and data_offsets")
    })?;
    if entry.shape.contains(&0) {
        return Err(Error::tensor(path, &name, format!("shape {:?}", entry.shape), "no dimension of 0"));
    }
    let (start, end) = entry.data_offsets;
    let size_bytes = entry.shape.iter().try_fold(dtype.block().1, |product, dim| product.checked_mul(*dim));
    if size_bytes.is_none() || end.checked_sub(start) != size_bytes {
        let expected = match size_bytes {
            Some(size_bytes) => format!("{size_bytes} bytes for {dtype} {:?}", entry.shape),
            None => format!("a size that can be addressed, not {dtype} {:?}", entry.shape),
        };
        return Err(Error::tensor(path, &name, format!("data_offsets [{start}, {end}]"), expected));
    }
    Ok(TensorInfo { name, shard_idx, dtype, shape: entry.shape, byte_range: start..end, values: Values::Same })
}

/// Checks that the tensors at `places`, which count from the beginning of the data, cover `data_bytes` exactly.
fn check_cover(mut places: Vec<(String, Range<usize>)>, data_bytes: usize, path: &Path) -> Result<()> {
    places.sort_by_key(|(_, range)| (range.start, range.end));
    let (mut covered, mut before) = (0, None);
    for (name, Range { start, end }) in places {
        if start != covered {
            let fault = if start < covered { "overlap" } else { "leave a gap after" };
            let place = before.map_or("the header".to_owned(), |name: String| format!("tensor {name}"));
            let found = format!("data_offsets [{start}, {end}], which {fault} {place}");
            return Err(Error::tensor(path, &name, found, format!("them to begin at {covered}")));
        }
        if end > data_bytes {
            let found = format!("data_offsets [{start}, {end}] in {data_bytes} bytes of data");
            return Err(Error::tensor(path, &name, found, "all of them in the file (it is truncated)"));
        }
        (covered, before) = (end, Some(name));
    }
    if covered != data_bytes {
        let expected = format!("{covered}, which is all that the tensors take");
        return Err(Error::file(path, format!("{data_bytes} bytes of data"), expected));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const HEADER: &str = r#"{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        "b": {"dtype": "BF16", "shape": [3, 1], "data_offsets": [8, 14]}}"#;

    fn file() -> Vec<u8> {
        with_header(HEADER, 14)
    }

    #[test]
    fn byte_ranges_count_from_the_beginning_of_the_file() {
        let tensors = read_header(&file(), Path::new("x"), 7, &Ignore::default()).unwrap().tensors;
        let start = 8 + HEADER.len();
        let ranges: Vec<_> = tensors.iter().map(|t| (t.name.as_str(), t.shard_idx, t.byte_range.clone())).collect();
        assert_eq!(ranges, [("a", 7, start..start + 8), ("b", 7, start + 8..start + 14)]);
    }

    /// A file with this header and this number of bytes of data.
    fn with_header(header: &str, data_bytes: usize) -> Vec<u8> {
        [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; data_bytes]].concat()
    }

    /// A header entry.
    fn entry(dtype: &str, shape: &[usize], start: usize, end: usize) -> Value {
        json!({"dtype": dtype, "shape": shape, "data_offsets": [start, end]})
    }

    /// The errors of `files`, a line each.
    fn refused(files: &[Vec<u8>], expected: Expect) {
        let error = |file: &Vec<u8>| {
            read_header(file, Path::new("x"), 0, &Ignore::default()).expect_err("a broken file").to_string()
        };
        expected.assert_eq(&files.iter().map(|file| error(file) + "\n").collect::<String>());
    }

    #[test]
    fn refuses_a_truncated_or_foreign_file() {
        let whole = file();
        refused(
            &[
                vec![],
                whole[..7].to_vec(),
                whole[..20].to_vec(),
                whole[..whole.len() - 1].to_vec(),
                [&whole[..], b"x"].concat(),
                b"version https://git-lfs.github.com/spec/v1\noid sha256:00".to_vec(),
                with_header("[]", 0),
            ],
            expect![[r#"
                x: found 0 bytes, expected at least 8 (it is truncated)
                x: found 7 bytes, expected at least 8 (it is truncated)
                x: found a header of 135 bytes in a file of 20 bytes, expected a header that fits, of at most 16777216 bytes (truncated, or not safetensors)
                x: tensor b: found data_offsets [8, 14] in 13 bytes of data, expected all of them in the file (it is truncated)
                x: found 15 bytes of data, expected 14, which is all that the tensors take
                x: found a Git LFS pointer, expected the file itself (`git lfs pull` fetches it)
                x: JSON error: invalid type: sequence, expected a JSON object at line 1 column 0
            "#]],
        );
    }

    #[test]
    fn refuses_a_header_that_describes_a_tensor_wrongly() {
        let entries = [
            entry("F64", &[1], 0, 8),
            entry("F8_E8M0", &[8], 0, 8),
            entry("Q4", &[8], 0, 8),
            json!({"shape": [2], "data_offsets": [0, 8]}),
            json!({"dtype": "F32", "shape": [2]}),
            json!({"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}),
            entry("F32", &[3], 0, 8),
            entry("F32", &[2], 8, 0),
            entry("F32", &[usize::MAX, 2], 0, 8),
            entry("F32", &[0, 2], 0, 0),
        ];
        refused(
            &entries.map(|entry| with_header(&json!({"a": entry}).to_string(), 8)),
            expect![[r#"
            x: tensor a: found dtype F64, expected F32, BF16, F16, I8, F8_E4M3 or F8_E5M2
            x: tensor a: found dtype F8_E8M0, expected F32, BF16, F16, I8, F8_E4M3 or F8_E5M2
            x: tensor a: found dtype Q4, expected F32, BF16, F16, I8, F8_E4M3 or F8_E5M2
            x: tensor a: found no dtype, expected F32, BF16, F16, I8, F8_E4M3 or F8_E5M2
            x: tensor a: found a header entry with missing field `data_offsets`, expected dtype, shape and data_offsets
            x: tensor a: found a header entry with invalid value: integer `-2`, expected usize, expected dtype, shape and data_offsets
            x: tensor a: found data_offsets [0, 8], expected 12 bytes for F32 [3]
            x: tensor a: found data_offsets [8, 0], expected 8 bytes for F32 [2]
            x: tensor a: found data_offsets [0, 8], expected a size that can be addressed, not F32 [18446744073709551615, 2]
            x: tensor a: found shape [0, 2], expected no dimension of 0
        "#]],
        );
    }

    #[test]
    fn refuses_tensors_that_overlap_or_leave_gaps() {
        let two = |b_start: usize, data_bytes| {
            let b = entry("BF16", &[2], b_start, b_start + 4);
            with_header(&json!({"a": entry("F32", &[2], 0, 8), "b": b}).to_string(), data_bytes)
        };
        let late = json!({"a": entry("F16", &[1], 2, 4)}).to_string();
        let a = entry("F16", &[1], 0, 2);
        let twice = format!("{{\"a\": {a}, \"a\": {a}}}");
        refused(
            &[two(4, 8), two(10, 14), with_header(&late, 4), with_header(&twice, 2)],
            expect![[r#"
            x: tensor b: found data_offsets [4, 8], which overlap tensor a, expected them to begin at 8
            x: tensor b: found data_offsets [10, 14], which leave a gap after tensor a, expected them to begin at 8
            x: tensor a: found data_offsets [2, 4], which leave a gap after the header, expected them to begin at 0
            x: JSON error: key "a" is there twice at line 1 column 110
        "#]],
        );
    }

    #[test]
    fn refuses_a_file_cut_anywhere() {
        let file = file();
        for length in 0..file.len() {
            assert!(
                read_header(&file[..length], Path::new("x"), 0, &Ignore::default()).is_err(),
                "cut to {length} bytes"
            );
        }
    }

    proptest! {
        #[test]
        fn damage_never_leads_out_of_the_file(at in 0usize..8 + HEADER.len(), byte: u8) {
            let mut file = file();
            file[at] = byte;
            if let Ok(Contents { tensors, .. }) = read_header(&file, Path::new("x"), 0, &Ignore::default()) {
                for tensor in tensors {
                    prop_assert!(tensor.byte_range.end <= file.len());
                    let n_elements: usize = tensor.shape.iter().product();
                    prop_assert_eq!(tensor.byte_range.len(), tensor.dtype.bytes_of(n_elements));
                }
            }
        }
    }
}
