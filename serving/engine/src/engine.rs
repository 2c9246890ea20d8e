//! The engine as its caller sees it: load a model, submit requests, step until there is no work.
use std::path::Path;
use std::sync::Arc;

use windlass_kernels::{KvCache, Pool};

use crate::chat::ChatTemplate;
use crate::load::LoadError;
use crate::load::gguf::{Gguf, GgufError};
use crate::memory::MemoryPlan;
use crate::model::{Architecture, Decoder, Hyperparameters, WeightPlan, Workspace};
use crate::request::{AdmitError, EngineOptions, Request, RequestId, Stats};
use crate::scheduler::{Limits, Scheduler};
use crate::tokenizer::Tokenizer;

/// A loaded model and the requests that run on it. One thread calls it; its own threads only compute.
pub struct Engine {
    info: ModelInfo,
    tokenizer: Arc<Tokenizer>,
    chat_template: Arc<ChatTemplate>,
    pub(crate) scheduler: Scheduler,
    pub(crate) decoder: Decoder,
    pub(crate) cache: KvCache,
    pub(crate) pool: Pool,
    pub(crate) workspace: Workspace,
    pub(crate) next_tokens: Vec<Option<u32>>,
}

/// What a model is and what the engine made of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelInfo {
    /// The name in the file, or the file's.
    pub name: String,
    /// The architecture in the file.
    pub architecture: String,
    /// Weights in all.
    pub parameters: u64,
    /// The scheme that the weights are stored in, as model hubs name it.
    pub quantization: String,
    /// Tokens that a sequence may have here.
    pub context_length: usize,
    /// Tokens of the vocabulary.
    pub vocab_size: usize,
    /// Bytes of the file.
    pub size_bytes: u64,
    /// Bytes that weights, cache and buffers may come to.
    pub memory_bytes: u64,
    /// Threads that compute.
    pub threads: usize,
    /// Tokens that the key-value cache holds, of all sequences together.
    pub kv_tokens: usize,
}

impl Engine {
    /// Loads a model. Everything is checked, and the memory added up, before weights are read.
    pub fn load(path: &Path, options: &EngineOptions) -> Result<Self, LoadError> {
        check(options)?;
        let (gguf, file) = Gguf::open(path)?;
        let architecture = Architecture::of(&gguf)?;
        let tokenizer = Arc::new(Tokenizer::from_gguf(&gguf)?);
        let chat_template = ChatTemplate::new(gguf.find_text("tokenizer.chat_template")?, Arc::clone(&tokenizer))
            .map_err(|error| LoadError::Template {
                path: path.into(),
                error,
            })?;
        let hyper = Hyperparameters::read(&gguf, architecture, tokenizer.vocab_size())?;
        let weight_plan = WeightPlan::new(&gguf, architecture, &hyper)?;
        let memory = MemoryPlan::new(&hyper, &weight_plan, options)?;

        let out_of_memory = |what| move |error| LoadError::OutOfMemory { what, error };
        let weights = weight_plan.load(&gguf, &file, &hyper)?;
        let workspace = Workspace::new(&hyper, options.max_batch_tokens, memory.wanted_rows)
            .map_err(out_of_memory("the buffers of a step"))?;
        let blocks = memory.blocks as usize;
        let cache = KvCache::new(
            hyper.layers,
            hyper.kv_heads,
            hyper.head_dim,
            options.block_tokens,
            blocks,
        )?;
        let threads = options.threads;
        let pool = Pool::new(threads).map_err(|error| LoadError::Threads { threads, error })?;
        let limits = Limits {
            max_sequences: options.max_sequences,
            max_batch_tokens: options.max_batch_tokens,
            context: memory.context,
            block_tokens: options.block_tokens,
            vocabulary: hyper.vocabulary,
        };
        let info = ModelInfo {
            name: model_name(&gguf)?,
            architecture: architecture.name.into(),
            parameters: weight_plan.parameters,
            quantization: quantization(&gguf)?,
            context_length: memory.context,
            vocab_size: hyper.vocabulary,
            size_bytes: gguf.size(),
            memory_bytes: memory.bytes,
            threads,
            kv_tokens: blocks * options.block_tokens,
        };
        let decoder = Decoder::new(architecture, hyper, weights).map_err(|error| LoadError::Rope {
            path: path.into(),
            error,
        })?;
        Ok(Self {
            info,
            tokenizer,
            chat_template: Arc::new(chat_template),
            scheduler: Scheduler::new(limits, memory.blocks),
            decoder,
            cache,
            pool,
            workspace,
            next_tokens: Vec::new(),
        })
    }

