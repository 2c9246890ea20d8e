//! The head of a safetensors file: its length, and the entries of its tensors, each checked against the others and against
//! the size of the file.
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

use serde::Deserialize;
use serde::de::{IgnoredAny, MapAccess, Visitor};

use super::{SafeTensorsFault as Fault, Tensor};
use crate::shortened;

/// The largest head: some hundred thousand tensors.
const MAX_HEAD_BYTES: u64 = 16 << 20;
/// Dimensions of a tensor at most.
const MAX_RANK: usize = 8;
/// Bytes of a name, or of what the reader of the JSON says, that an error repeats: both can be as long as the head.
const MAX_QUOTED_BYTES: usize = 200;
/// Bytes before the head.
const PREFIX: u64 = 8;

#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// Reads and checks the head of a file of `size` bytes.
pub(super) fn read(file: &File, size: u64) -> Result<BTreeMap<String, Tensor>, Fault> {
    let io = |error| Fault::Io {
        action: "read its head",
        error,
    };
    if size < PREFIX {
        return Err(Fault::Head(format!("it has {size} bytes")));
    }
    let mut prefix = [0; PREFIX as usize];
    file.read_exact_at(&mut prefix, 0).map_err(io)?;
    let length = u64::from_le_bytes(prefix);
    if length > MAX_HEAD_BYTES || length > size - PREFIX {
        return Err(Fault::Head(format!(
            "it announces a head of {length} bytes in a file of {size}"
        )));
    }
    let mut head = vec![0; length as usize];
    file.read_exact_at(&mut head, PREFIX).map_err(io)?;
    if head.first() != Some(&b'{') {
        return Err(Fault::Head("its head is no JSON object".to_owned()));
    }
    let Entries(entries) = serde_json::from_slice(&head).map_err(|error| Fault::Head(quoted(&error.to_string())))?;
    place(entries, PREFIX + length, size)
}

/// Checks the entries against each other and against the file, whose data begins at `start`.
fn place(mut entries: Vec<(String, Entry)>, start: u64, size: u64) -> Result<BTreeMap<String, Tensor>, Fault> {
    entries.sort_by_key(|(_, entry)| entry.data_offsets);
    let mut tensors = BTreeMap::new();
    let mut end = 0;
    for (name, entry) in entries {
        let wrong = |problem: String| Fault::Tensor {
            tensor: quoted(&name),
            problem,
        };
        let [first, last] = entry.data_offsets;
        if first != end || last < first {
            let problem = format!("lies at {first}..{last} of the data, and the one before it ends at {end}");
            return Err(wrong(problem));
        }
        end = last;
        let offset = start.checked_add(first);
        let Some(offset) = offset.filter(|_| start.checked_add(last).is_some_and(|last| last <= size)) else {
            return Err(wrong(format!(
                "ends at byte {last} of the data, beyond the file's {size} bytes"
            )));
        };
        if entry.shape.len() > MAX_RANK {
            return Err(wrong(format!("has {} dimensions", entry.shape.len())));
        }
        let element = element_bytes(&entry.dtype)
            .ok_or_else(|| wrong(format!("has the unknown type {}", quoted(&entry.dtype))))?;
        let bytes = entry
            .shape
            .iter()
            .try_fold(element, |bytes, &dim| bytes.checked_mul(dim));
        if bytes != Some(last - first) {
            let problem = format!(
                "has {} bytes for the shape {:?} of {}",
                last - first,
                entry.shape,
                entry.dtype
            );
            return Err(wrong(problem));
        }
        let tensor = Tensor {
            dtype: entry.dtype,
            shape: entry.shape,
            offset,
            bytes: last - first,
        };
        if tensors.insert(name.clone(), tensor).is_some() {
            return Err(Fault::Tensor {
                tensor: quoted(&name),
                problem: "is there twice".to_owned(),
            });
        }
    }
    match start.checked_add(end) {
        Some(end) if end == size => Ok(tensors),
        _ => Err(Fault::Head(format!(
            "its tensors end at byte {end} of the data, and the file has {size} bytes"
        ))),
    }
}

fn quoted(text: &str) -> String {
    shortened(text, MAX_QUOTED_BYTES)
}

/// Bytes of an element of the format's types that are whole bytes.
fn element_bytes(dtype: &str) -> Option<u64> {
    Some(match dtype {
        "BOOL" | "U8" | "I8" | "F8_E5M2" | "F8_E4M3" => 1,
        "U16" | "I16" | "F16" | "BF16" => 2,
        "U32" | "I32" | "F32" => 4,
        "U64" | "I64" | "F64" => 8,
        _ => return None,
    })
}

/// The head's entries in the order of the file, names that come twice included.
struct Entries(Vec<(String, Entry)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Entries;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object of tensors")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                    } else {
                        entries.push((name, map.next_value()?));
                    }
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(Reader)
    }
}
