//! The engine: model file in, tokens out. Synchronous and deterministic: no HTTP, no clock, no
//! environment, no network; time and randomness are arguments.
pub mod chat;
pub mod load;
pub mod request;
pub mod tokenizer;
