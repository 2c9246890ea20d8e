//! The engine: model file in, tokens or vectors out. Synchronous and deterministic: no HTTP, no clock, no
//! environment, no network; time and randomness are arguments.
mod adjust;
pub mod chat;
mod choose;
pub mod embed;
mod engine;
pub mod grammar;
mod kv;
pub mod load;
mod logprobs;
mod model;
mod pace;
mod quote;
pub mod request;
mod sample;
mod scheduler;
mod sequence;
pub mod tokenizer;

pub use engine::{Engine, LoadError, ModelInfo};
pub use quote::shortened;
