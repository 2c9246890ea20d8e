//! Answers of `POST /v1/completions`: whole answers and stream events have the same shape.
use super::{CompletionLogprobs, FinishReason, Usage};
use serde::{Deserialize, Serialize};

/// A whole answer, or one event of a stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CompletionResponse {
    /// `cmpl-` and an id; the same in all events of a stream.
    pub id: String,
    /// `text_completion`.
    pub object: String,
    /// Unix seconds.
    pub created: u64,
    /// The served name.
    pub model: String,
    /// `n` choices for each prompt; an event has one, or none when it carries the usage.
    pub choices: Vec<CompletionChoice>,
    /// Always set in a whole answer. In a stream absent unless asked for; then null in every event but the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Option<Usage>>,
}

/// The answer, or a part of it, to one prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CompletionChoice {
    /// Its number, from 0: the choices of the first prompt, then those of the second.
    pub index: u32,
    /// The text; in an event, what is new.
    pub text: String,
    /// Why it ended; null in events before the last.
    pub finish_reason: Option<FinishReason>,
    /// How likely its tokens were, if asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<CompletionLogprobs>,
}
