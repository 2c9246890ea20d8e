//! What the tests on files made here share.
pub mod encoder;
pub mod gguf;
