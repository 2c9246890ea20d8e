//! What a caller gives the engine and what comes back. Token ids only: text is the server's business
//! (with the engine's `Tokenizer` and `ChatTemplate`).
use std::time::Duration;

use crate::grammar::Constraint;
pub use windlass_kernels::KvType;

/// Chosen by the caller, unique among the requests that live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// One sequence to complete.
#[derive(Debug, Clone)]
pub struct Request {
    /// The caller's name for it.
    pub id: RequestId,
    /// Prompt tokens, at least one.
    pub prompt: Vec<u32>,
    /// Tokens to generate at most; prompt + max_tokens is clamped to the context by `submit`. With 0 the prompt is
    /// computed and nothing follows.
    pub max_tokens: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Go on after an end-of-generation token (for benchmarks). The end of a grammar is an end nevertheless.
    pub ignore_eos: bool,
    /// Separates the prefix cache of tenants: only equal salts share blocks.
    pub cache_salt: u64,
    /// Lower goes first: out of the queue, with the time of a step, and in keeping its blocks. Usually 0.
    pub priority: i32,
    /// What the answer must be: at its beginning, and of this model's [`Grammars`](crate::grammar::Grammars).
    pub constraint: Option<Constraint>,
    /// Say how likely each token of the prompt but the first was, and so many of the most likely ones at its place. All
    /// of the prompt is then computed, whatever the prefix cache holds, and read more slowly.
    pub prompt_logprobs: Option<usize>,
}

impl Request {
    /// The most likely tokens after `prompt`, until one ends the answer; nothing else is asked for.
    pub fn new(id: RequestId, prompt: Vec<u32>, max_tokens: usize) -> Self {
        Self {
            id,
            prompt,
            max_tokens,
            sampling: Sampling::default(),
            ignore_eos: false,
            cache_salt: 0,
            priority: 0,
            constraint: None,
            prompt_logprobs: None,
        }
    }
}

/// How tokens are chosen, and which of them end the answer; already validated by the server. The default is greedy and
/// asks for nothing else.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// 0 is greedy; otherwise the logits are divided by it. In 0..=2.
    pub temperature: f32,
    /// Nucleus: the smallest set of tokens whose probability reaches it. In (0, 1].
    pub top_p: f32,
    /// Only the k most likely tokens; 0 is all.
    pub top_k: usize,
    /// Only tokens whose probability, after the temperature, is at least this share of the largest. In 0..=1.
    pub min_p: f32,
    /// Equal seeds and equal requests give equal tokens, whatever else runs.
    pub seed: u64,
    /// Subtracted from the logit of every token that the answer has. In -2..=2.
    pub presence_penalty: f32,
    /// Subtracted for each time that the answer has it. In -2..=2.
    pub frequency_penalty: f32,
    /// Divides the logit, and multiplies a negative one, of every token of prompt and answer. Above 0.
    pub repetition_penalty: f32,
    /// Added to the logits of these tokens.
    pub logit_bias: Vec<(u32, f32)>,
    /// No token ends the answer before it has so many.
    pub min_tokens: usize,
    /// Tokens that end the answer as the model's own do, also with `ignore_eos`.
    pub stop_tokens: Vec<u32>,
    /// Say how likely each token was, and so many of the most likely ones at its place.
    pub logprobs: Option<usize>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            seed: 0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repetition_penalty: 1.0,
            logit_bias: Vec::new(),
            min_tokens: 0,
            stop_tokens: Vec::new(),
            logprobs: None,
        }
    }
}

impl Sampling {
    /// Whether the most likely token is the one.
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0 || self.top_k == 1
    }

    /// Whether logits depend on the tokens so far.
    pub fn penalises(&self) -> bool {
        self.presence_penalty != 0.0 || self.frequency_penalty != 0.0 || self.repetition_penalty != 1.0
    }

    /// Whether the logits for the token after `answered` others are not the model's own.
    pub fn adjusts(&self, answered: usize) -> bool {
        answered < self.min_tokens || !self.logit_bias.is_empty() || self.penalises()
    }

    /// Whether the most likely token is not enough for the token after `answered` others.
    pub fn wants_logits(&self, answered: usize) -> bool {
        !self.is_greedy() || self.adjusts(answered) || self.logprobs.is_some()
    }
}

/// What a step produced for one request.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A request is part of a step for the first time; comes once, before its first token.
    Started {
        /// Whose.
        id: RequestId,
        /// Tokens of its prompt that came from the prefix cache, for callers that end it themselves.
        cached_tokens: usize,
    },
    /// How likely the next tokens of the prompt were, the first of which has no probability; before the first `Token`,
    /// and only if [`Request::prompt_logprobs`] asks for them.
    Prompt {
        /// Whose.
        id: RequestId,
        /// One for each token.
        logprobs: Vec<Logprobs>,
    },
    /// A generated token (one that ends the answer is not reported so).
    Token {
        /// Whose.
        id: RequestId,
        /// Its id in the vocabulary.
        token: u32,
        /// If they were asked for.
        logprobs: Option<Box<Logprobs>>,
    },
    /// The token that ended the answer and is no part of it; only if [`Request::prompt_logprobs`] and
    /// [`Sampling::logprobs`] are asked for, whose readers expect a probability for each token that was generated.
    Ended {
        /// Whose.
        id: RequestId,
        /// Its id in the vocabulary.
        token: u32,
        /// How likely it was.
        logprobs: Box<Logprobs>,
    },
    /// The last event of a request.
    Finished {
        /// Whose.
        id: RequestId,
        /// Why it ended.
        reason: FinishReason,
        /// What it used.
        usage: Usage,
    },
}

