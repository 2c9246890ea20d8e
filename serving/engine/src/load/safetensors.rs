//! Reads a safetensors file (<https://github.com/huggingface/safetensors#format>): the length of a JSON head, the head,
//! and the bytes of the tensors. Everything that the head says is checked against the size of the file before it is
//! believed: a damaged or hostile file is an error that names what is wrong. Tensors are read one at a time, so the file
//! is never in memory as a whole; the format's own crate wants all of it mapped or read.
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Error, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use windlass_kernels::{TensorType, dequantize};

/// The largest head: some hundred thousand tensors.
const MAX_HEAD_BYTES: u64 = 16 << 20;
/// Dimensions of a tensor at most.
const MAX_RANK: usize = 8;
/// Bytes before the head.
const PREFIX: u64 = 8;

/// The head of a file, and the file.
#[derive(Debug)]
pub struct SafeTensors {
    path: PathBuf,
    file: File,
    size: u64,
    tensors: BTreeMap<String, Tensor>,
}

/// Where a tensor is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// As the file names the type of its elements.
    pub dtype: String,
    /// Outermost dimension first.
    pub shape: Vec<u64>,
    /// First byte in the file.
    pub offset: u64,
    /// How many bytes.
    pub bytes: u64,
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {fault}", path.display())]
pub struct SafeTensorsError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub fault: SafeTensorsFault,
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum SafeTensorsFault {
    /// The operating system could not.
    #[error("cannot {action}: {error}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// What it said.
        error: Error,
    },
    /// Something else than a safetensors file, or a part of one.
    #[error("is not a safetensors file, or is damaged: {0}; download it again")]
    Head(String),
    /// A tensor's entry breaks the format, or is not what the model needs.
    #[error("tensor `{tensor}` {problem}")]
    Tensor {
        /// The entry.
        tensor: String,
        /// Ends the sentence.
        problem: String,
    },
    /// A tensor that the model needs is not there.
    #[error("has no tensor `{0}`, which this model needs")]
    Missing(String),
}
use SafeTensorsFault as Fault;

#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

impl SafeTensors {
    /// Opens the file and reads its head.
    ///
    /// # Errors
    /// If it cannot be read, or breaks the format.
    pub fn open(path: &Path) -> Result<Self, SafeTensorsError> {
        let fail = |fault| SafeTensorsError {
            path: path.into(),
            fault,
        };
        let io = |action| move |error| Fault::Io { action, error };
        let file = File::open(path).map_err(io("open it")).map_err(fail)?;
        let about = file.metadata().map_err(io("read its size")).map_err(fail)?;
        if !about.is_file() {
            let error = Error::new(ErrorKind::InvalidInput, "it is not a regular file");
            return Err(fail(io("read it")(error)));
        }
        let size = about.len();
        let tensors = read_head(&file, size).map_err(fail)?;
        Ok(Self {
            path: path.into(),
            file,
            size,
            tensors,
        })
    }

    /// Bytes of the file.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether there is such a tensor.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Reads a tensor of exactly this shape as f32.
    ///
    /// # Errors
    /// If it is not there, has another shape or a type that is not F32, F16 or BF16, or cannot be read.
    pub fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, SafeTensorsError> {
        self.try_read(name, shape).map_err(|fault| SafeTensorsError {
            path: self.path.clone(),
            fault,
        })
    }

    fn try_read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Fault> {
        let tensor = self.tensors.get(name).ok_or_else(|| Fault::Missing(name.into()))?;
        let wrong = |problem: String| Fault::Tensor {
            tensor: name.into(),
            problem,
        };
        if !tensor.shape.iter().copied().eq(shape.iter().map(|&dim| dim as u64)) {
            return Err(wrong(format!(
                "has the shape {:?}, and {shape:?} is needed",
                tensor.shape
            )));
        }
        let ty = match tensor.dtype.as_str() {
            "F32" => TensorType::F32,
            "F16" => TensorType::F16,
            "BF16" => TensorType::BF16,
            other => {
                return Err(wrong(format!(
                    "has elements of type {other}; F32, F16 and BF16 are supported"
                )));
            }
        };
        let no_memory = || wrong(format!("needs {} bytes of memory, which are not there", tensor.bytes));
        let len = usize::try_from(tensor.bytes).map_err(|_| no_memory())?;
        let mut bytes: Vec<u8> = Vec::new();
        bytes.try_reserve_exact(len).map_err(|_| no_memory())?;
        bytes.resize(len, 0);
        self.file
            .read_exact_at(&mut bytes, tensor.offset)
            .map_err(|error| Fault::Io {
                action: "read its tensors (was it changed meanwhile?)",
                error,
            })?;
        let mut values: Vec<f32> = Vec::new();
        let count = len / ty.block_bytes();
        values.try_reserve_exact(count).map_err(|_| no_memory())?;
        values.resize(count, 0.0);
        dequantize(ty, &bytes, &mut values).map_err(|error| wrong(error.to_string()))?;
        Ok(values)
    }
}

fn read_head(file: &File, size: u64) -> Result<BTreeMap<String, Tensor>, Fault> {
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
    let Entries(entries) = serde_json::from_slice(&head).map_err(|error| Fault::Head(error.to_string()))?;
    place(entries, PREFIX + length, size)
}