    /// The model.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// The model's tokenizer, for other threads too.
    pub fn tokenizer(&self) -> Arc<Tokenizer> {
        Arc::clone(&self.tokenizer)
    }

    /// The model's chat template, for other threads too.
    pub fn chat_template(&self) -> Arc<ChatTemplate> {
        Arc::clone(&self.chat_template)
    }

    /// Queues a request; one that could never run is refused at once.
    pub fn submit(&mut self, request: Request) -> Result<(), AdmitError> {
        self.scheduler.submit(request)
    }

    /// Forgets a request; whether there was one. Its blocks are free at once and no event follows.
    pub fn cancel(&mut self, id: RequestId) -> bool {
        self.scheduler.cancel(id)
    }

    /// Whether a step would do anything.
    pub fn has_work(&self) -> bool {
        self.scheduler.has_work()
    }

    /// Counters and gauges.
    pub fn stats(&self) -> Stats {
        self.scheduler.stats()
    }
}

fn check(options: &EngineOptions) -> Result<(), LoadError> {
    let range = |flag, value: usize, most: usize| match value {
        0 => Err(LoadError::Option {
            flag,
            problem: "is 0; at least 1 is needed".into(),
        }),
        _ if value > most => Err(LoadError::Option {
            flag,
            problem: format!("is {value}; at most {most} are possible"),
        }),
        _ => Ok(()),
    };
    range("--threads", options.threads, 1024)?;
    range("--max-sequences", options.max_sequences, 1 << 16)?;
    range("--max-batch-tokens", options.max_batch_tokens, 1 << 20)?;
    range("--context-length", options.context_length.unwrap_or(1), 1 << 30)?;
    range("the block size", options.block_tokens, 1024)?;
    if !options.block_tokens.is_multiple_of(8) {
        return Err(LoadError::Option {
            flag: "the block size",
            problem: "must be a multiple of 8".into(),
        });
    }
    Ok(())
}

fn model_name(gguf: &Gguf) -> Result<String, GgufError> {
    if let Some(name) = gguf.find_text("general.name")?.filter(|name| !name.trim().is_empty()) {
        return Ok(name.into());
    }
    Ok(gguf
        .path()
        .file_stem()
        .map_or_else(|| "model".into(), |stem| stem.to_string_lossy().into_owned()))
}

/// The scheme by the file's own number, or by the type that most weights have.
fn quantization(gguf: &Gguf) -> Result<String, GgufError> {
    let declared = gguf.find_u64("general.file_type")?.and_then(|number| {
        SCHEMES
            .iter()
            .find(|(known, _)| *known == number)
            .map(|(_, name)| (*name).to_owned())
    });
    if let Some(name) = declared {
        return Ok(name);
    }
    let mut bytes: Vec<(&str, u64)> = Vec::new();
    for tensor in gguf.tensors() {
        match bytes.iter_mut().find(|(name, _)| *name == tensor.kind.name) {
            Some((_, sum)) => *sum += tensor.bytes,
            None => bytes.push((tensor.kind.name, tensor.bytes)),
        }
    }
    Ok(bytes
        .into_iter()
        .max_by_key(|&(_, sum)| sum)
        .map_or_else(String::new, |(name, _)| name.into()))
}

/// `general.file_type` of the GGUF specification.
const SCHEMES: [(u64, &str); 12] = [
    (0, "F32"),
    (1, "F16"),
    (2, "Q4_0"),
    (3, "Q4_1"),
    (7, "Q8_0"),
    (8, "Q5_0"),
    (9, "Q5_1"),
    (14, "Q4_K_S"),
    (15, "Q4_K_M"),
    (16, "Q5_K_S"),
    (17, "Q5_K_M"),
    (18, "Q6_K"),
];
