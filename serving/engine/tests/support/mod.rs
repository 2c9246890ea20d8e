//! What the tests of whole models share: the model files, an engine of a chosen shape, and answers.
use std::collections::HashMap;
use std::path::PathBuf;

use windlass_engine::Engine;
use windlass_engine::request::{EngineOptions, Event, FinishReason, Request, RequestId, Sampling, Usage};

/// SmolLM2-135M-Instruct: Llama architecture, tied head, Q4_1 with a Q8_0 embedding.
pub const SMOLLM2: Model = Model {
    name: "smollm2",
    file: "SmolLM2-135M-Instruct.Q4_1.gguf",
};
/// Qwen2.5-Coder-0.5B-Instruct: Qwen2 architecture, head of its own, Q4_K_M.
pub const QWEN: Model = Model {
    name: "qwen2.5-coder-0.5b",
    file: "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
};

/// A model that tests run.
#[derive(Debug, Clone, Copy)]
pub struct Model {
    /// Its name for `deploy/samples/fetch-model`.
    pub name: &'static str,
    file: &'static str,
}

impl Model {
    /// Its file, which must have been fetched.
    pub fn path(self) -> PathBuf {
        let path = models().join(self.file);
        assert!(
            path.is_file(),
            "{} is missing: run `deploy/samples/fetch-model {}`",
            path.display(),
            self.name
        );
        path
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "tests look for model files where the fetch script puts them"
)]
fn models() -> PathBuf {
    let variable = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    variable("WINDLASS_MODELS").unwrap_or_else(|| {
        let home = || variable("HOME").expect("HOME is set");
        variable("XDG_CACHE_HOME")
            .unwrap_or_else(|| home().join(".cache"))
            .join("windlass/models")
    })
}

/// Options of a small engine.
pub fn options() -> EngineOptions {
    EngineOptions {
        threads: 2,
        context_length: Some(2048),
        max_sequences: 8,
        max_batch_tokens: 512,
        memory_limit: None,
        block_tokens: 32,
    }
}

/// Loads a model or fails with its reason.
pub fn load(model: Model, options: &EngineOptions) -> Engine {
    Engine::load(&model.path(), options).unwrap_or_else(|error| panic!("{error}"))
}

/// A greedy request.
pub fn greedy(id: u64, prompt: Vec<u32>, max_tokens: usize) -> Request {
    let sampling = Sampling {
        temperature: 0.0,
        top_p: 1.0,
        top_k: 0,
        seed: 0,
    };
    Request {
        id: RequestId(id),
        prompt,
        max_tokens,
        sampling,
        ignore_eos: false,
        cache_salt: 0,
    }
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// Generated tokens.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub reason: FinishReason,
    /// What it used.
    pub usage: Usage,
}

/// Runs all requests together to their ends; answers by id.
pub fn run(engine: &mut Engine, requests: impl IntoIterator<Item = Request>) -> HashMap<u64, Answer> {
    for request in requests {
        engine.submit(request).expect("the request fits");
    }
    let mut tokens: HashMap<u64, Vec<u32>> = HashMap::new();
    let mut answers = HashMap::new();
    let mut events = Vec::new();
    while engine.has_work() {
        let before = engine.stats().steps;
        engine.step(&mut events);
        assert_eq!(engine.stats().steps, before + 1, "a step with work does something");
        for event in events.drain(..) {
            match event {
                Event::Started { .. } => {}
                Event::Token { id, token } => tokens.entry(id.0).or_default().push(token),
                Event::Finished { id, reason, usage } => {
                    let tokens = tokens.remove(&id.0).unwrap_or_default();
                    answers.insert(id.0, Answer { tokens, reason, usage });
                }
            }
        }
    }
    answers
}

/// Runs one request alone.
pub fn run_one(engine: &mut Engine, request: Request) -> Answer {
    let id = request.id.0;
    run(engine, [request]).remove(&id).expect("the request ended")
}
