//! A reader for GGUF files, versions 2 and 3 (specification: github.com/ggml-org/ggml, docs/gguf.md).
//! It trusts nothing: every count and size is checked against the file, and against a bound, before
//! anything is allocated for it. Tensors are read by position into a caller's buffer, never mapped:
//! a file that shrinks while it is read is an error and not a signal.
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

mod reader;
mod types;
mod value;

pub use types::TypeInfo;
pub use value::{Numbers, Scalar, Value};

/// The head of a file: what it says about itself and where its tensors are.
#[derive(Debug)]
pub struct Gguf {
    path: PathBuf,
    size: u64,
    metadata: BTreeMap<String, Value>,
    tensors: Vec<TensorInfo>,
    by_name: HashMap<String, usize>,
}

/// A tensor's place in the file; the reader has checked that all of it is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name, unique in the file.
    pub name: String,
    /// Extents, innermost first, one to four of them, none zero.
    pub dims: Vec<u64>,
    /// Its element type.
    pub kind: &'static TypeInfo,
    /// First byte, from the start of the file.
    pub offset: u64,
    /// Size in bytes.
    pub bytes: u64,
}

/// Why a file was refused.
#[derive(Debug, thiserror::Error)]
#[error("{}: {fault}", path.display())]
pub struct GgufError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub fault: GgufFault,
}

/// What can be wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum GgufFault {
    /// The operating system could not.
    #[error("cannot {action}: {error}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// What it said.
        error: std::io::Error,
    },
    /// Something else than a GGUF file.
    #[error("is not a GGUF file (it begins with {found}); give --model a .gguf file")]
    NotGguf {
        /// The first bytes, printable.
        found: String,
    },
    /// A version that this reader does not know.
    #[error("is GGUF version {0}; versions 2 and 3 are supported: convert the model again with a current tool")]
    Version(u32),
    /// Byte order of another machine.
    #[error("is a big-endian GGUF file; only little-endian files are supported")]
    BigEndian,
    /// The file ends too early.
    #[error("is cut short: {what} needs {needed} bytes at byte {at}, and the file has {size}; download it again")]
    Truncated {
        /// What was being read.
        what: String,
        /// Its size.
        needed: u64,
        /// Where it begins.
        at: u64,
        /// The size of the file.
        size: u64,
    },
    /// A count or length over any sensible bound: a damaged or a hostile file.
    #[error("claims {count} {what}, more than the {bound} that make sense in a file of its size; download it again")]
    TooMany {
        /// Of what.
        what: String,
        /// What the file says.
        count: u64,
        /// What is possible.
        bound: u64,
    },
    /// A metadata entry that breaks the format.
    #[error("metadata key `{key}` {problem}")]
    Metadata {
        /// The entry.
        key: String,
        /// Ends the sentence.
        problem: String,
    },
    /// A tensor entry that breaks the format.
    #[error("tensor `{tensor}` {problem}")]
    Tensor {
        /// The entry.
        tensor: String,
        /// Ends the sentence.
        problem: String,
    },
    /// The metadata lacks something the model needs.
    #[error(
        "has no metadata key `{0}`, which this model needs; it is incomplete or made by an old tool: convert it again"
    )]
    MissingKey(String),
    /// A tensor that the model needs is not there.
    #[error("has no tensor `{0}`, which this model needs; it is incomplete: download or convert it again")]
    MissingTensor(String),
    /// The allocator refused.
    #[error("needs {bytes} bytes of memory for {what}, which are not there")]
    OutOfMemory {
        /// For what.
        what: String,
        /// How much.
        bytes: u64,
    },
}

impl Gguf {
    /// Opens the file and reads its head. Returns the open file as well, for [`Gguf::read_tensor`].
    pub fn open(path: &Path) -> Result<(Self, File), GgufError> {
        let fail = |action| {
            move |error| GgufError {
                path: path.into(),
                fault: GgufFault::Io { action, error },
            }
        };
        let file = File::open(path).map_err(fail("open it"))?;
        let about = file.metadata().map_err(fail("read its size"))?;
        if !about.is_file() {
            let error = std::io::Error::new(std::io::ErrorKind::InvalidInput, "it is not a regular file");
            return Err(fail("read it")(error));
        }
        let head = Self::parse(&mut BufReader::with_capacity(1 << 16, &file), about.len(), path)?;
        Ok((head, file))
    }