/// Checks the entries against each other and against the file, whose data begins at `start`.
fn place(mut entries: Vec<(String, Entry)>, start: u64, size: u64) -> Result<BTreeMap<String, Tensor>, Fault> {
    entries.sort_by_key(|(_, entry)| entry.data_offsets);
    let mut tensors = BTreeMap::new();
    let mut end = 0;
    for (name, entry) in entries {
        let wrong = |problem: String| Fault::Tensor {
            tensor: name.clone(),
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
        let element =
            element_bytes(&entry.dtype).ok_or_else(|| wrong(format!("has the unknown type {}", entry.dtype)))?;
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
                tensor: name,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn file(head: &[u8], data: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let bytes = [&(head.len() as u64).to_le_bytes(), head, data].concat();
        std::fs::write(file.path(), bytes).unwrap();
        file
    }

    fn refusal(head: &str, data: &[u8]) -> String {
        let file = file(head.as_bytes(), data);
        SafeTensors::open(file.path()).unwrap_err().fault.to_string()
    }

    #[test]
    fn every_float_type_is_read_as_f32() {
        let head = br#"{"__metadata__":{"format":"pt"},
            "a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},
            "c":{"dtype":"BF16","shape":[2],"data_offsets":[12,16]},
            "b":{"dtype":"F16","shape":[1,2],"data_offsets":[8,12]}}  "#;
        let data = [0, 0, 128, 63, 0, 0, 0, 192, 0, 60, 0, 192, 128, 63, 0, 192];
        let file = file(head, &data);
        let tensors = SafeTensors::open(file.path()).unwrap();
        for (name, shape) in [("a", &[2, 1][..]), ("b", &[1, 2]), ("c", &[2])] {
            assert_eq!(tensors.read(name, shape).unwrap(), [1.0, -2.0], "{name}");
        }
        let error = tensors.read("a", &[1, 2]).unwrap_err().fault.to_string();
        assert_eq!(error, "tensor `a` has the shape [2, 1], and [1, 2] is needed");
        let error = tensors.read("d", &[1]).unwrap_err().fault.to_string();
        assert_eq!(error, "has no tensor `d`, which this model needs");
    }

    #[test]
    fn entries_that_do_not_fit_the_file_are_refused_by_name() {
        let one = |dtype: &str, shape: &str, offsets: &str| {
            format!(r#"{{"x":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
        };
        for (head, words) in [
            (one("F32", "[2]", "[0,4]"), "has 4 bytes for the shape [2] of F32"),
            (one("F32", "[2]", "[0,8]"), "beyond the file's"),
            (one("F32", "[1]", "[4,8]"), "the one before it ends at 0"),
            (one("F32", "[1]", "[4,0]"), "the one before it ends at 0"),
            (one("F4", "[1]", "[0,4]"), "unknown type F4"),
            (one("F32", "[4294967296,4294967296]", "[0,4]"), "has 4 bytes for"),
            (one("F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]"), "has 9 dimensions"),
            (one("F32", "[1]", "[0,18446744073709551615]"), "beyond the file's"),
        ] {
            let refusal = refusal(&head, &[0; 4]);
            assert!(
                refusal.starts_with("tensor `x` ") && refusal.contains(words),
                "{refusal}"
            );
        }
        let two = |second: &str| {
            let first = r#""x":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}"#;
            refusal(&format!("{{{first},{second}}}"), &[0; 8])
        };
        let overlap = two(r#""y":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}"#);
        assert!(overlap.starts_with("tensor `y` lies at 2..6"), "{overlap}");
        let hole = two(r#""y":{"dtype":"U8","shape":[2],"data_offsets":[6,8]}"#);
        assert!(hole.starts_with("tensor `y` lies at 6..8"), "{hole}");
        let twice = two(r#""x":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}"#);
        assert_eq!(twice, "tensor `x` is there twice");
        let rest = two(r#""y":{"dtype":"U8","shape":[2],"data_offsets":[4,6]}"#);
        assert!(rest.contains("end at byte 6 of the data"), "{rest}");
    }

    #[test]
    fn what_is_no_safetensors_file_is_refused() {
        for bytes in [
            &b""[..],
            b"GGUF",
            &[255; 16],
            &[9, 0, 0, 0, 0, 0, 0, 0, b'{'],
            b"GGUF\x03\0\0\0\0\0\0\0",
        ] {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), bytes).unwrap();
            let fault = SafeTensors::open(file.path()).unwrap_err().fault;
            assert!(matches!(fault, Fault::Head(_)), "{fault}");
        }
        let deep = format!(r#"{{"x":{}"#, "[".repeat(100_000));
        for head in [
            "[]",
            "{",
            "{}x",
            r#"{"x":5}"#,
            r#"{"x":{"dtype":"F32"}}"#,
            r#"{"x":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#,
            &deep,
        ] {
            assert!(refusal(head, &[]).starts_with("is not a safetensors file"), "{head}");
        }
        assert!(
            SafeTensors::open(Path::new("/"))
                .unwrap_err()
                .to_string()
                .contains("not a regular file")
        );
    }
}
