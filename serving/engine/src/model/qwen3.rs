//! Qwen3, dense: as Qwen2, without biases, with norms of each query and key head, whose size is not that of the hidden
//! state by the number of heads (Qwen Team, "Qwen3 technical report", 2025).
use super::{Family, qwen2};

/// The family.
pub const FAMILY: Family = Family {
    name: "qwen3",
    attention_bias: false,
    head_norms: true,
    ..qwen2::FAMILY
};
