//! The element types of GGUF tensors that the kernels can read, and the sizes of their blocks.

/// How the elements of a tensor are stored in a model file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TensorType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of a single.
    BF16,
    /// 32 elements: f16 scale, 4-bit quants, value `d * (q - 8)`.
    Q4_0,
    /// 32 elements: f16 scale and minimum, 4-bit quants, value `d * q + m`.
    Q4_1,
    /// 32 elements: f16 scale, 5-bit quants, value `d * (q - 16)`.
    Q5_0,
    /// 32 elements: f16 scale and minimum, 5-bit quants, value `d * q + m`.
    Q5_1,
    /// 32 elements: f16 scale, signed bytes, value `d * q`.
    Q8_0,
    /// 256 elements in 8 sub-blocks with 6-bit scales and minima, 4-bit quants.
    Q4K,
    /// 256 elements in 8 sub-blocks with 6-bit scales and minima, 5-bit quants.
    Q5K,
    /// 256 elements in 16 sub-blocks with 8-bit scales, 6-bit quants.
    Q6K,
}

impl TensorType {
    /// Every type, for tests and tables.
    pub const ALL: [TensorType; 11] = [
        TensorType::F32,
        TensorType::F16,
        TensorType::BF16,
        TensorType::Q4_0,
        TensorType::Q4_1,
        TensorType::Q5_0,
        TensorType::Q5_1,
        TensorType::Q8_0,
        TensorType::Q4K,
        TensorType::Q5K,
        TensorType::Q6K,
    ];

    /// The type behind a number of GGUF's `ggml_type` enumeration, if the kernels know it.
    pub fn from_ggml(code: u32) -> Option<TensorType> {
        Some(match code {
            0 => TensorType::F32,
            1 => TensorType::F16,
            2 => TensorType::Q4_0,
            3 => TensorType::Q4_1,
            6 => TensorType::Q5_0,
            7 => TensorType::Q5_1,
            8 => TensorType::Q8_0,
            12 => TensorType::Q4K,
            13 => TensorType::Q5K,
            14 => TensorType::Q6K,
            30 => TensorType::BF16,
            _ => return None,
        })
    }

    /// The name that model files and their tools use.
    pub fn name(self) -> &'static str {
        match self {
            TensorType::F32 => "F32",
            TensorType::F16 => "F16",
            TensorType::BF16 => "BF16",
            TensorType::Q4_0 => "Q4_0",
            TensorType::Q4_1 => "Q4_1",
            TensorType::Q5_0 => "Q5_0",
            TensorType::Q5_1 => "Q5_1",
            TensorType::Q8_0 => "Q8_0",
            TensorType::Q4K => "Q4_K",
            TensorType::Q5K => "Q5_K",
            TensorType::Q6K => "Q6_K",
        }
    }

    /// Elements in a block; 1 for the plain float types.
    pub fn block_elements(self) -> usize {
        match self {
            TensorType::F32 | TensorType::F16 | TensorType::BF16 => 1,
            TensorType::Q4_0 | TensorType::Q4_1 | TensorType::Q5_0 | TensorType::Q5_1 | TensorType::Q8_0 => 32,
            TensorType::Q4K | TensorType::Q5K | TensorType::Q6K => 256,
        }
    }

    /// Bytes of a block in the file.
    pub fn block_bytes(self) -> usize {
        match self {
            TensorType::F32 => 4,
            TensorType::F16 | TensorType::BF16 => 2,
            TensorType::Q4_0 => 2 + 16,
            TensorType::Q4_1 => 2 + 2 + 16,
            TensorType::Q5_0 => 2 + 4 + 16,
            TensorType::Q5_1 => 2 + 2 + 4 + 16,
            TensorType::Q8_0 => 2 + 32,
            TensorType::Q4K => 2 + 2 + 12 + 128,
            TensorType::Q5K => 2 + 2 + 12 + 32 + 128,
            TensorType::Q6K => 128 + 64 + 16 + 2,
        }
    }

    /// Bytes of a row of `cols` elements; `None` if `cols` is not whole blocks or the size overflows.
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        if !cols.is_multiple_of(self.block_elements()) {
            return None;
        }
        (cols / self.block_elements()).checked_mul(self.block_bytes())
    }

    /// Whether the elements are plain floats, which take the f32 path of the matrix product.
    pub fn is_float(self) -> bool {
        self.block_elements() == 1
    }
}

impl std::fmt::Display for TensorType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_a_row_follow_from_whole_blocks() {
        assert_eq!(TensorType::Q4_1.row_bytes(576), Some(576 / 32 * 20));
        assert_eq!(TensorType::Q6K.row_bytes(512), Some(2 * 210));
        assert_eq!(TensorType::F16.row_bytes(3), Some(6));
    }

    #[test]
    fn a_row_that_is_not_whole_blocks_has_no_size() {
        assert_eq!(TensorType::Q8_0.row_bytes(33), None);
        assert_eq!(TensorType::Q4K.row_bytes(896 + 32), None);
        assert_eq!(TensorType::F32.row_bytes(usize::MAX), None);
    }

    #[test]
    fn unknown_codes_are_none() {
        assert_eq!(TensorType::from_ggml(12), Some(TensorType::Q4K));
        for code in [4, 5, 9, 15, 31, u32::MAX] {
            assert_eq!(TensorType::from_ggml(code), None);
        }
    }
}
