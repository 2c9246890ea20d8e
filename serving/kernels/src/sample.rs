//! Data for tests: reproducible numbers, and weights in the file formats. For tests only.

use crate::matrix::{Matrix, PackError};
use crate::store::Store;
use crate::tensor_type::TensorType;
use half::f16;

/// A small generator (xorshift64*), so that failures repeat.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// In -1..1.
    pub(crate) fn float(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub(crate) fn floats(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.float()).collect()
    }
}

/// `rows` x `cols` random weights in the file format of `ty`: every quant and sub-scale occurs, f16
/// scales are between 0.001 and 0.1 with both signs.
pub(crate) fn weights(ty: TensorType, rows: usize, cols: usize, random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..rows * cols / ty.block_elements() {
        let start = bytes.len();
        bytes.extend((0..ty.block_bytes()).map(|_| random.bits() as u8));
        let block = &mut bytes[start..];
        match ty {
            TensorType::F32 => block.copy_from_slice(&random.float().to_le_bytes()),
            TensorType::F16 => block.copy_from_slice(&f16::from_f32(random.float()).to_le_bytes()),
            TensorType::BF16 => block.copy_from_slice(&half::bf16::from_f32(random.float()).to_le_bytes()),
            _ => {
                for at in scale_places(ty) {
                    let scale = (random.float() * 0.05).abs() + 0.001;
                    let sign = if random.bits() & 1 == 0 { 1.0 } else { -1.0 };
                    block[*at..at + 2].copy_from_slice(&f16::from_f32(sign * scale).to_le_bytes());
                }
            }
        }
    }
    bytes
}

/// A matrix in a store of its own.
pub(crate) fn pack(ty: TensorType, rows: usize, cols: usize, bytes: &[u8]) -> Result<Matrix, PackError> {
    let size = Matrix::packed_bytes(ty, rows, cols).unwrap_or(0);
    Matrix::pack(&mut Store::new(size)?, ty, rows, cols, bytes)
}

/// Where a block has its f16 numbers.
pub(crate) fn scale_places(ty: TensorType) -> &'static [usize] {
    match ty {
        TensorType::Q4_0 | TensorType::Q5_0 | TensorType::Q8_0 => &[0],
        TensorType::Q4_1 | TensorType::Q5_1 | TensorType::Q4K | TensorType::Q5K => &[0, 2],
        TensorType::Q6K => &[208],
        TensorType::F32 | TensorType::F16 | TensorType::BF16 => &[],
    }
}

/// Bit patterns, for comparisons that must be exact.
pub(crate) fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// Resident bytes of the process: the second number of statm, in pages.
#[cfg(target_os = "linux")]
pub(crate) fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}
