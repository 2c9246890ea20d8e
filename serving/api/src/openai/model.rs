//! Answers of `GET /v1/models` and `GET /v1/models/{id}`.
use serde::{Deserialize, Serialize};

/// All models: a server has one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelList {
    /// `list`.
    pub object: String,
    /// The models.
    pub data: Vec<Model>,
}

/// One model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Model {
    /// The served name.
    pub id: String,
    /// `model`.
    pub object: String,
    /// Unix seconds at which the server started.
    pub created: u64,
    /// `windlass`.
    pub owned_by: String,
    /// Tokens that a prompt and its answer may have together. Not part of OpenAI's API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_model_len: Option<usize>,
}
