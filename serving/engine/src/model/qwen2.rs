//! Qwen2 and Qwen2.5: the Llama decoder with biases on queries, keys and values, and heads whose halves
//! rotate together ("Qwen2 Technical Report", 2024).
use windlass_kernels::RopeStyle;

use super::{Architecture, Bias};

pub(super) const ARCHITECTURE: Architecture = Architecture {
    name: "qwen2",
    rope: RopeStyle::Halves,
    bias: Bias::Required,
};
