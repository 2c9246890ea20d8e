//! The engine: model file in, tokens out. Synchronous and deterministic: no HTTP, no clock, no
//! environment, no network; time and randomness are arguments.
pub mod request;
