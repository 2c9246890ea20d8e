//! Llama and what is built like it (Mistral, SmolLM): pre-norm decoder with grouped-query attention and a
//! gated feed-forward network (Touvron et al., "Llama 2", 2023). GGUF files store q and k with the
//! rotated pairs side by side. `rope_freqs.weight`, where present, carries Llama 3's long-context factors.
use windlass_kernels::RopeStyle;

use super::Family;

/// The family.
pub const FAMILY: Family = Family {
    name: "llama",
    rope: RopeStyle::Interleaved,
    attention_bias: false,
};
