//! Parses the head of a GGUF file from a stream. Each length is compared with what is left of the
//! file, and with a bound that no real model comes near, before memory is taken for it.
use std::collections::{BTreeMap, HashSet};
use std::io::Read;

use super::types;
use super::value::{Numbers, Scalar, Value};
use super::{GgufFault, TensorInfo};

/// Bytes of the whole head, which is kept in memory: the largest vocabularies take some 20 MB.
const MAX_HEAD: u64 = 1 << 27;
/// Metadata entries: real files have 20 to 60.
const MAX_ENTRIES: u64 = 1 << 14;
/// Tensors: the largest published models have a few thousand.
const MAX_TENSORS: u64 = 1 << 16;
/// Elements of an array: the largest vocabularies have 2^18 tokens and 2^19 merges.
const MAX_ELEMENTS: u64 = 1 << 22;
/// Bytes of a key (the specification's limit).
const MAX_KEY: u64 = (1 << 16) - 1;
/// Bytes of a tensor name (the specification says 64).
const MAX_NAME: u64 = 256;
/// Bytes of a text value; chat templates and licences are the longest.
const MAX_TEXT: u64 = 1 << 24;
/// Extents of a tensor (the specification's limit).
const MAX_DIMS: u32 = 4;

/// Smallest entry in bytes: key length, one character, type, one byte of value.
const MIN_ENTRY: u64 = 8 + 1 + 4 + 1;
/// Smallest tensor entry in bytes: name length, one character, count, one extent, type, offset.
const MIN_TENSOR: u64 = 8 + 1 + 4 + 8 + 4 + 8;

const TYPE_TEXT: u32 = 8;
const TYPE_ARRAY: u32 = 9;

type Head = (BTreeMap<String, Value>, Vec<TensorInfo>);

/// Reads metadata and tensor entries of a file of `size` bytes.
pub fn read_head(stream: &mut impl Read, size: u64) -> Result<Head, GgufFault> {
    let mut head = HeadReader { stream, size, at: 0 };
    head.magic_and_version()?;
    let tensor_count = head.u64("the tensor count")?;
    let entry_count = head.u64("the metadata count")?;
    head.bound("metadata entries", entry_count, MIN_ENTRY, MAX_ENTRIES)?;
    head.bound("tensors", tensor_count, MIN_TENSOR, MAX_TENSORS)?;

    let mut metadata = BTreeMap::new();
    for index in 0..entry_count {
        let key = head.text(&format!("metadata key {index}"), MAX_KEY)?;
        let value = head.value(&key)?;
        if metadata.contains_key(&key) {
            return Err(GgufFault::Metadata {
                key,
                problem: "is there twice".into(),
            });
        }
        metadata.insert(key, value);
    }
    let alignment = alignment(&metadata)?;

    let mut names = HashSet::new();
    let mut tensors = Vec::new();
    for index in 0..tensor_count {
        let tensor = head.tensor(index, alignment)?;
        if !names.insert(tensor.name.clone()) {
            return Err(GgufFault::Tensor {
                tensor: tensor.name,
                problem: "is there twice".into(),
            });
        }
        tensors.push(tensor);
    }
    // Offsets in the file count from the first aligned byte after the head.
    let base = head.at.next_multiple_of(alignment);
    for tensor in &mut tensors {
        let relative = tensor.offset;
        let end = base
            .checked_add(relative)
            .and_then(|start| start.checked_add(tensor.bytes));
        if end.is_none_or(|end| end > size) {
            let what = format!("tensor `{}`", tensor.name);
            return Err(GgufFault::Truncated {
                what,
                needed: tensor.bytes,
                at: base.saturating_add(relative),
                size,
            });
        }
        tensor.offset = base + relative;
    }
    Ok((metadata, tensors))
}

struct HeadReader<'a, R> {
    stream: &'a mut R,
    size: u64,
    at: u64,
}

