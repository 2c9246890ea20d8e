//! Llama and its kin (SmolLM, Mistral, TinyLlama): RMS norm before attention and feed-forward, grouped
//! query heads, SwiGLU (Touvron et al., "LLaMA", 2023). GGUF files hold query and key rows in the order
//! in which neighbours rotate together.
use windlass_kernels::RopeStyle;

use super::{Architecture, Bias};

pub(super) const ARCHITECTURE: Architecture = Architecture {
    name: "llama",
    rope: RopeStyle::Interleaved,
    bias: Bias::Optional,
};
