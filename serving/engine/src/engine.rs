//! A loaded model and the requests that it works on. `step` computes one batch; everything else is books.
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use windlass_kernels::{Batch, Decoder, KvCache, KvError, OutOfMemory, Pool, Want, Workspace};

use crate::chat::{ChatTemplate, TemplateError};
use crate::choose::Chooser;
use crate::load::gguf::{Gguf, GgufError};
use crate::model::{self, Shape};
use crate::pace::{Load, Pace};
use crate::request::{AdmitError, EngineOptions, Event, Request, RequestId, Sampling, Stats};
use crate::scheduler::{Scheduler, Work};
use crate::tokenizer::Tokenizer;

mod output;
mod score;
mod size;

use size::{Sizes, decide};

/// What the model file says about itself, and what the engine made of it.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelInfo {
    /// `general.name`, or the file's name.
    pub name: String,
    /// `general.architecture`.
    pub architecture: String,
    /// Number of weights.
    pub parameters: u64,
    /// The type that most bytes of the weights have.
    pub quantization: String,
    /// Tokens that a prompt and its answer may have together.
    pub context_length: usize,
    /// Tokens that the cache holds in all.
    pub kv_tokens: usize,
    /// Tokens of the vocabulary.
    pub vocab_size: usize,
    /// Bytes of the file.
    pub size_bytes: u64,
    /// Threads that compute.
    pub threads: usize,
}

