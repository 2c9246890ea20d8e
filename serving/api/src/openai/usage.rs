//! What an answer cost, and why it ended.
use serde::{Deserialize, Serialize};

/// Token counts of an answer, summed over its choices.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the prompts.
    pub prompt_tokens: usize,
    /// Tokens generated.
    pub completion_tokens: usize,
    /// The sum of both.
    pub total_tokens: usize,
    /// How the prompt tokens split up.
    #[serde(default)]
    pub prompt_tokens_details: PromptTokensDetails,
}

/// A part of `Usage`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptTokensDetails {
    /// Prompt tokens that came from the prefix cache.
    pub cached_tokens: usize,
}

/// Why a choice ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model ended it, or a stop text appeared.
    Stop,
    /// `max_tokens` or the context is used up.
    Length,
    /// The model calls tools.
    ToolCalls,
    /// The same in the older form.
    FunctionCall,
}
