//! The wire that Windlass's programs share: JSON types, metric and header names. serde only:
//! no I/O, no clock, no logic beyond (de)serialisation.
pub mod fetch;
pub mod headers;
pub mod metrics;
pub mod openai;
pub mod tokenize;
pub mod verify;
