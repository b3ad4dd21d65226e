//! Tensor name → shard, byte range, dtype, shape; over one file or over the shards that an index file lists.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::folder::Folder;
use crate::ignore::Ignore;
use crate::json::{Object, show};
use crate::safetensors::Shard;
use crate::stacked;

/// The file of a checkpoint without shards.
const SINGLE: &str = "model.safetensors";
/// The file that lists the shards.
const INDEX: &str = "model.safetensors.index.json";
/// The files of PyTorch's format.
const PICKLES: [&str; 2] = ["pytorch_model.bin", "pytorch_model.bin.index.json"];

/// Stored type of an element, little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DType {
    /// IEEE 754 binary32.
    F32,
    /// The upper half of an F32.
    Bf16,
    /// IEEE 754 binary16.
    F16,
    /// A signed 8-bit integer; has a scale.
    I8,
    /// A sign, 4 bits of exponent and 3 of mantissa, without infinities; has a scale.
    F8E4M3,
    /// The upper half of an F16; has a scale.
    F8E5M2,
    /// Words and bytes with packed numbers, and counts. They have no value of their own.
    U8,
    I32,
    U32,
    I64,
    /// GGUF's blocks of 32 or 256 elements of a row, with their scales (`blocks`).
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
}

impl DType {
    /// The types in safetensors files.
    pub const SAFETENSORS: [DType; 10] = [
        Self::F32,
        Self::Bf16,
        Self::F16,
        Self::I8,
        Self::F8E4M3,
        Self::F8E5M2,
        Self::U8,
        Self::I32,
        Self::U32,
        Self::I64,
    ];

    /// The name in safetensors headers; that of GGUF for its blocks.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::Bf16 => "BF16",
            Self::F16 => "F16",
            Self::I8 => "I8",
            Self::F8E4M3 => "F8_E4M3",
            Self::F8E5M2 => "F8_E5M2",
            Self::U8 => "U8",
            Self::I32 => "I32",
            Self::U32 => "U32",
            Self::I64 => "I64",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
        }
    }

    /// The name in config.json.
    pub(crate) fn name_in_torch(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
            Self::F16 => "float16",
            Self::I8 => "int8",
            Self::F8E4M3 => "float8_e4m3fn",
            Self::F8E5M2 => "float8_e5m2",
            other => other.name(),
        }
    }

    /// Whether an element has 8 bits and needs a scale that another tensor holds.
    pub fn needs_scales(self) -> bool {
        matches!(self, Self::I8 | Self::F8E4M3 | Self::F8E5M2)
    }

    /// Whether elements are words, bytes or counts, which are no values of a tensor.
    pub fn is_words(self) -> bool {
        matches!(self, Self::U8 | Self::I32 | Self::U32 | Self::I64)
    }

    /// Whether elements are stored in blocks with their scales, as GGUF's types are.
    pub fn is_blocks(self) -> bool {
        self.block().0 > 1
    }

    /// Elements and bytes of a block; a single element for types without blocks. Rows are whole blocks.
    pub fn block(self) -> (usize, usize) {
        match self {
            Self::I64 => (1, 8),
            Self::F32 | Self::I32 | Self::U32 => (1, 4),
            Self::Bf16 | Self::F16 => (1, 2),
            Self::I8 | Self::F8E4M3 | Self::F8E5M2 | Self::U8 => (1, 1),
            Self::Q4_0 => (32, 2 + 16),
            Self::Q4_1 => (32, 2 + 2 + 16),
            Self::Q5_0 => (32, 2 + 4 + 16),
            Self::Q5_1 => (32, 2 + 2 + 4 + 16),
            Self::Q8_0 => (32, 2 + 32),
            Self::Q4K => (256, 2 + 2 + 12 + 128),
            Self::Q5K => (256, 2 + 2 + 12 + 32 + 128),
            Self::Q6K => (256, 128 + 64 + 16 + 2),
        }
    }

    /// Bytes of elements from the beginning of a block on; of the whole blocks that hold them.
    pub fn bytes_of(self, n_elements: usize) -> usize {
        let (elements, bytes) = self.block();
        n_elements.div_ceil(elements) * bytes
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Location and type of a parameter. The byte range is checked against dtype, shape and file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Hugging Face name.
    pub name: String,
    /// Index of the shard that holds it.
    pub shard_idx: usize,
    pub dtype: DType,
    /// Outermost first; the last dimension is contiguous.
    pub shape: Vec<usize>,
    /// Byte range in the file of the shard, without alignment.
    pub byte_range: Range<usize>,
    /// What the elements are of the values of the tensor.
    pub values: Values,
}

