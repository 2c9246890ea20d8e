//! The quantised types as compile-time facts, so that each gets its own loop without branches.

use crate::blocks::SubBlock;
use crate::layout::{Quants, Scales, VECTOR, quants_of, scales_of, tile_bytes};
use crate::tensor_type::TensorType;

/// A quantised type.
pub(super) trait Format {
    /// Which.
    const TYPE: TensorType;
    /// How its quants are stored.
    const QUANTS: Quants = quants_of(Self::TYPE);
    /// How its scales are stored.
    const SCALES: Scales = scales_of(Self::TYPE);
    /// What is subtracted from a quant.
    const OFFSET: i16 = SubBlock::offset(Self::TYPE) as i16;
    /// Vectors of a packed tile.
    const VECTORS: usize = tile_bytes(Self::TYPE) / VECTOR;
}

macro_rules! formats {
    ($($name:ident),*) => {
        $(
            pub(super) struct $name;
            impl Format for $name {
                const TYPE: TensorType = TensorType::$name;
            }
        )*
    };
}
formats!(Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4K, Q5K, Q6K);
