//! A model becomes an engine or an embedder that is known to work: it has produced a token, or a vector, before anybody
//! may ask.
use crate::embed_thread::Limits;
use crate::engine_thread::Backend;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use windlass_engine::Engine;
use windlass_engine::chat::ChatTemplate;
use windlass_engine::embed::{EmbedError, Embedder, EmbedderInfo, EmbedderOptions, WordPiece};
use windlass_engine::request::{AdmitError, EngineOptions, Event, FinishReason, Request, RequestId, Stats};
use windlass_engine::tokenizer::Tokenizer;

/// What the tasks need of a loaded engine.
#[derive(Debug)]
pub struct Parts {
    /// Text to tokens and back.
    pub tokenizer: Arc<Tokenizer>,
    /// Messages to a prompt.
    pub template: Arc<ChatTemplate>,
    /// Tokens that a prompt and its answer may have together.
    pub context: usize,
}

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The file, or what it asks for.
    #[error("cannot load the model: {0}")]
    Load(String),
    /// The first request was refused.
    #[error("the model does not take its first prompt")]
    Refused(#[source] AdmitError),
    /// The model loads, and makes no vector.
    #[error("the model's first vector cannot be computed: {0}")]
    NoVector(#[source] EmbedError),
    /// The file loads, and its numbers are broken.
    #[error("the model's first token is not a finite number: the file's weights are damaged")]
    NotFinite,
}

/// Loads the file and computes a token.
pub fn load(path: &Path, options: &EngineOptions) -> Result<(Engine, Parts), StartError> {
    let mut engine = Engine::load(path, options).map_err(|error| StartError::Load(format!("{error:#}")))?;
    let parts = Parts {
        tokenizer: engine.tokenizer(),
        template: engine.chat_template(),
        context: engine.info().context_length,
    };
    warm_up(&mut engine, &parts.tokenizer)?;
    Ok((engine, parts))
}

/// Tokens of the first prompt: enough that the engine learns how long reading takes, before somebody waits for it.
const WARM_UP_TOKENS: usize = 32;

/// Two tokens, the same way as every other.
fn warm_up(engine: &mut Engine, tokenizer: &Tokenizer) -> Result<(), StartError> {
    let mut word = tokenizer.encode_prompt("Hello");
    if word.is_empty() {
        word.push(0);
    }
    let most = WARM_UP_TOKENS.min(engine.info().context_length / 2).max(1);
    let prompt = word.iter().copied().cycle().take(most).collect();
    let request = Request {
        ignore_eos: true,
        ..Request::new(RequestId(0), prompt, 2)
    };
    engine.submit(request).map_err(StartError::Refused)?;
    let mut events = Vec::new();
    while engine.has_work() {
        let start = Instant::now();
        engine.step(&mut events);
        engine.learn(start.elapsed());
    }
    let broken = |event: &Event| {
        matches!(
            event,
            Event::Finished {
                reason: FinishReason::NonFinite,
                ..
            }
        )
    };
    if events.iter().any(broken) {
        Err(StartError::NotFinite)
    } else {
        Ok(())
    }
}

/// Tokenizer and description of an embedder.
pub type EmbedParts = (Arc<WordPiece>, EmbedderInfo);

/// Loads a model folder and computes a vector. `sequences` of full length may run and wait.
pub fn load_embedder(
    path: &Path,
    options: &EmbedderOptions,
    sequences: usize,
    batch_tokens: usize,
) -> Result<(Embedder, Limits, EmbedParts), StartError> {
    let mut embedder = Embedder::load(path, options).map_err(|error| StartError::Load(error.to_string()))?;
    let (tokenizer, info) = (embedder.tokenizer(), embedder.info().clone());
    let mut tokens = tokenizer.encode("Hello");
    tokenizer.truncate(&mut tokens, info.max_length);
    for vector in embedder.embed(&[&tokens]) {
        vector.map_err(StartError::NoVector)?;
    }
    let limits = Limits {
        queue_tokens: sequences.saturating_mul(info.max_length),
        batch_tokens,
    };
    Ok((embedder, limits, (tokenizer, info)))
}

impl Backend for Engine {
    fn submit(&mut self, request: Request) -> Result<(), AdmitError> {
        Engine::submit(self, request)
    }

    fn cancel(&mut self, id: RequestId) {
        Engine::cancel(self, id);
    }

    fn has_work(&self) -> bool {
        Engine::has_work(self)
    }

    fn step(&mut self, events: &mut Vec<Event>) {
        Engine::step(self, events);
    }

    fn learn(&mut self, took: Duration) {
        Engine::learn(self, took);
    }

    fn stats(&self) -> Stats {
        Engine::stats(self)
    }
}
