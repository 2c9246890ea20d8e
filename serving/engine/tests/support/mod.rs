//! What the tests on files made here share.
pub mod gguf;
