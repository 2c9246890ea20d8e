//! Reads a safetensors file (<https://github.com/huggingface/safetensors#format>): the length of a JSON head, the head,
//! and the bytes of the tensors. Everything that the head says is checked against the size of the file before it is
//! believed: a damaged or hostile file is an error that names what is wrong. Tensors are read one at a time, so the file
//! is never in memory as a whole; the format's own crate wants all of it mapped or read.
mod head;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Error, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use windlass_kernels::{TensorType, dequantize};

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
        let tensors = head::read(&file, size).map_err(fail)?;
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

#[cfg(test)]
mod tests;
