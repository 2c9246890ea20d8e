//! What is done with hostile bytes, by `cargo test` with the corpus and by libFuzzer (`make fuzz`) with what it thinks
//! of. A target panics exactly when something that it tests is wrong.
pub mod encoder;
pub mod gguf;
pub mod template;
pub mod tokenizer;
