//! `POST /tokenize` and `POST /detokenize`: text to tokens and back, in the shapes of vLLM's server.
use crate::openai::ChatMessage;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A text, or messages.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, expecting = "a JSON object")]
pub struct TokenizeRequest {
    /// The served name; absent means the server's only model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// A text, as a completion takes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// Messages, as a chat takes them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages: Option<Vec<ChatMessage>>,
    /// Of a text: begin with the token that begins texts, if the model has one. True unless said otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub add_special_tokens: Option<bool>,
    /// Of messages: end with the beginning of an answer. True unless said otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub add_generation_prompt: Option<bool>,
    /// Say the tokens as text, too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub return_token_strs: Option<bool>,
    /// Everything else, so that the server can refuse by name what it knows and does not support.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// The tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenizeResponse {
    /// How many there are.
    pub count: usize,
    /// Tokens that a prompt and its answer may have together.
    pub max_model_len: usize,
    /// Their ids.
    pub tokens: Vec<u32>,
    /// Their texts in the vocabulary's own notation; null unless asked for.
    pub token_strs: Option<Vec<String>>,
}

/// Tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, expecting = "a JSON object")]
pub struct DetokenizeRequest {
    /// The served name; absent means the server's only model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Their ids.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<Vec<u32>>,
}

/// The text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DetokenizeResponse {
    /// Control tokens by their names; what is not UTF-8 is replaced.
    pub prompt: String,
}
