//! A loaded encoder: token ids in, vectors out. Synchronous, and as strict as the engine for text: what cannot be computed
//! is an error that says why, before anything is.
mod config;
mod weights;
mod wordpiece;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use windlass_kernels::Precision;
use windlass_kernels::{Encoder, EncoderWork, OutOfMemory, Pool};
pub use wordpiece::WordPiece;

use crate::load::safetensors::{SafeTensors, SafeTensorsError};
use config::Config;

/// How to load and run an encoder.
#[derive(Debug, Clone)]
pub struct EmbedderOptions {
    /// Threads that compute.
    pub threads: usize,
    /// What weights and activations are multiplied as.
    pub precision: Precision,
    /// Tokens of an input at most; `None` takes what the model was made for.
    pub max_length: Option<usize>,
    /// Bytes for weights and buffers; `None` is no limit.
    pub memory_limit: Option<u64>,
}

/// What the model says about itself, and what the embedder made of it.
#[derive(Debug, Clone, PartialEq)]
pub struct EmbedderInfo {
    /// `BertModel`.
    pub architecture: &'static str,
    /// Elements of a vector.
    pub dimensions: usize,
    /// Tokens of an input at most, those around the text included.
    pub max_length: usize,
    /// Tokens of the vocabulary.
    pub vocab_size: usize,
    /// Lengths to which the model's vectors may be cut, as it says.
    pub matryoshka: Matryoshka,
    /// Bytes of the weights' file.
    pub size_bytes: u64,
    /// Threads that compute.
    pub threads: usize,
    /// Multiply-adds with weights that a token takes.
    pub multiply_adds: usize,
}

/// Whether the beginning of a vector is a vector: only a model that was trained for it knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Matryoshka {
    /// No.
    No,
    /// At every length.
    Any,
    /// At these lengths.
    At(Vec<usize>),
}

/// Why an encoder cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum EmbedLoadError {
    /// A file of the model cannot be read.
    #[error("{}: cannot read it: {error}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// A file of the model says something that cannot be, or is not supported.
    #[error("{}: {problem}", path.display())]
    Config {
        /// Which.
        path: PathBuf,
        /// What.
        problem: String,
    },
    /// The weights.
    #[error(transparent)]
    Weights(#[from] SafeTensorsError),
    /// An option that cannot be.
    #[error("{option} {problem}")]
    Option {
        /// The option, as the server's flag.
        option: &'static str,
        /// Ends the sentence.
        problem: String,
    },
    /// Weights and buffers do not fit.
    #[error("the model does not fit: weights and buffers take {} MiB, of {} MiB; give the process more memory", needed >> 20, limit >> 20)]
    Memory {
        /// Bytes of both.
        needed: u64,
        /// Bytes that there are.
        limit: u64,
    },
    /// The system refused memory that should be there.
    #[error("no memory for the model: {0}")]
    OutOfMemory(#[from] OutOfMemory),
    /// The system starts no threads.
    #[error("cannot start the computing threads: {0}")]
    Threads(#[source] std::io::Error),
}

/// Why an input has no vector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EmbedError {
    /// There is nothing to embed.
    #[error("it has no tokens")]
    Empty,
    /// It is longer than the model can read.
    #[error("it has {tokens} tokens, and this model reads at most {limit}")]
    TooLong {
        /// Tokens of the input.
        tokens: usize,
        /// Tokens that are allowed.
        limit: usize,
    },
    /// A token that the vocabulary does not have.
    #[error("the vocabulary has no token {0}")]
    InvalidToken(u32),
    /// The arithmetic gave a value that is not finite.
    #[error("its vector is not a finite number")]
    NotFinite,
}

/// A loaded encoder.
pub struct Embedder {
    info: EmbedderInfo,
    tokenizer: Arc<WordPiece>,
    encoder: Encoder,
    threads: Pool,
    work: EncoderWork,
}

impl std::fmt::Debug for Embedder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Embedder")
            .field("info", &self.info)
            .finish_non_exhaustive()
    }
}

