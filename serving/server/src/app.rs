//! What all requests share: the model once it is loaded, metrics, and whether we are draining.
use crate::body::BodyReader;
use crate::embed_thread::EmbedHandle;
use crate::engine_thread::EngineHandle;
use crate::error::ApiError;
use crate::metrics::Metrics;
use crate::tokenize;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::Semaphore;
use windlass_engine::chat::ChatTemplate;
use windlass_engine::embed::{EmbedderInfo, WordPiece};
use windlass_engine::grammar::{GrammarError, Grammars};
use windlass_engine::tokenizer::Tokenizer;

/// A loaded model that has produced a token.
#[derive(Debug)]
pub struct Model {
    /// Sequences in, tokens out.
    pub engine: EngineHandle,
    /// Text to tokens and back.
    pub tokenizer: Arc<Tokenizer>,
    /// Messages to a prompt.
    pub template: Arc<ChatTemplate>,
    /// What answers can be made to obey; built when it is first asked for, as it takes time and memory.
    pub grammars: Arc<OnceLock<Result<Grammars, GrammarError>>>,
    /// Tokens that a prompt and its answer may have together.
    pub context: usize,
    /// Sequences that may run and wait together.
    pub capacity: usize,
}

/// A loaded encoder that has made a vector.
#[derive(Debug)]
pub struct EmbeddingModel {
    /// Token ids in, vectors out.
    pub thread: EmbedHandle,
    /// Text to tokens.
    pub tokenizer: Arc<WordPiece>,
    /// About the model.
    pub info: EmbedderInfo,
}

/// What the process serves.
#[derive(Debug)]
pub enum Loaded {
    /// Text.
    Generator(Model),
    /// Vectors.
    Embedder(EmbeddingModel),
}

impl Loaded {
    /// Tokens that a sequence may have.
    pub fn context(&self) -> usize {
        match self {
            Self::Generator(model) => model.context,
            Self::Embedder(model) => model.info.max_length,
        }
    }

    /// How long there has been work and no step; `None` without work.
    pub fn stalled_for(&self) -> Option<Duration> {
        match self {
            Self::Generator(model) => model.engine.stalled_for(),
            Self::Embedder(model) => model.thread.stalled_for(),
        }
    }
}

/// The state behind every route.
#[derive(Debug)]
pub struct App {
    /// The model's name in requests and answers.
    pub served_name: String,
    /// Unix seconds of the start.
    pub started: u64,
    /// How long work may go without a step.
    pub stall_timeout: Duration,
    /// Everything that is counted.
    pub metrics: Arc<Metrics>,
    /// For request bodies.
    pub bodies: BodyReader,
    /// Places of those that only want tokens.
    pub tokenizing: Semaphore,
    loaded: OnceLock<Loaded>,
    draining: AtomicBool,
    /// Random keys: ids, seeds and salts cannot be guessed from outside.
    random: RandomState,
    counter: AtomicU64,
}

impl App {
    /// Before the model is loaded.
    ///
    /// # Errors
    /// When the metrics cannot be registered: a bug.
    pub fn new(served_name: String, stall_timeout: Duration) -> prometheus::Result<Self> {
        Ok(Self {
            metrics: Arc::new(Metrics::new(&served_name)?),
            served_name,
            started: unix_seconds(),
            stall_timeout,
            bodies: BodyReader::new(),
            tokenizing: Semaphore::new(tokenize::MAX_AT_ONCE),
            loaded: OnceLock::new(),
            draining: AtomicBool::new(false),
            random: RandomState::new(),
            counter: AtomicU64::new(0),
        })
    }

    /// The model is there; false if it already was.
    pub fn set_loaded(&self, loaded: Loaded) -> bool {
        self.loaded.set(loaded).is_ok()
    }

    /// The model, whatever it is for.
    pub fn loaded(&self) -> Option<&Loaded> {
        self.loaded.get()
    }

    /// The model that writes text, or the answer that it is not there.
    pub fn model(&self) -> Result<&Model, ApiError> {
        match self.loaded().ok_or(ApiError::Loading)? {
            Loaded::Generator(model) => Ok(model),
            Loaded::Embedder(_) => Err(ApiError::WrongTask {
                served: self.served_name.clone(),
                makes: "embeddings",
                route: "/v1/embeddings",
            }),
        }
    }

    /// The model that makes vectors, or the answer that it is not there.
    pub fn embedder(&self) -> Result<&EmbeddingModel, ApiError> {
        match self.loaded().ok_or(ApiError::Loading)? {
            Loaded::Embedder(model) => Ok(model),
            Loaded::Generator(_) => Err(ApiError::WrongTask {
                served: self.served_name.clone(),
                makes: "text",
                route: "/v1/chat/completions or /v1/completions",
            }),
        }
    }

    /// From now on connections are to end.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether connections are to end.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// A number that nobody can guess and that does not come twice soon.
    pub fn random(&self) -> u64 {
        self.random.hash_one(self.counter.fetch_add(1, Ordering::Relaxed))
    }

    /// The engine's form of a cache salt: 0 is for requests without one.
    pub fn salt(&self, salt: Option<&str>) -> u64 {
        salt.map_or(0, |salt| self.random.hash_one(salt) | 1)
    }
}

/// Now, as answers and templates say it.
pub fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs())
}
