//! Tools that a model may call, and its calls, whole and as parts of a stream.
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A tool.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Tool {
    /// `function`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<FunctionTool>,
}

/// A function.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FunctionTool {
    /// Unique among the tools.
    pub name: String,
    /// For the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// A JSON schema of its arguments; absent means that it takes none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<Value>,
    /// Refuse what cannot be kept to in the schema, instead of keeping to the rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strict: Option<bool>,
}

/// Whether, or which, tools are to be called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "expected `none`, `auto`, `required` or an object with the name of a function"
)]
pub enum ToolChoice {
    /// `none`, `auto` or `required`.
    Mode(String),
    /// This one.
    Named {
        /// `function`.
        #[serde(rename = "type")]
        kind: String,
        /// Its name.
        function: FunctionName,
    },
}

/// The older form of [`ToolChoice`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "expected `none`, `auto` or an object with the name of a function"
)]
pub enum FunctionChoice {
    /// `none` or `auto`.
    Mode(String),
    /// This one.
    Named(FunctionName),
}

/// A function by its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionName {
    /// Its name.
    pub name: String,
}

/// A call that a model made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCall {
    /// Names the call; a `tool` message answers it.
    #[serde(default)]
    pub id: String,
    /// `function`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What is called.
    pub function: FunctionCall,
}

/// The function that is called, and with what.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionCall {
    /// The function's name.
    pub name: String,
    /// A JSON object as text.
    pub arguments: String,
}

/// What an event of a stream adds to the calls: the first for a call has everything but arguments, the others have
/// only pieces of those.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCallDelta {
    /// Number of the call in its answer, from 0.
    pub index: u32,
    /// Names the call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `function`.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// What is new.
    pub function: FunctionCallDelta,
}

/// A part of `ToolCallDelta`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionCallDelta {
    /// The function's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The next piece of the arguments.
    pub arguments: String,
}
