//! The body of `POST /v1/embeddings`, and its answer.
use super::Prompt;
use serde::{Deserialize, Serialize};

/// A request for vectors. Absent fields take the server's defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, expecting = "a JSON object")]
pub struct EmbeddingRequest {
    /// The served name; absent means the server's only model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// What to embed: each text, or list of token ids, has a vector.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<Prompt>,
    /// `float` (the default) or `base64`: little-endian f32.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoding_format: Option<String>,
    /// Elements of a vector, for models whose vectors may be cut.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dimensions: Option<u64>,
    /// Inputs beyond so many tokens are cut at their end instead of refused; -1 is the model's limit. Not part of
    /// OpenAI's API.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub truncate_prompt_tokens: Option<i64>,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EmbeddingResponse {
    /// `list`.
    pub object: String,
    /// One for each input, in their order.
    pub data: Vec<Embedding>,
    /// The served name.
    pub model: String,
    /// What it cost.
    pub usage: EmbeddingUsage,
}

/// One vector.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Embedding {
    /// `embedding`.
    pub object: String,
    /// The number of the input.
    pub index: usize,
    /// The vector.
    pub embedding: Vector,
}

/// A vector in the format that was asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Vector {
    /// Numbers.
    Floats(Vec<f32>),
    /// Little-endian f32 in base64.
    Base64(String),
}

/// Token counts of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmbeddingUsage {
    /// Tokens of all inputs.
    pub prompt_tokens: usize,
    /// The same.
    pub total_tokens: usize,
}
