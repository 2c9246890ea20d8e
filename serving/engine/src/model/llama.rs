//! Llama and what is built like it (Mistral, SmolLM): pre-norm decoder with grouped-query attention and a
//! gated feed-forward network (Touvron et al., "Llama 2", 2023). GGUF files store q and k with the
//! rotated pairs side by side. `rope_freqs.weight`, where present, carries Llama 3's long-context factors.
//! Mistral's window is that of all layers (Jiang et al., "Mistral 7B", 2023).
use windlass_kernels::{Activation, RopeStyle};

use super::Family;

/// The family.
pub const FAMILY: Family = Family {
    name: "llama",
    rope: RopeStyle::Interleaved,
    local_rope_base: None,
    global_every: Some(0),
    attention_bias: false,
    head_norms: false,
    post_norms: false,
    scaled_embeddings: false,
    activation: Activation::Silu,
    attention_scale: |shape| 1.0 / (shape.head_dim as f32).sqrt(),
};
