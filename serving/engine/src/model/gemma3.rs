//! Gemma 3, text: norms around attention and feed-forward network and of each query and key head, GELU, scaled
//! embeddings, and five layers with a window and a rotation of their own to one that attends to all (Gemma Team,
//! "Gemma 3 technical report", 2025). Files hold the norms' weights with the 1 that the paper adds.
use windlass_kernels::{Activation, RopeStyle};

use super::{Family, Shape, llama};

/// Layers of the model of 27 billion weights, the only one that scales its queries by something else than the heads' size.
const LAYERS_OF_27B: usize = 62;

/// The family.
pub const FAMILY: Family = Family {
    name: "gemma3",
    rope: RopeStyle::Halves,
    local_rope_base: Some(10_000.0),
    global_every: Some(6),
    head_norms: true,
    post_norms: true,
    scaled_embeddings: true,
    activation: Activation::Gelu,
    attention_scale,
    ..llama::FAMILY
};

fn attention_scale(shape: &Shape) -> f32 {
    if shape.layers == LAYERS_OF_27B {
        return 1.0 / ((shape.width / shape.heads) as f32).sqrt();
    }
    (llama::FAMILY.attention_scale)(shape)
}
