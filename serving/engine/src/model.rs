//! Model architectures. One file each says how its GGUF keys and tensors map onto the decoder of the kernels,
//! which they share.
pub mod gemma3;
pub mod llama;
mod positions;
pub mod qwen2;
pub mod qwen3;
mod shape;
#[cfg(test)]
mod tests;
mod weights;

pub use positions::{Positions, Rotation};
pub use shape::Shape;
pub use weights::{load, packed_bytes};

use windlass_kernels::{Activation, RopeStyle};

use crate::load::gguf::{Gguf, GgufError};

/// What one architecture does differently.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    /// `general.architecture`.
    pub name: &'static str,
    /// Which elements of a head are rotated together.
    pub rope: RopeStyle,
    /// Base of the rotation in layers with a window, if it is not that of the others; a file may say another.
    pub local_rope_base: Option<f32>,
    /// Where the file has a window and does not say for which layers: the last of each so many has none, of 0 every
    /// layer has it. `None` if that cannot be said of the family.
    pub global_every: Option<usize>,
    /// Whether q, k and v must have a bias (they may in any family).
    pub attention_bias: bool,
    /// Whether each head of q and k is normalised.
    pub head_norms: bool,
    /// Whether what attention and feed-forward network give is normalised before it is added.
    pub post_norms: bool,
    /// Whether embeddings are multiplied by the root of their size.
    pub scaled_embeddings: bool,
    /// Of the feed-forward network.
    pub activation: Activation,
    /// What scores of the attention are multiplied by.
    pub attention_scale: fn(&Shape) -> f32,
}

/// The architectures that this engine computes.
pub const FAMILIES: [Family; 4] = [llama::FAMILY, qwen2::FAMILY, qwen3::FAMILY, gemma3::FAMILY];

/// The family of a file.
pub fn family(gguf: &Gguf) -> Result<Family, GgufError> {
    const KEY: &str = "general.architecture";
    let name = gguf.text(KEY)?;
    FAMILIES.into_iter().find(|family| family.name == name).ok_or_else(|| {
        let known = FAMILIES.map(|family| family.name);
        gguf.metadata_error(KEY, format!("is `{name}`; this engine computes {}", known.join(", ")))
    })
}