/// Why a model cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file.
    #[error(transparent)]
    File(#[from] GgufError),
    /// Its chat template.
    #[error("{}: {error}", path.display())]
    Template {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong with it.
        error: TemplateError,
    },
    /// An option that cannot be.
    #[error("{option} {problem}")]
    Option {
        /// The option, as the server's flag.
        option: &'static str,
        /// Ends the sentence.
        problem: String,
    },
    /// Weights, buffers and cache do not fit.
    #[error(
        "the model does not fit: weights {} MiB, buffers {} MiB and the cache for {tokens} tokens {} MiB, of {} MiB; give the process more memory, or lower --context-length, --max-batch-tokens or --max-sequences",
        weights >> 20, buffers >> 20, cache >> 20, limit >> 20
    )]
    Memory {
        /// Bytes of the weights.
        weights: u64,
        /// Bytes of the working memory.
        buffers: u64,
        /// Tokens that the cache must hold at least.
        tokens: usize,
        /// Their bytes.
        cache: u64,
        /// Bytes that there are.
        limit: u64,
    },
    /// The system refused memory that should be there.
    #[error("no memory for the model's buffers: {0}")]
    OutOfMemory(#[from] OutOfMemory),
    /// As `OutOfMemory`, for the cache.
    #[error("no memory for the model's cache: {0}")]
    Cache(#[from] KvError),
    /// The system starts no threads.
    #[error("cannot start the computing threads: {0}")]
    Threads(#[source] std::io::Error),
}

/// A loaded model and the requests that it works on.
pub struct Engine {
    info: ModelInfo,
    tokenizer: Arc<Tokenizer>,
    template: Arc<ChatTemplate>,
    weights: Decoder,
    threads: Pool,
    cache: KvCache,
    workspace: Workspace,
    batch: Batch,
    scheduler: Scheduler,
    plan: Vec<Work>,
    pace: Pace,
    /// Of the last step.
    load: Load,
    /// Tokens of a sequence with its guess.
    guessed: Vec<u32>,
    finished: Vec<usize>,
    chooser: Chooser,
    stats: Stats,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("info", &self.info)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// Reads the file; nothing large is allocated before all sizes are known to fit.
    pub fn load(path: &Path, options: &EngineOptions) -> Result<Self, LoadError> {
        let (gguf, file) = Gguf::open(path)?;
        let family = model::family(&gguf)?;
        let tokenizer = Arc::new(Tokenizer::from_gguf(&gguf)?);
        let template =
            ChatTemplate::new(gguf.find_text("tokenizer.chat_template")?, Arc::clone(&tokenizer)).map_err(|error| {
                LoadError::Template {
                    path: path.into(),
                    error,
                }
            })?;
        let shape = Shape::read(&gguf, &family, tokenizer.vocab_size())?;
        let sizes = decide(&shape, model::packed_bytes(&gguf), options)?;
        let weights = model::load(&gguf, &file, &family, &shape)?;
        let threads = Pool::new(options.threads).map_err(LoadError::Threads)?;
        let cache_shape = shape.cache(sizes.limits.block_tokens, options.kv_type);
        let cache = KvCache::new(cache_shape, sizes.blocks as usize)?;
        let workspace = Workspace::new(&weights, &threads, sizes.limits.batch_tokens, sizes.limits.outputs())?;
        Ok(Self {
            info: describe(&gguf, family.name, &shape, &sizes, threads.threads()),
            tokenizer,
            template: Arc::new(template),
            weights,
            threads,
            cache,
            workspace,
            batch: Batch::default(),
            scheduler: Scheduler::new(sizes.limits, sizes.blocks),
            plan: Vec::new(),
            pace: Pace::default(),
            load: Load::default(),
            guessed: Vec::new(),
            finished: Vec::new(),
            chooser: Chooser::default(),
            stats: Stats::default(),
        })
    }

    /// About the model.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// Text to tokens and back.
    pub fn tokenizer(&self) -> Arc<Tokenizer> {
        Arc::clone(&self.tokenizer)
    }

    /// Messages to a prompt.
    pub fn chat_template(&self) -> Arc<ChatTemplate> {
        Arc::clone(&self.template)
    }

    /// Queues a request. What can never be computed is refused at once.
    pub fn submit(&mut self, request: Request) -> Result<(), AdmitError> {
        self.check_prompt(&request.prompt)?;
        let Sampling {
            logit_bias,
            stop_tokens,
            ..
        } = &request.sampling;
        self.check_tokens(logit_bias.iter().map(|(token, _)| token).chain(stop_tokens))?;
        if self.scheduler.contains(request.id) {
            return Err(AdmitError::DuplicateId(request.id.0));
        }
        self.scheduler.add(request);
        Ok(())
    }

    fn check_prompt(&self, prompt: &[u32]) -> Result<(), AdmitError> {
        let context = self.info.context_length;
        if prompt.is_empty() {
            return Err(AdmitError::EmptyPrompt);
        }
        if prompt.len() >= context {
            let prompt = prompt.len();
            return Err(AdmitError::PromptTooLong { prompt, context });
        }
        self.check_tokens(prompt)
    }

    fn check_tokens<'a>(&self, tokens: impl IntoIterator<Item = &'a u32>) -> Result<(), AdmitError> {
        match tokens
            .into_iter()
            .find(|&&token| token as usize >= self.info.vocab_size)
        {
            Some(&token) => Err(AdmitError::InvalidToken(token)),
            None => Ok(()),
        }
    }

    /// Forgets a request, whatever its state. False if there is none. No event follows.
    pub fn cancel(&mut self, id: RequestId) -> bool {
        self.scheduler.cancel(id)
    }

    /// Whether `step` has something to do.
    pub fn has_work(&self) -> bool {
        self.scheduler.len() > 0
    }

    /// Computes one batch and appends what came out of it.
    pub fn step(&mut self, events: &mut Vec<Event>) {
        let mut plan = std::mem::take(&mut self.plan);
        self.load = self.scheduler.plan(&mut plan, &self.pace);
        if !plan.is_empty() {
            self.compute(&plan, events);
        }
        self.stats.running = plan.len();
        self.plan = plan;
    }

    /// How long the last step took, by the caller's clock: with it the engine predicts how much of a prompt fits into
    /// a step (see [`EngineOptions::step_time`]). Without it steps are as large as `max_batch_tokens` allows.
    pub fn learn(&mut self, took: Duration) {
        if self.load.tokens > 0 {
            self.pace.learn(self.load, took);
        }
    }

    /// Counters and gauges.
    pub fn stats(&self) -> Stats {
        let (used, total) = self.scheduler.blocks();
        let (preemptions, prefix_queries, prefix_hits) = self.scheduler.counters();
        Stats {
            waiting: self.scheduler.waiting(),
            blocks_used: used,
            blocks_total: total,
            prefix_queries,
            prefix_hits,
            preemptions,
            ..self.stats.clone()
        }
    }

    fn compute(&mut self, plan: &[Work], events: &mut Vec<Event>) {
        let running = self.scheduler.running();
        self.batch.clear();
        for work in plan {
            let sequence = &running[work.index];
            let (start, blocks) = (sequence.computed, sequence.table.blocks());
            if sequence.scores() {
                let tokens = &sequence.tokens[start..][..work.count];
                self.batch.push(tokens, start, blocks, Want::EachLogits);
                continue;
            }
            if !sequence.guess.is_empty() {
                self.guessed.clear();
                self.guessed.extend(&sequence.tokens[start..]);
                self.guessed.extend(&sequence.guess);
                self.batch.push(&self.guessed, start, blocks, Want::Each);
                continue;
            }
            let wants_logits =
                sequence.request.sampling.wants_logits(sequence.answered()) || sequence.request.constraint.is_some();
            let want = match (work.count == sequence.need(), wants_logits) {
                (false, _) => Want::Nothing,
                (true, false) => Want::Best,
                (true, true) => Want::Logits,
            };
            self.batch
                .push(&sequence.tokens[start..][..work.count], start, blocks, want);
        }
        self.weights
            .forward(&self.threads, &mut self.cache, &mut self.workspace, &self.batch);
        let mut output = 0;
        self.finished.clear();
        for work in plan {
            let sequence = self.scheduler.running_mut(work.index);
            let id = sequence.request.id;
            if !sequence.started {
                sequence.started = true;
                let cached_tokens = sequence.cached;
                events.push(Event::Started { id, cached_tokens });
            }
            let guess = std::mem::take(&mut sequence.guess);
            let known = work.count - guess.len();
            let prompt_left = sequence.prompt_tokens.saturating_sub(sequence.computed);
            self.stats.prompt_tokens += known.min(prompt_left) as u64;
            let scores = sequence.scores();
            sequence.advance(known);
            let is_reading = sequence.need() > 0;
            let mut end = None;
            if scores {
                end = self.take_prompt(output, known, work.index, events);
                output += known - 1;
            }
            if is_reading && end.is_none() {
                output += usize::from(scores);
                continue;
            }
            if end.is_none() {
                end = self.take_output(output, work.index, events);
            }
            let mut right = 0;
            // What was computed for a guess holds as long as the guesses before it were right.
            for (at, guessed) in guess.iter().enumerate() {
                let sequence = self.scheduler.running_mut(work.index);
                if end.is_some() || sequence.tokens.last() != Some(guessed) {
                    break;
                }
                sequence.advance(1);
                right += 1;
                end = self.take_output(output + 1 + at, work.index, events);
            }
            output += 1 + guess.len();
            self.stats.guessed_tokens += guess.len() as u64;
            self.stats.right_guesses += right;
            let sequence = self.scheduler.running_mut(work.index);
            sequence.guess = guess; // its memory
            sequence.guess.clear();
            if let Some((reason, ended)) = end {
                let usage = sequence.usage(ended);
                events.push(Event::Finished { id, reason, usage });
                self.finished.push(work.index);
            }
        }
        self.scheduler.remove(&self.finished);
        self.stats.steps += 1;
    }
}

fn describe(gguf: &Gguf, architecture: &str, shape: &Shape, sizes: &Sizes, threads: usize) -> ModelInfo {
    let mut by_type: Vec<(u64, &str)> = Vec::new();
    let mut parameters = 0u64;
    for tensor in gguf.tensors() {
        let elements = tensor
            .dims
            .iter()
            .fold(1u64, |product, &dim| product.saturating_mul(dim));
        parameters = parameters.saturating_add(elements);
        match by_type.iter_mut().find(|(_, name)| *name == tensor.kind.name) {
            Some((bytes, _)) => *bytes = bytes.saturating_add(tensor.bytes),
            None => by_type.push((tensor.bytes, tensor.kind.name)),
        }
    }
    let file_name = || {
        gguf.path()
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    };
    ModelInfo {
        name: match gguf.find_text("general.name") {
            Ok(Some(name)) => name.to_owned(),
            _ => file_name(),
        },
        architecture: architecture.to_owned(),
        parameters,
        quantization: by_type
            .iter()
            .max()
            .map(|(_, name)| (*name).to_owned())
            .unwrap_or_default(),
        context_length: sizes.limits.context,
        kv_tokens: sizes.blocks as usize * sizes.limits.block_tokens,
        vocab_size: shape.vocabulary,
        size_bytes: gguf.size(),
        threads,
    }
}
