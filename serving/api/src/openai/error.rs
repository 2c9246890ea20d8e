//! Every answer that is not a success has this body.
use serde::{Deserialize, Serialize};

/// The body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// Its only field.
    pub error: ErrorDetail,
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// For a person.
    pub message: String,
    /// The class, for example `invalid_request_error`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The field at fault, for example `messages[0].content`.
    pub param: Option<String>,
    /// For a program, for example `context_length_exceeded`.
    pub code: Option<String>,
}
