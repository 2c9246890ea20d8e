//! One sequence as its caller sees it: the engine's tokens become text pieces and an end. Streamed
//! and whole answers read the same pieces, so they cannot differ. Dropping an answer cancels it.
use crate::engine_thread::{Ticket, Update};
use crate::error::ApiError;
use crate::metrics::{Ending, Metrics};
use crate::settings::Settings;
use crate::text::TextAssembler;
use std::sync::Arc;
use std::time::Instant;
use windlass_api::openai::FinishReason;
use windlass_engine::request::{AdmitError, FinishReason as EngineReason, Usage};
use windlass_engine::tokenizer::Tokenizer;

/// What is new.
#[derive(Debug, Clone, PartialEq)]
pub struct Piece {
    /// Often empty, also at the end.
    pub text: String,
    /// Set in the last piece.
    pub end: Option<End>,
}

/// How an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// Why.
    pub reason: FinishReason,
    /// What it used.
    pub usage: Usage,
}

/// An answer under way.
#[derive(Debug)]
pub struct Answer {
    ticket: Ticket,
    tokenizer: Arc<Tokenizer>,
    metrics: Arc<Metrics>,
    text: TextAssembler,
    /// Texts count as stop texts after so many tokens.
    min_tokens: usize,
    arrived: Instant,
    last_token: Option<Instant>,
    /// Counted here as well: a stop text ends an answer before the engine reports its usage.
    usage: Usage,
    ended: bool,
}

impl Answer {
    /// Follows a sequence of `prompt_tokens` that was just submitted.
    pub fn new(
        ticket: Ticket,
        tokenizer: Arc<Tokenizer>,
        metrics: Arc<Metrics>,
        settings: &Settings,
        prompt_tokens: usize,
        arrived: Instant,
    ) -> Self {
        let text = TextAssembler::new(settings.stops.clone());
        let usage = Usage {
            prompt_tokens,
            ..Usage::default()
        };
        Self {
            ticket,
            tokenizer,
            metrics,
            text,
            min_tokens: settings.sampling.min_tokens,
            arrived,
            last_token: None,
            usage,
            ended: false,
        }
    }

    /// Waits until the engine has taken it; comes before `next`, so that a refusal can still have a status.
    pub async fn admitted(&mut self) -> Result<(), ApiError> {
        let error = match self.ticket.next().await {
            Some(Update::Admitted) => return Ok(()),
            Some(Update::Refused(error)) => refusal(error),
            other => lost(other.as_ref()),
        };
        Err(self.fail(error))
    }

    /// The next piece, one for each token; `None` after the end.
    pub async fn next(&mut self) -> Result<Option<Piece>, ApiError> {
        if self.ended {
            return Ok(None);
        }
        let mut update = self.ticket.next().await;
        if let Some(Update::Started { cached_tokens, at }) = update {
            self.usage.cached_tokens = cached_tokens;
            self.metrics.started(at.saturating_duration_since(self.arrived));
            update = self.ticket.next().await;
        }
        match update {
            Some(Update::Token { token, at }) => Ok(Some(self.token(token, at))),
            Some(Update::Finished { reason, usage, at }) => {
                self.usage = usage;
                let text = std::mem::take(&mut self.text);
                let (text, stopped) = text.finish();
                let reason = match reason {
                    _ if stopped => FinishReason::Stop,
                    EngineReason::Stop => FinishReason::Stop,
                    EngineReason::Length => FinishReason::Length,
                    EngineReason::NonFinite => return Err(self.fail(ApiError::NotFinite)),
                };
                Ok(Some(self.end(text, reason, at)))
            }
            other => {
                let error = lost(other.as_ref());
                Err(self.fail(error))
            }
        }
    }

    fn token(&mut self, token: u32, at: Instant) -> Piece {
        match self.last_token.replace(at) {
            None => self.metrics.first_token(at.saturating_duration_since(self.arrived)),
            Some(last) => self.metrics.next_token(at.saturating_duration_since(last)),
        }
        self.usage.completion_tokens += 1;
        let bytes = self.tokenizer.piece(token);
        let text = if self.usage.completion_tokens <= self.min_tokens {
            self.text.push_unstoppable(bytes)
        } else {
            self.text.push(bytes)
        };
        if self.text.stopped() {
            return self.end(text, FinishReason::Stop, at);
        }
        Piece { text, end: None }
    }

    fn end(&mut self, text: String, reason: FinishReason, at: Instant) -> Piece {
        let ending = match reason {
            FinishReason::Stop => Ending::Stop,
            FinishReason::Length => Ending::Length,
        };
        self.record(ending, at);
        Piece {
            text,
            end: Some(End {
                reason,
                usage: self.usage,
            }),
        }
    }

    fn fail(&mut self, error: ApiError) -> ApiError {
        self.record(Ending::Error, Instant::now());
        error
    }

    fn record(&mut self, ending: Ending, at: Instant) {
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
            "a sequence ended"
        );
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if !self.ended {
            self.record(Ending::Abort, Instant::now());
        }
    }
}

/// The checks before submitting should leave nothing to refuse; if they do, the caller learns why.
fn refusal(error: AdmitError) -> ApiError {
    match error {
        AdmitError::PromptTooLong { prompt, context } => ApiError::ContextLengthExceeded {
            param: "messages",
            prompt,
            context,
        },
        AdmitError::EmptyPrompt | AdmitError::InvalidToken(_) => ApiError::invalid("prompt", error.to_string()),
        AdmitError::DuplicateId(_) => ApiError::Internal {
            detail: error.to_string(),
        },
    }
}

fn lost(update: Option<&Update>) -> ApiError {
    ApiError::Internal {
        detail: format!("the engine ended a sequence without its end: {update:?}"),
    }
}