/// What stored elements are of the values of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Values {
    /// The values.
    #[default]
    Same,
    /// −exp of the values, in f32: GGUF's `ssm_a` of `A_log`. A value is read as the shortest number (bf16, f16, f32) with this
    /// exponential, which gives back values that were stored in 16 bits.
    NegatedExponentials,
}

impl TensorInfo {
    /// Number of elements.
    pub fn n_elements(&self) -> usize {
        let (elements, bytes) = self.dtype.block();
        self.byte_range.len() / bytes * elements
    }
}

/// Every tensor of a checkpoint in name order, and the mapped shards.
#[derive(Debug)]
pub(crate) struct Index {
    /// Sorted by name.
    pub(crate) tensors: Vec<TensorInfo>,
    /// In the order of their file names.
    pub(crate) shards: Vec<Shard>,
    /// The file that lists the tensors.
    pub(crate) path: PathBuf,
    /// Names of tensors in the files that are left out, in order.
    pub(crate) ignored: Vec<String>,
    /// Names of tensors that the index file lists and no file has.
    pub(crate) unstored: Vec<String>,
}

/// Tensors whose listing may disagree with the files.
pub(crate) struct Lenient<'a> {
    /// Tensors to leave out.
    pub(crate) ignore: &'a Ignore,
    /// The output projection of a tied model, which is the embedding: writers list it without storing it, or store it without
    /// listing it.
    pub(crate) tied_head: Option<&'static str>,
}

impl Lenient<'_> {
    /// True for a tensor that may be listed and not stored, or stored and not listed.
    fn allows(&self, name: &str) -> bool {
        self.tied_head == Some(name) || self.ignore.has_tensor(name)
    }
}

impl Index {
    /// Opens the shards of the checkpoint in the folder.
    pub(crate) fn open(folder: &Folder, lenient: &Lenient) -> Result<Self> {
        if folder.has(INDEX) {
            return Self::open_sharded(folder, lenient);
        }
        if !folder.has(SINGLE) {
            return Err(nothing_found(folder.path()));
        }
        Self::of(Shard::map(folder, SINGLE)?, lenient.ignore)
    }

    /// The tensors of a single safetensors file.
    pub(crate) fn of(shard: Shard, ignore: &Ignore) -> Result<Self> {
        let (shard, contents) = shard.read(0, ignore)?;
        let (tensors, ignored) = (stacked::split(contents.tensors), contents.ignored);
        let path = shard.path().to_owned();
        Ok(Self { tensors, shards: vec![shard], path, ignored, unstored: Vec::new() })
    }

