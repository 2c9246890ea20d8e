//! Qwen2 and Qwen2.5: as Llama, with biases on q, k and v, and NeoX-style rotation (Yang et al.,
//! "Qwen2 technical report", 2024).
use windlass_kernels::RopeStyle;

use super::{Family, llama};

/// The family.
pub const FAMILY: Family = Family {
    name: "qwen2",
    rope: RopeStyle::Halves,
    // Which layers would have a window differs from model to model.
    global_every: None,
    attention_bias: true,
    ..llama::FAMILY
};