impl<R: Read> HeadReader<'_, R> {
    fn magic_and_version(&mut self) -> Result<(), GgufFault> {
        let mut magic = vec![0u8; self.size.min(4) as usize];
        self.fill(&mut magic)?;
        if magic != b"GGUF" {
            return Err(GgufFault::NotGguf {
                found: format!("\"{}\"", magic.escape_ascii()),
            });
        }
        match self.u32("the version")? {
            2 | 3 => Ok(()),
            version if version.swap_bytes() <= 3 => Err(GgufFault::BigEndian),
            version => Err(GgufFault::Version(version)),
        }
    }

    fn value(&mut self, key: &str) -> Result<Value, GgufFault> {
        let refuse = |problem: String| GgufFault::Metadata {
            key: key.into(),
            problem,
        };
        let type_id = self.u32(key)?;
        if let Some(kind) = Scalar::by_id(type_id) {
            let mut bytes = [0u8; 8];
            let bytes = &mut bytes[..kind.bytes()];
            self.exact(key, bytes)?;
            return kind
                .value(bytes)
                .ok_or_else(|| refuse("is a boolean that is neither 0 nor 1".into()));
        }
        match type_id {
            TYPE_TEXT => Ok(Value::Text(self.text(key, MAX_TEXT)?)),
            TYPE_ARRAY => {
                let element = self.u32(key)?;
                let count = self.u64(key)?;
                match (element, Scalar::by_id(element)) {
                    (_, Some(kind)) => self.numbers(key, kind, count),
                    (TYPE_TEXT, _) => self.texts(key, count),
                    (TYPE_ARRAY, _) => Err(refuse("is an array of arrays, which no model uses".into())),
                    (unknown, _) => Err(refuse(format!("is an array of the unknown type {unknown}"))),
                }
            }
            unknown => Err(refuse(format!("has the unknown type {unknown}"))),
        }
    }

    fn numbers(&mut self, key: &str, kind: Scalar, count: u64) -> Result<Value, GgufFault> {
        let each = kind.bytes() as u64;
        self.bound(&format!("elements in `{key}`"), count, each, MAX_ELEMENTS)?;
        let bytes = self.bytes(key, count * each)?;
        if kind == Scalar::Bool && bytes.iter().any(|&byte| byte > 1) {
            let problem = "has a boolean that is neither 0 nor 1".into();
            return Err(GgufFault::Metadata {
                key: key.into(),
                problem,
            });
        }
        Ok(Value::Numbers(Numbers::new(kind, bytes)))
    }

    fn texts(&mut self, key: &str, count: u64) -> Result<Value, GgufFault> {
        self.bound(&format!("texts in `{key}`"), count, 8, MAX_ELEMENTS)?;
        let mut texts = Vec::new();
        let bytes = count * size_of::<String>() as u64;
        texts
            .try_reserve_exact(count as usize)
            .map_err(|_| GgufFault::OutOfMemory {
                what: format!("`{key}`"),
                bytes,
            })?;
        for _ in 0..count {
            texts.push(self.text(key, MAX_TEXT)?);
        }
        Ok(Value::Texts(texts))
    }

    fn tensor(&mut self, index: u64, alignment: u64) -> Result<TensorInfo, GgufFault> {
        let name = self.text(&format!("the name of tensor {index}"), MAX_NAME)?;
        let refuse = |problem: String| GgufFault::Tensor {
            tensor: name.clone(),
            problem,
        };
        let what = format!("the entry of tensor `{name}`");
        let count = self.u32(&what)?;
        if count == 0 || count > MAX_DIMS {
            return Err(refuse(format!("has {count} dimensions; 1 to {MAX_DIMS} are possible")));
        }
        let mut dims = Vec::with_capacity(count as usize);
        for _ in 0..count {
            dims.push(self.u64(&what)?);
        }
        let type_id = self.u32(&what)?;
        let offset = self.u64(&what)?;
        let kind = types::by_id(type_id)
            .ok_or_else(|| refuse(format!("has type number {type_id}, which this version does not know")))?;
        if dims.contains(&0) {
            return Err(refuse(format!("has the empty shape {dims:?}")));
        }
        let (row, rows) = (dims[0], &dims[1..]);
        if row % kind.block_values != 0 {
            let block = kind.block_values;
            return Err(refuse(format!(
                "has rows of {row} values, and {} needs a multiple of {block}",
                kind.name
            )));
        }
        let bytes = rows
            .iter()
            .try_fold(row / kind.block_values, |product, &extent| product.checked_mul(extent))
            .and_then(|blocks| blocks.checked_mul(kind.block_bytes))
            .ok_or_else(|| refuse(format!("has the shape {dims:?}, more than a file can hold")))?;
        if offset % alignment != 0 {
            return Err(refuse(format!(
                "begins at {offset}, which is no multiple of the alignment {alignment}"
            )));
        }
        Ok(TensorInfo {
            name,
            dims,
            kind,
            offset,
            bytes,
        })
    }

    /// Refuses a count that what is left of the file cannot hold at `each` bytes, or that is over `most`.
    fn bound(&self, what: &str, count: u64, each: u64, most: u64) -> Result<(), GgufFault> {
        let bound = most.min((self.size - self.at) / each);
        if count > bound {
            return Err(GgufFault::TooMany {
                what: what.into(),
                count,
                bound,
            });
        }
        Ok(())
    }

    fn text(&mut self, what: &str, most: u64) -> Result<String, GgufFault> {
        let length = self.u64(what)?;
        if length > most {
            return Err(GgufFault::TooMany {
                what: format!("bytes in {what}"),
                count: length,
                bound: most,
            });
        }
        let bytes = self.bytes(what, length)?;
        String::from_utf8(bytes).map_err(|_| GgufFault::Metadata {
            key: what.into(),
            problem: "is not valid UTF-8".into(),
        })
    }

    fn bytes(&mut self, what: &str, count: u64) -> Result<Vec<u8>, GgufFault> {
        self.check(what, count)?;
        let mut bytes = Vec::new();
        bytes
            .try_reserve_exact(count as usize)
            .map_err(|_| GgufFault::OutOfMemory {
                what: what.into(),
                bytes: count,
            })?;
        bytes.resize(count as usize, 0);
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn u32(&mut self, what: &str) -> Result<u32, GgufFault> {
        let mut bytes = [0u8; 4];
        self.exact(what, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn u64(&mut self, what: &str) -> Result<u64, GgufFault> {
        let mut bytes = [0u8; 8];
        self.exact(what, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn exact(&mut self, what: &str, bytes: &mut [u8]) -> Result<(), GgufFault> {
        self.check(what, bytes.len() as u64)?;
        self.fill(bytes)
    }

    fn check(&self, what: &str, needed: u64) -> Result<(), GgufFault> {
        let head = self.at.saturating_add(needed);
        if needed <= self.size - self.at && head > MAX_HEAD {
            return Err(GgufFault::TooMany {
                what: "bytes before its tensors".into(),
                count: head,
                bound: MAX_HEAD,
            });
        }
        if needed > self.size - self.at {
            return Err(GgufFault::Truncated {
                what: what.into(),
                needed,
                at: self.at,
                size: self.size,
            });
        }
        Ok(())
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), GgufFault> {
        self.stream.read_exact(bytes).map_err(|error| GgufFault::Io {
            action: "read its head",
            error,
        })?;
        self.at += bytes.len() as u64;
        Ok(())
    }
}

fn alignment(metadata: &BTreeMap<String, Value>) -> Result<u64, GgufFault> {
    const KEY: &str = "general.alignment";
    const DEFAULT: u64 = 32;
    /// A page of the largest kind; more would only pad.
    const MOST: u64 = 1 << 30;
    let Some(value) = metadata.get(KEY) else {
        return Ok(DEFAULT);
    };
    match value.as_u64() {
        Some(alignment) if alignment.is_power_of_two() && alignment <= MOST => Ok(alignment),
        _ => Err(GgufFault::Metadata {
            key: KEY.into(),
            problem: "is not a power of two".into(),
        }),
    }
}