    /// Opens the shards that the index file lists, and checks that they hold the listed tensors.
    fn open_sharded(folder: &Folder, lenient: &Lenient) -> Result<Self> {
        let (dir, path) = (folder.path(), folder.path().join(INDEX));
        let weight_map = read_weight_map(&folder.read(INDEX)?, &path)?;
        let mut names: Vec<&str> = weight_map.values().map(String::as_str).collect();
        names.sort_unstable();
        names.dedup();
        if folder.has(SINGLE) && !names.contains(&SINGLE) {
            return Err(Error::file(dir, format!("{SINGLE} and {INDEX}, which does not list it"), "one of them"));
        }

        let mut shards = Vec::with_capacity(names.len());
        let (mut ignored, mut unstored) = (Vec::new(), Vec::new());
        let mut holders: BTreeMap<String, TensorInfo> = BTreeMap::new();
        for name in &names {
            let shard_path = dir.join(name);
            if !folder.has(name) {
                let listed_here = |(tensor, shard): (&String, &String)| shard != name || lenient.allows(tensor);
                if weight_map.iter().all(listed_here) {
                    continue;
                }
                return Err(Error::file(&shard_path, "no such file", format!("the shard that {INDEX} lists")));
            }
            let (shard, contents) = Shard::open(folder, name, shards.len(), lenient.ignore)?;
            shards.push(shard);
            ignored.extend(contents.ignored);
            for tensor in contents.tensors {
                if let Some(other) = holders.get(&tensor.name) {
                    let found = format!("it here and in {}", file_name(&shards, other));
                    return Err(Error::tensor(&shard_path, &tensor.name, found, "it in one shard"));
                }
                match weight_map.get(&tensor.name) {
                    None if !lenient.allows(&tensor.name) => {
                        let expected = format!("only tensors that {INDEX} lists");
                        return Err(Error::tensor(&shard_path, &tensor.name, "it in this shard", expected));
                    }
                    // If the listed shard holds it too, the error comes when that shard is reached.
                    _ => holders.insert(tensor.name.clone(), tensor),
                };
            }
        }
        for (tensor, shard) in &weight_map {
            let expected = format!("it in {shard}, as {INDEX} says");
            match holders.get(tensor) {
                None if lenient.allows(tensor) => unstored.push(tensor.clone()),
                None => return Err(Error::tensor(&dir.join(shard), tensor, "no such tensor", expected)),
                Some(info) if file_name(&shards, info) != *shard => {
                    return Err(Error::tensor(shards[info.shard_idx].path(), tensor, "it in this shard", expected));
                }
                Some(_) => {}
            }
        }
        Ok(Self { tensors: stacked::split(holders.into_values().collect()), shards, path, ignored, unstored })
    }

    pub(crate) fn get(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.binary_search_by(|tensor| tensor.name.as_str().cmp(name)).ok().map(|at| &self.tensors[at])
    }
}

/// The file name of the shard that holds a tensor.
fn file_name<'s>(shards: &'s [Shard], tensor: &TensorInfo) -> std::borrow::Cow<'s, str> {
    shards[tensor.shard_idx].path().file_name().unwrap_or_default().to_string_lossy()
}

/// The index file's tensor → shard table; every shard is the name of a file in the same folder.
pub(crate) fn read_weight_map(text: &[u8], path: &Path) -> Result<BTreeMap<String, String>> {
    #[derive(Deserialize)]
    struct File {
        weight_map: Object,
    }
    let File { weight_map: Object(entries) } =
        serde_json::from_slice(text).map_err(|cause| Error::Json { path: path.into(), cause })?;
    if entries.is_empty() {
        return Err(Error::key(path, "weight_map", "{}", "a shard for each tensor"));
    }
    let shard_of = |(tensor, shard): (String, serde_json::Value)| match shard.as_str() {
        Some(name) if is_file_name(name) => Ok((tensor, name.to_owned())),
        _ => {
            let expected = "the name of a shard in the same folder";
            Err(Error::tensor(path, &tensor, format!("shard {}", show(&shard)), expected))
        }
    };
    entries.into_iter().map(shard_of).collect()
}

/// Whether `name` is a plain file name, which cannot lead out of the folder.
fn is_file_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    matches!((components.next(), components.next()), (Some(Component::Normal(only)), None) if only == name)
        && !name.contains('\\')
}

/// The error for a folder without safetensors.
fn nothing_found(dir: &Path) -> Error {
    match PICKLES.iter().find(|name| dir.join(name).is_file()) {
        Some(pickle) => Error::file(
            dir,
            *pickle,
            format!(
                "{SINGLE} or {INDEX}; convert it once, in Python: AutoModelForCausalLM.from_pretrained(DIR, \
                 torch_dtype=\"auto\").save_pretrained(NEW_DIR, safe_serialization=True)"
            ),
        ),
        None => Error::file(dir, format!("neither {SINGLE} nor {INDEX}"), "one of them"),
    }
}
