//! How likely the tokens of an answer were: natural logarithms of the model's own probabilities.
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a request says about them: a chat `true` or `false`, a completion how many tokens of each place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected true, false or an integer that is not negative")]
pub enum LogprobsWish {
    /// In a chat.
    Chosen(bool),
    /// In a completion.
    Top(u64),
}

/// Of a chat's answer, or of an event's part of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChatLogprobs {
    /// One for each token.
    pub content: Vec<TokenLogprob>,
}

/// A token of a chat's answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenLogprob {
    /// The token itself.
    #[serde(flatten)]
    pub token: Logprob,
    /// The most likely tokens at its place, best first.
    pub top_logprobs: Vec<Logprob>,
}

/// A token and how likely it was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Logprob {
    /// Its text; what is not UTF-8 on its own is replaced.
    pub token: String,
    /// At most 0.
    pub logprob: f32,
    /// Its text as bytes: those of all tokens together are the answer.
    pub bytes: Vec<u8>,
}

/// Of a completion's text, or of an event's part of it; all lists are of equal length.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CompletionLogprobs {
    /// The texts of the tokens; one that is not UTF-8 on its own is written as `bytes:\xe2\x82`.
    pub tokens: Vec<String>,
    /// How likely each was; null for the first token of an echoed prompt, which nothing comes before.
    pub token_logprobs: Vec<Option<f32>>,
    /// The most likely tokens at each place, and the one that is there; null as in `token_logprobs`.
    pub top_logprobs: Vec<Option<BTreeMap<String, f32>>>,
    /// Characters of the text before each.
    pub text_offset: Vec<usize>,
}
