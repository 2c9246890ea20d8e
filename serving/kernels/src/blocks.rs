//! Reads the block formats of model files. Every quantised format is seen as a row of sub-blocks of
//! 32 elements with the same formula, `value = scale[half] * (quant - offset) + min`; the packer and
//! the reference dequantiser both start from here, so a format is described once.

use crate::tensor_type::TensorType;
use half::f16;

/// Elements of a sub-block, and columns of a tile.
pub(crate) const SUB: usize = 32;

/// 32 elements as the file has them. Fields that a format lacks are zero.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct SubBlock {
    /// The raw quants; bytes of two's complement for Q8_0, unsigned otherwise.
    pub(crate) quants: [u8; SUB],
    /// Bits of the f16 scale `d` (of the 256-element block in the K formats).
    pub(crate) d: u16,
    /// Bits of the f16 minimum `m` or `dmin`.
    pub(crate) m: u16,
    /// K formats: the integer scale and minimum of these 32; Q6_K: the signed scales of its halves.
    pub(crate) sub: [u8; 2],
}

impl SubBlock {
    /// What is subtracted from a quant before scaling.
    pub(crate) const fn offset(ty: TensorType) -> i32 {
        match ty {
            TensorType::Q4_0 => 8,
            TensorType::Q5_0 => 16,
            TensorType::Q6K => 32,
            _ => 0,
        }
    }

    /// The scales of elements 0..16 and 16..32, and the minimum that is added.
    pub(crate) fn scales(&self, ty: TensorType) -> ([f32; 2], f32) {
        let d = f16::from_bits(self.d).to_f32();
        let m = f16::from_bits(self.m).to_f32();
        match ty {
            TensorType::Q4K | TensorType::Q5K => ([d * f32::from(self.sub[0]); 2], -(m * f32::from(self.sub[1]))),
            TensorType::Q6K => (self.sub.map(|s| d * f32::from(s as i8)), 0.0),
            _ => ([d; 2], m),
        }
    }

    /// The 32 values.
    pub(crate) fn values(&self, ty: TensorType) -> [f32; SUB] {
        let (scales, min) = self.scales(ty);
        let offset = Self::offset(ty);
        std::array::from_fn(|i| {
            let quant = match ty {
                TensorType::Q8_0 => i32::from(self.quants[i] as i8),
                _ => i32::from(self.quants[i]) - offset,
            };
            scales[i / 16] * quant as f32 + min
        })
    }
}

/// Sub-block `index` of a row. `row` holds whole blocks of a quantised type, `index` is inside it.
pub(crate) fn sub_block(ty: TensorType, row: &[u8], index: usize) -> SubBlock {
    let per_block = ty.block_elements() / SUB;
    let start = index / per_block * ty.block_bytes();
    let block = &row[start..start + ty.block_bytes()];
    let part = index % per_block;
    match ty {
        TensorType::Q4_0 => SubBlock {
            quants: nibbles(&block[2..], None),
            d: half_at(block, 0),
            ..SubBlock::default()
        },
        TensorType::Q4_1 => SubBlock {
            quants: nibbles(&block[4..], None),
            d: half_at(block, 0),
            m: half_at(block, 2),
            sub: [0; 2],
        },
        TensorType::Q5_0 => SubBlock {
            quants: nibbles(&block[6..], Some(&block[2..6])),
            d: half_at(block, 0),
            ..SubBlock::default()
        },
        TensorType::Q5_1 => SubBlock {
            quants: nibbles(&block[8..], Some(&block[4..8])),
            d: half_at(block, 0),
            m: half_at(block, 2),
            sub: [0; 2],
        },
        TensorType::Q8_0 => SubBlock {
            quants: std::array::from_fn(|i| block[2 + i]),
            d: half_at(block, 0),
            ..SubBlock::default()
        },
        TensorType::Q4K => SubBlock {
            quants: std::array::from_fn(|i| k_nibble(&block[16..], part, i)),
            d: half_at(block, 0),
            m: half_at(block, 2),
            sub: k_scale_min(&block[4..16], part),
        },
        TensorType::Q5K => SubBlock {
            quants: std::array::from_fn(|i| k_nibble(&block[48..], part, i) | (block[16 + i] >> part & 1) << 4),
            d: half_at(block, 0),
            m: half_at(block, 2),
            sub: k_scale_min(&block[4..16], part),
        },
        TensorType::Q6K => SubBlock {
            quants: std::array::from_fn(|i| q6_quant(block, part, i)),
            d: half_at(block, 208),
            m: 0,
            sub: [block[192 + 2 * part], block[192 + 2 * part + 1]],
        },
        TensorType::F32 | TensorType::F16 | TensorType::BF16 => unreachable!("{ty} has no blocks"),
    }
}

fn half_at(block: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([block[at], block[at + 1]])
}