impl Embedder {
    /// Whether `path` is for an embedder: a folder, or a `.safetensors` file in one.
    pub fn is_for(path: &Path) -> bool {
        path.is_dir() || path.extension().is_some_and(|extension| extension == "safetensors")
    }

    /// Reads a model folder in the layout of sentence-transformers: `config.json`, `model.safetensors`,
    /// `tokenizer.json`, and, where there are such, `modules.json` with the files that it names and
    /// `sentence_bert_config.json`. `path` is the folder, or the weights in it.
    ///
    /// # Errors
    /// If a file is missing or says something that is not supported, or the model does not fit.
    pub fn load(path: &Path, options: &EmbedderOptions) -> Result<Self, EmbedLoadError> {
        let (folder, weights) = match path.is_dir() {
            true => (path, path.join("model.safetensors")),
            false => (path.parent().unwrap_or(Path::new("")), path.to_owned()),
        };
        let config = Config::read(folder)?;
        let max_length = config.max_length(options.max_length)?;
        let tokenizer = Arc::new(config::read_tokenizer(folder, &config)?);
        let file = SafeTensors::open(&weights)?;
        let needed = weights::bytes(&config, options, max_length);
        match options.memory_limit {
            Some(limit) if needed > limit => return Err(EmbedLoadError::Memory { needed, limit }),
            _ => {}
        }
        let encoder = weights::load(&config, &file, options.precision)?;
        let threads = Pool::new(options.threads).map_err(EmbedLoadError::Threads)?;
        let work = encoder.work(&threads, max_length)?;
        Ok(Self {
            info: EmbedderInfo {
                architecture: config::ARCHITECTURE,
                dimensions: encoder.width(),
                max_length,
                vocab_size: encoder.vocabulary(),
                matryoshka: config.matryoshka,
                size_bytes: file.size(),
                threads: threads.threads(),
                multiply_adds: encoder.multiply_adds(),
            },
            tokenizer,
            encoder,
            threads,
            work,
        })
    }

    /// About the model.
    pub fn info(&self) -> &EmbedderInfo {
        &self.info
    }

    /// Text to tokens.
    pub fn tokenizer(&self) -> Arc<WordPiece> {
        Arc::clone(&self.tokenizer)
    }

    /// The vector of each input, or why it has none. It depends on nothing but the input.
    pub fn embed(&mut self, inputs: &[&[u32]]) -> Vec<Result<Vec<f32>, EmbedError>> {
        let checks: Vec<_> = inputs.iter().map(|tokens| self.info.check(tokens)).collect();
        let good: Vec<&[u32]> = inputs
            .iter()
            .zip(&checks)
            .filter(|(_, check)| check.is_ok())
            .map(|(tokens, _)| *tokens)
            .collect();
        let width = self.encoder.width();
        let mut vectors = vec![0.0; good.len() * width];
        self.encoder.embed(&self.threads, &mut self.work, &good, &mut vectors);
        let mut vectors = vectors.chunks_exact(width);
        checks
            .into_iter()
            .map(|check| {
                check?;
                let vector = vectors.next().unwrap_or_default();
                match vector.iter().all(|x| x.is_finite()) {
                    true => Ok(vector.to_vec()),
                    false => Err(EmbedError::NotFinite),
                }
            })
            .collect()
    }
}

impl EmbedderInfo {
    /// Whether an input can be computed.
    ///
    /// # Errors
    /// Why it cannot.
    pub fn check(&self, tokens: &[u32]) -> Result<(), EmbedError> {
        if tokens.is_empty() {
            return Err(EmbedError::Empty);
        }
        if tokens.len() > self.max_length {
            return Err(EmbedError::TooLong {
                tokens: tokens.len(),
                limit: self.max_length,
            });
        }
        let unknown = tokens.iter().find(|&&token| token as usize >= self.vocab_size);
        unknown.map_or(Ok(()), |&token| Err(EmbedError::InvalidToken(token)))
    }
}
