//! One sequence as its caller sees it: the engine's tokens become text pieces and an end. Streamed
//! and whole answers read the same pieces, so they cannot differ. Dropping an answer cancels it.
use crate::echo::Echo;
use crate::engine_thread::{Ticket, Update};
use crate::error::ApiError;
use crate::input::Prompt;
use crate::logprobs::Scored;
use crate::metrics::{Ending, Metrics};
use crate::record::Record;
use crate::settings::Settings;
use crate::text::TextAssembler;
use crate::tool_calls::Calls;
use crate::tools::{CLOSE, OPEN};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;
use windlass_api::openai::{FinishReason, ToolCallDelta};
use windlass_engine::request::{AdmitError, FinishReason as EngineReason, Logprobs, Usage};
use windlass_engine::tokenizer::Tokenizer;

/// What is new.
#[derive(Debug, Clone, PartialEq)]
pub struct Piece {
    /// Often empty, also at the end.
    pub text: String,
    /// The tokens of the text, if their probabilities were asked for; each once, with the text that it began.
    pub tokens: Vec<Scored>,
    /// New tool calls, and new pieces of their arguments.
    pub calls: Vec<ToolCallDelta>,
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
    /// First: whoever sees that the engine forgot a sequence finds it counted.
    record: Record,
    ticket: Ticket,
    tokenizer: Arc<Tokenizer>,
    text: TextAssembler,
    /// Characters that were given out, or are before everything else.
    sent: usize,
    /// Tokens whose text is held back.
    scored: VecDeque<Scored>,
    /// Comes before everything else.
    echo: Option<Echo>,
    /// Characters before those of `text`.
    echoed: usize,
    shows_special: bool,
    /// Of an answer that may call tools.
    calls: Option<Calls>,
    /// Texts count as stop texts after so many tokens.
    min_tokens: usize,
}

impl Answer {
    /// Follows a sequence of `prompt` that was just submitted; with `echo` the prompt comes first.
    pub fn new(
        ticket: Ticket,
        tokenizer: Arc<Tokenizer>,
        metrics: Arc<Metrics>,
        settings: &Settings,
        calls: Option<Calls>,
        prompt: &Prompt,
        arrived: Instant,
    ) -> Self {
        let text = TextAssembler::new(settings.stops.clone(), settings.includes_stop);
        let scores = settings.sampling.logprobs.is_some();
        let echo = settings.echo.then(|| Echo::new(prompt, &tokenizer, scores));
        let echoed = echo.as_ref().map_or(0, Echo::characters);
        Self {
            record: Record::new(metrics, prompt.tokens.len(), arrived),
            ticket,
            tokenizer,
            text,
            sent: echoed,
            scored: VecDeque::new(),
            echo,
            echoed,
            shows_special: settings.shows_special,
            calls,
            min_tokens: settings.sampling.min_tokens,
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
        if self.record.has_ended() {
            return Ok(None);
        }
        loop {
            if let Some(echo) = self.echo.take_if(|echo| echo.is_complete()) {
                let (text, tokens) = echo.finish();
                return Ok(Some(Piece {
                    text,
                    tokens,
                    calls: Vec::new(),
                    end: None,
                }));
            }
            match self.ticket.next().await {
                Some(Update::Started { cached_tokens, at }) => self.record.started(cached_tokens, at),
                Some(Update::Prompt(logprobs)) => {
                    if let Some(echo) = &mut self.echo {
                        echo.add(&self.tokenizer, logprobs.iter().map(Some));
                    }
                }
                Some(Update::Ended { token, logprobs }) => self.score(token, &logprobs),
                update => return self.answered(update).map(Some),
            }
        }
    }

    /// The piece of a token, or of the end.
    fn answered(&mut self, update: Option<Update>) -> Result<Piece, ApiError> {
        match update {
            Some(Update::Token { token, logprobs, at }) => Ok(self.token(token, logprobs.as_deref(), at)),
            Some(Update::Finished { reason, usage, at }) => {
                self.record.set_usage(usage);
                let text = std::mem::take(&mut self.text);
                let (text, stopped) = text.finish();
                let reason = match reason {
                    _ if stopped => FinishReason::Stop,
                    EngineReason::Stop => FinishReason::Stop,
                    EngineReason::Length => FinishReason::Length,
                    EngineReason::NonFinite => return Err(self.fail(ApiError::NotFinite)),
                    EngineReason::Constraint => return Err(self.fail(ApiError::TooComplex)),
                };
                Ok(self.end(text, reason, stopped, at))
            }
            other => {
                let error = lost(other.as_ref());
                Err(self.fail(error))
            }
        }
    }

    fn token(&mut self, token: u32, logprobs: Option<&Logprobs>, at: Instant) -> Piece {
        self.record.token(at);
        if let Some(logprobs) = logprobs {
            self.score(token, logprobs);
        }
        let is_mark = |text: &str| [OPEN, CLOSE].contains(&text);
        // In some vocabularies the marks of calls are control tokens, which have no text.
        let marks = self.calls.is_some() && self.tokenizer.token_text(token).is_some_and(is_mark);
        let bytes = if self.shows_special || marks {
            self.tokenizer.piece_with_special(token)
        } else {
            self.tokenizer.piece(token)
        };
        let text = if self.record.usage().completion_tokens <= self.min_tokens {
            self.text.push_unstoppable(bytes)
        } else {
            self.text.push(bytes)
        };
        if self.text.stopped() {
            return self.end(text, FinishReason::Stop, true, at);
        }
        let tokens = self.release(&text);
        self.piece(text, tokens)
    }

    /// A token that begins where the text so far ends.
    fn score(&mut self, token: u32, logprobs: &Logprobs) {
        let offset = self.echoed + self.text.characters();
        let scored = Scored::new(&self.tokenizer, token, offset, Some(logprobs));
        self.scored.push_back(scored);
    }

    /// The tokens that begin inside the text up to the end of `text`, which is given out now.
    fn release(&mut self, text: &str) -> Vec<Scored> {
        self.sent += text.chars().count();
        let begun = self.scored.partition_point(|scored| scored.offset < self.sent);
        self.scored.drain(..begun).collect()
    }

    /// A piece in the middle: calls are taken out of the text.
    fn piece(&mut self, text: String, tokens: Vec<Scored>) -> Piece {
        let (text, calls) = match &mut self.calls {
            None => (text, Vec::new()),
            Some(calls) => calls.push(&text),
        };
        Piece {
            text,
            tokens,
            calls,
            end: None,
        }
    }

    /// `stopped`: by a stop text; tokens after the end of the answer's text are then none of it.
    fn end(&mut self, text: String, mut reason: FinishReason, stopped: bool, at: Instant) -> Piece {
        let mut tokens = self.release(&text);
        if !stopped {
            tokens.extend(self.scored.drain(..));
        }
        let mut piece = self.piece(text, tokens);
        if let Some(calls) = self.calls.take() {
            let (rest, complete) = calls.finish();
            piece.text += &rest;
            if complete && reason == FinishReason::Stop {
                reason = FinishReason::ToolCalls;
            }
        }
        let ending = match reason {
            FinishReason::Stop | FinishReason::ToolCalls | FinishReason::FunctionCall => Ending::Stop,
            FinishReason::Length => Ending::Length,
        };
        self.record.end(ending, at);
        piece.end = Some(End {
            reason,
            usage: self.record.usage(),
        });
        piece
    }

    fn fail(&mut self, error: ApiError) -> ApiError {
        self.record.end(Ending::Error, Instant::now());
        error
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
