//! Model files: readers that trust nothing.
pub mod gguf;
pub mod safetensors;
