//! OpenAI's HTTP API, as far as we speak it. Field names and shapes are theirs
//! (<https://platform.openai.com/docs/api-reference>); what we do not know is ignored on reading.
mod chat;
mod completion;
mod embedding;
mod error;
mod logprobs;
mod model;
mod request;
mod structured;
mod tools;
mod usage;

pub use chat::{ChatChoice, ChatChunk, ChatChunkChoice, ChatDelta, ChatResponse, ChatResponseMessage};
pub use completion::{CompletionChoice, CompletionResponse};
pub use embedding::{Embedding, EmbeddingRequest, EmbeddingResponse, EmbeddingUsage, Vector};
pub use error::{ErrorBody, ErrorDetail};
pub use logprobs::{ChatLogprobs, CompletionLogprobs, Logprob, LogprobsWish, TokenLogprob};
pub use model::{Model, ModelList};
pub use request::{ChatMessage, Content, ContentPart, GenerateRequest, Prompt, Stop, StreamOptions};
pub use structured::{JsonSchemaFormat, ResponseFormat, StructuredOutputs};
pub use tools::{
    FunctionCall, FunctionCallDelta, FunctionChoice, FunctionName, FunctionTool, Tool, ToolCall, ToolCallDelta,
    ToolChoice,
};
pub use usage::{FinishReason, PromptTokensDetails, Usage};

/// The data of the last event of a stream.
pub const DONE: &str = "[DONE]";
