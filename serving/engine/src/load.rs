//! Model files: readers that trust nothing, and why a model could not be loaded.
use std::path::PathBuf;

use windlass_kernels::{KvError, OutOfMemory, RopeError};

use crate::chat::TemplateError;
use crate::memory::Megabytes;

pub mod gguf;

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file is no model that this version runs.
    #[error(transparent)]
    File(#[from] gguf::GgufError),
    /// The file's chat template cannot be used.
    #[error("{}: {error}", path.display())]
    Template {
        /// The file.
        path: PathBuf,
        /// Why.
        error: TemplateError,
    },
    /// The file's rotation cannot be computed.
    #[error("{}: {error}", path.display())]
    Rope {
        /// The file.
        path: PathBuf,
        /// Why.
        error: RopeError,
    },
    /// An option has a value that cannot be.
    #[error("{flag} {problem}")]
    Option {
        /// The flag of the server that sets it.
        flag: &'static str,
        /// Ends the sentence.
        problem: String,
    },
    /// A longer context than the model has.
    #[error("--context-length is {asked}, and the model was trained for {model} tokens; give at most {model}")]
    ContextTooLong {
        /// What was asked for.
        asked: usize,
        /// The model's own.
        model: usize,
    },
    /// More memory than there is.
    #[error(
        "the memory limit is {limit}, and {weights} of weights, {buffers} of buffers and {cache} of keys and values for \
         a context of {context} tokens do not fit; room is left for {fitting} tokens: lower --context-length, \
         --max-batch-tokens or --max-sequences, take a smaller model, or raise the limit"
    )]
    Memory {
        /// Packed weights.
        weights: Megabytes,
        /// Buffers of a step and of loading.
        buffers: Megabytes,
        /// Tokens that have to fit.
        context: usize,
        /// Their keys and values.
        cache: Megabytes,
        /// All that may be used.
        limit: Megabytes,
        /// Tokens that would fit.
        fitting: usize,
    },
    /// The system refused memory although the limit allows it.
    #[error("the system gives no memory for {what}: {error}; lower --context-length or --max-sequences")]
    OutOfMemory {
        /// For what.
        what: &'static str,
        /// What it said.
        error: OutOfMemory,
    },
    /// The cache has an impossible shape.
    #[error("the key-value cache cannot be made: {0}")]
    Cache(#[from] KvError),
    /// The system refused threads.
    #[error("cannot start {threads} threads: {error}; lower --threads")]
    Threads {
        /// What was asked for.
        threads: usize,
        /// What it said.
        error: std::io::Error,
    },
}
