//! Model architectures. One file each says how its GGUF keys and tensors map onto the decoder of the kernels,
//! which they share.
pub mod llama;
pub mod qwen2;
mod shape;
mod weights;

pub use shape::Shape;
pub use weights::{load, packed_bytes};

use windlass_kernels::RopeStyle;

use crate::load::gguf::{Gguf, GgufError};

/// What one architecture does differently.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    /// `general.architecture`.
    pub name: &'static str,
    /// Which elements of a head are rotated together.
    pub rope: RopeStyle,
    /// Whether q, k and v must have a bias (they may in any family).
    pub attention_bias: bool,
}

/// The architectures that this engine computes.
pub const FAMILIES: [Family; 2] = [llama::FAMILY, qwen2::FAMILY];

/// The family of a file.
pub fn family(gguf: &Gguf) -> Result<Family, GgufError> {
    const KEY: &str = "general.architecture";
    let name = gguf.text(KEY)?;
    FAMILIES.into_iter().find(|family| family.name == name).ok_or_else(|| {
        let known: Vec<_> = FAMILIES.iter().map(|family| family.name).collect();
        gguf.metadata_error(
            KEY,
            format!("is `{name}`; this engine computes {}", known.join(" and ")),
        )
    })
}