/// 16 bytes with elements 0..16 in the low and 16..32 in the high nibbles; bit `i` of `high`, a
/// little-endian u32, is bit 4 of element `i`.
fn nibbles(low: &[u8], high: Option<&[u8]>) -> [u8; SUB] {
    std::array::from_fn(|i| {
        let nibble = low[i % 16] >> (i / 16 * 4) & 15;
        nibble | high.map_or(0, |bits| bits[i / 8] >> (i % 8) & 1) << 4
    })
}

/// Q4_K and Q5_K keep sub-blocks 2c and 2c+1 in the low and high nibbles of the same 32 bytes.
fn k_nibble(quants: &[u8], part: usize, i: usize) -> u8 {
    quants[part / 2 * 32 + i] >> (part % 2 * 4) & 15
}

/// 8 scales and 8 minima of 6 bits in 12 bytes: the first four of each are the low bits of bytes
/// 0..4 and 4..8; the others have 4 bits in bytes 8..12 and their 2 high bits above the first four.
fn k_scale_min(packed: &[u8], part: usize) -> [u8; 2] {
    if part < 4 {
        return [packed[part] & 63, packed[part + 4] & 63];
    }
    let scale = packed[part + 4] & 15 | packed[part - 4] >> 6 << 4;
    let min = packed[part + 4] >> 4 | packed[part] >> 6 << 4;
    [scale, min]
}

/// Q6_K: halves of 128 elements, each with 64 bytes of low nibbles and 32 bytes of high pairs; quarter
/// `part % 4` of a half takes pair `part % 4` of each high byte.
fn q6_quant(block: &[u8], part: usize, i: usize) -> u8 {
    let (half, quarter) = (part / 4, part % 4);
    let low = block[half * 64 + quarter % 2 * 32 + i] >> (quarter / 2 * 4) & 15;
    let high = block[128 + half * 32 + i] >> (quarter * 2) & 3;
    low | high << 4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn legacy_blocks_put_the_second_half_in_the_high_nibbles() {
        let mut block = vec![0x00, 0x3c]; // d = 1.0
        block.extend((0..16u8).map(|i| i | (15 - i) << 4));
        let sub = sub_block(TensorType::Q4_0, &block, 0);
        assert_eq!(sub.quants[3], 3);
        assert_eq!(sub.quants[16 + 3], 12);
        assert_eq!(sub.values(TensorType::Q4_0)[3], -5.0);
        assert_eq!(sub.values(TensorType::Q4_0)[19], 4.0);
    }

    #[test]
    fn the_fifth_bits_are_a_little_endian_word() {
        let mut block = vec![0x00, 0x40, 0x00, 0xbc]; // d = 2.0, m = -1.0
        block.extend((1u32 << 5 | 1 << 31).to_le_bytes());
        block.extend([0u8; 16]);
        let values = sub_block(TensorType::Q5_1, &block, 0).values(TensorType::Q5_1);
        assert_eq!(values[4], -1.0);
        assert_eq!(values[5], 2.0 * 16.0 - 1.0);
        assert_eq!(values[31], 31.0);
    }

    #[test]
    fn six_bit_scales_are_joined_from_three_places() {
        // Scale 5 is 0b10_0110 (byte 9 low, byte 1 top), minimum 5 is 0b01_1001 (byte 9 high, byte 5 top).
        let mut packed = [0u8; 12];
        packed[1] = 0b10 << 6 | 7;
        packed[5] = 0b01 << 6 | 9;
        packed[9] = 0b1001 << 4 | 0b0110;
        assert_eq!(k_scale_min(&packed, 1), [7, 9]);
        assert_eq!(k_scale_min(&packed, 5), [0b10_0110, 0b01_1001]);
    }

    #[test]
    fn q6_quarters_take_their_pair_of_the_high_bytes() {
        let mut block = [0u8; 210];
        block[64 + 32 + 7] = 0xa5; // half 1, second row of nibbles
        block[128 + 32 + 7] = 0b11_10_01_00;
        let quant = |part| sub_block(TensorType::Q6K, &block, part).quants[7];
        assert_eq!(quant(4), 0);
        assert_eq!(quant(5), 5 | 1 << 4);
        assert_eq!(quant(6), 2 << 4);
        assert_eq!(quant(7), 10 | 3 << 4);
    }

    #[test]
    fn q6_scales_are_signed_and_belong_to_sixteen_elements() {
        let mut block = [0u8; 210];
        block[192 + 2] = -3i8 as u8;
        block[192 + 3] = 5;
        block[208..].copy_from_slice(&[0x00, 0x38]); // d = 0.5
        let values = sub_block(TensorType::Q6K, &block, 1).values(TensorType::Q6K);
        assert_eq!(values[0], 0.5 * -3.0 * -32.0);
        assert_eq!(values[16], 0.5 * 5.0 * -32.0);
    }
}