    /// Reads the head of a file of `size` bytes from a stream that stands at its first byte.
    pub fn parse(stream: &mut impl Read, size: u64, path: &Path) -> Result<Self, GgufError> {
        let (metadata, tensors) = reader::read_head(stream, size).map_err(|fault| GgufError {
            path: path.into(),
            fault,
        })?;
        let by_name = tensors
            .iter()
            .enumerate()
            .map(|(index, tensor)| (tensor.name.clone(), index))
            .collect();
        Ok(Self {
            path: path.into(),
            size,
            metadata,
            tensors,
            by_name,
        })
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of the file.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// All tensors in file order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// A metadata value, if it is there.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key)
    }

    /// A tensor, if it is there.
    pub fn find_tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.by_name.get(name).map(|&index| &self.tensors[index])
    }

    /// A tensor that must be there.
    pub fn tensor(&self, name: &str) -> Result<&TensorInfo, GgufError> {
        self.find_tensor(name)
            .ok_or_else(|| self.error(GgufFault::MissingTensor(name.into())))
    }

    /// Reads all bytes of a tensor into `buffer`, replacing what is there.
    pub fn read_tensor(&self, file: &File, tensor: &TensorInfo, buffer: &mut Vec<u8>) -> Result<(), GgufError> {
        let out_of_memory = || {
            self.error(GgufFault::OutOfMemory {
                what: format!("tensor `{}`", tensor.name),
                bytes: tensor.bytes,
            })
        };
        let bytes = usize::try_from(tensor.bytes).map_err(|_| out_of_memory())?;
        buffer.clear();
        buffer.try_reserve_exact(bytes).map_err(|_| out_of_memory())?;
        buffer.resize(bytes, 0);
        file.read_exact_at(buffer, tensor.offset).map_err(|error| {
            self.error(GgufFault::Io {
                action: "read its tensors (was it changed meanwhile?)",
                error,
            })
        })
    }

    /// An optional count or id.
    pub fn find_u64(&self, key: &str) -> Result<Option<u64>, GgufError> {
        self.typed(key, "a non-negative integer", Value::as_u64)
    }

    /// A count or id that must be there.
    pub fn u64(&self, key: &str) -> Result<u64, GgufError> {
        self.required(key, self.find_u64(key)?)
    }

    /// An optional float.
    pub fn find_f32(&self, key: &str) -> Result<Option<f32>, GgufError> {
        self.typed(key, "a float", Value::as_f32)
    }

    /// A float that must be there.
    pub fn f32(&self, key: &str) -> Result<f32, GgufError> {
        self.required(key, self.find_f32(key)?)
    }

    /// An optional flag.
    pub fn find_bool(&self, key: &str) -> Result<Option<bool>, GgufError> {
        self.typed(key, "a boolean", Value::as_bool)
    }

    /// An optional text.
    pub fn find_text(&self, key: &str) -> Result<Option<&str>, GgufError> {
        self.typed(key, "a text", Value::as_text)
    }

    /// A text that must be there.
    pub fn text(&self, key: &str) -> Result<&str, GgufError> {
        self.required(key, self.find_text(key)?)
    }

    /// An optional array of texts.
    pub fn find_texts(&self, key: &str) -> Result<Option<&[String]>, GgufError> {
        self.typed(key, "an array of texts", Value::as_texts)
    }

    /// An array of texts that must be there.
    pub fn texts(&self, key: &str) -> Result<&[String], GgufError> {
        self.required(key, self.find_texts(key)?)
    }

    /// An optional array of numbers.
    pub fn find_numbers(&self, key: &str) -> Result<Option<&Numbers>, GgufError> {
        self.typed(key, "an array of numbers", Value::as_numbers)
    }

    /// The error for a metadata entry with a meaning that cannot be used: `problem` ends the sentence.
    pub fn metadata_error(&self, key: &str, problem: impl Into<String>) -> GgufError {
        self.error(GgufFault::Metadata {
            key: key.into(),
            problem: problem.into(),
        })
    }

    /// The error for a tensor that cannot be used: `problem` ends the sentence.
    pub fn tensor_error(&self, tensor: &str, problem: impl Into<String>) -> GgufError {
        self.error(GgufFault::Tensor {
            tensor: tensor.into(),
            problem: problem.into(),
        })
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        wanted: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, GgufError> {
        let Some(value) = self.metadata.get(key) else {
            return Ok(None);
        };
        match read(value) {
            Some(typed) => Ok(Some(typed)),
            None => Err(self.metadata_error(key, format!("is {}, and {wanted} is needed", value.kind()))),
        }
    }

    fn required<T>(&self, key: &str, found: Option<T>) -> Result<T, GgufError> {
        found.ok_or_else(|| self.error(GgufFault::MissingKey(key.into())))
    }

    fn error(&self, fault: GgufFault) -> GgufError {
        GgufError {
            path: self.path.clone(),
            fault,
        }
    }
}