/// How likely a token was, by the model's own probabilities: natural logarithms.
#[derive(Debug, Clone, PartialEq)]
pub struct Logprobs {
    /// Of the token.
    pub chosen: f32,
    /// Of the most likely tokens at its place, best first.
    pub top: Vec<(u32, f32)>,
}

/// Why a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended it with an end-of-generation token, or its grammar allows nothing more.
    Stop,
    /// `max_tokens` or the context is used up.
    Length,
    /// The arithmetic of this request alone produced a value that is not finite.
    NonFinite,
    /// What its grammar allows could not be computed within the limits.
    Constraint,
}

/// Token counts of a finished request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Those of them that came from the prefix cache.
    pub cached_tokens: usize,
    /// Generated tokens, an end-of-generation token included.
    pub completion_tokens: usize,
}

/// Why `submit` refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdmitError {
    /// There is nothing to continue.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// The prompt alone leaves no room for a single new token.
    #[error(
        "the prompt has {prompt} tokens; this server's context is {context}, and at least one is needed for the answer"
    )]
    PromptTooLong {
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens of the context.
        context: usize,
    },
    /// A token id outside the vocabulary.
    #[error("token id {0} is not in the vocabulary")]
    InvalidToken(u32),
    /// The id is in use.
    #[error("request id {0} is in use")]
    DuplicateId(u64),
}

/// Limits and sizes for loading a model; `None` means: decide from the model and the memory given.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// Worker threads, at least 1; the calling thread is one of them.
    pub threads: usize,
    /// Tokens a sequence may have; default: the model's own, lowered to what the memory allows.
    pub context_length: Option<usize>,
    /// Sequences that run at once.
    pub max_sequences: usize,
    /// Tokens computed in one step at most (prefill chunk + decodes).
    pub max_batch_tokens: usize,
    /// How long a step should take in which prompts are read beside answers, so that those keep flowing: prompts are read
    /// in chunks that fit into it (see [`crate::Engine::learn`]). If the answers alone take more than a third of it, three
    /// times what they take. `None`: prompts take what `max_batch_tokens` leaves.
    pub step_time: Option<Duration>,
    /// Bytes that weights, cache and buffers may take together (the caller reads the cgroup); `None`: no limit known.
    pub memory_limit: Option<u64>,
    /// Tokens in a KV block.
    pub block_tokens: usize,
    /// How keys and values are stored.
    pub kv_type: KvType,
    /// Tokens that are guessed at most for an answer of the most likely tokens, from what it repeats; 0 is none. The
    /// tokens are the same, and come several at a time where the guess was right.
    pub speculate: usize,
}

impl Default for EngineOptions {
    /// One sequence on one thread, in whatever memory there is, with nothing traded for speed: f16 keys and values, no
    /// guesses, no step time. Blocks and batches have the server's sizes, which change no token. Who serves decides
    /// threads, sequences and the memory limit: they are the machine's and the callers', which the engine cannot see.
    fn default() -> Self {
        Self {
            threads: 1,
            context_length: None,
            max_sequences: 1,
            max_batch_tokens: 512,
            step_time: None,
            memory_limit: None,
            block_tokens: 16,
            kv_type: KvType::F16,
            speculate: 0,
        }
    }
}

/// Counters and gauges, read after a step.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stats {
    /// Sequences that were part of the last step.
    pub running: usize,
    /// Sequences admitted to the queue and not running.
    pub waiting: usize,
    /// KV blocks in use and in all.
    pub blocks_used: usize,
    /// KV blocks in all.
    pub blocks_total: usize,
    /// Prompt tokens looked up in, and served from, the prefix cache since start.
    pub prefix_queries: u64,
    /// See `prefix_queries`.
    pub prefix_hits: u64,
    /// Sequences that lost their blocks and were computed again, since start.
    pub preemptions: u64,
    /// Prompt tokens computed since start.
    pub prompt_tokens: u64,
    /// Tokens generated since start.
    pub generated_tokens: u64,
    /// Tokens guessed, and those of them that were right, since start.
    pub guessed_tokens: u64,
    /// See `guessed_tokens`.
    pub right_guesses: u64,
    /// Steps since start: the proof of life for the liveness probe.
    pub steps: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greedy_requests_want_logits_only_while_something_changes_or_reports_them() {
        let wants = |change: fn(&mut Sampling), answered| {
            let mut sampling = Sampling::default();
            change(&mut sampling);
            sampling.wants_logits(answered)
        };
        let plain: [fn(&mut Sampling); 5] = [
            |_| (),
            |s| s.min_p = 0.5,
            |s| s.top_p = 0.5,
            |s| s.stop_tokens = vec![1],
            |s| (s.temperature, s.top_k) = (1.0, 1),
        ];
        assert!(plain.iter().all(|&change| !wants(change, 0)));
        let all: [fn(&mut Sampling); 6] = [
            |s| s.temperature = 0.1,
            |s| s.presence_penalty = -0.1,
            |s| s.frequency_penalty = 0.1,
            |s| s.repetition_penalty = 1.1,
            |s| s.logit_bias = vec![(1, 1.0)],
            |s| s.logprobs = Some(0),
        ];
        assert!(all.iter().all(|&change| wants(change, 9)));
        let late = |answered| wants(|s| s.min_tokens = 2, answered);
        assert_eq!([0, 1, 2].map(late), [true, true, false]);
    }
}
