//! What an answer takes, as the metrics get it: its tokens, its times, and how it ended. An answer is a sequence, or all
//! vectors of a request. One that is dropped before its end was aborted.
use crate::metrics::{Ending, Metrics};
use std::sync::Arc;
use std::time::Instant;
use windlass_engine::request::Usage;

/// The record of an answer.
#[derive(Debug)]
pub struct Record {
    metrics: Arc<Metrics>,
    arrived: Instant,
    last_token: Option<Instant>,
    /// Counted here as well: a stop text ends an answer before the engine reports its usage.
    usage: Usage,
    ended: bool,
}

impl Record {
    /// Of an answer whose request came at `arrived`.
    pub fn new(metrics: Arc<Metrics>, prompt_tokens: usize, arrived: Instant) -> Self {
        let usage = Usage {
            prompt_tokens,
            ..Usage::default()
        };
        Self {
            metrics,
            arrived,
            last_token: None,
            usage,
            ended: false,
        }
    }

    /// The engine computes it.
    pub fn started(&mut self, cached_tokens: usize, at: Instant) {
        self.usage.cached_tokens = cached_tokens;
        self.metrics.started(at.saturating_duration_since(self.arrived));
    }

    /// It has a token more.
    pub fn token(&mut self, at: Instant) {
        match self.last_token.replace(at) {
            None => self.metrics.first_token(at.saturating_duration_since(self.arrived)),
            Some(last) => self.metrics.next_token(at.saturating_duration_since(last)),
        }
        self.usage.completion_tokens += 1;
    }

    /// What the engine counted.
    pub fn set_usage(&mut self, usage: Usage) {
        self.usage = usage;
    }

    /// What it has used so far.
    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// Its end.
    pub fn end(&mut self, ending: Ending, at: Instant) {
        self.ended = true;
        let took = at.saturating_duration_since(self.arrived);
        self.metrics
            .ended(ending, took, self.usage.prompt_tokens, self.usage.completion_tokens);
        tracing::debug!(
            ?ending,
            prompt_tokens = self.usage.prompt_tokens,
            cached_tokens = self.usage.cached_tokens,
            completion_tokens = self.usage.completion_tokens,
            seconds = took.as_secs_f64(),
            "an answer ended"
        );
    }

    /// Whether it has.
    pub fn has_ended(&self) -> bool {
        self.ended
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if !self.ended {
            self.end(Ending::Abort, Instant::now());
        }
    }
}
