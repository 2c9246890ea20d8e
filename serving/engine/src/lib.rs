//! The engine: model file in, tokens out. Synchronous and deterministic: no HTTP, no clock, no
//! environment, no network; time and randomness are arguments.
pub mod chat;
mod engine;
mod kv;
pub mod load;
mod memory;
mod model;
pub mod request;
mod sample;
mod scheduler;
mod sequence;
mod step;
pub mod tokenizer;

pub use engine::{Engine, ModelInfo};
pub use load::LoadError;
