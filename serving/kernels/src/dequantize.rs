//! The plain reference: elements of a file as f32, for norms, biases and as the oracle of the packed
//! kernels. It makes no use of the instruction set and is not meant to be fast.

use crate::blocks::{SUB, sub_block};
use crate::tensor_type::TensorType;
use half::{bf16, f16};

/// The bytes do not hold the number of elements that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{elements} elements of {ty} do not fill {bytes} bytes exactly")]
pub struct DequantizeError {
    /// The type of the elements.
    pub ty: TensorType,
    /// Elements asked for.
    pub elements: usize,
    /// Bytes given.
    pub bytes: usize,
}

/// Writes the elements of `bytes` to `out`; `bytes` must be exactly `ty.row_bytes(out.len())` long.
pub fn dequantize(ty: TensorType, bytes: &[u8], out: &mut [f32]) -> Result<(), DequantizeError> {
    if ty.row_bytes(out.len()) != Some(bytes.len()) {
        return Err(DequantizeError {
            ty,
            elements: out.len(),
            bytes: bytes.len(),
        });
    }
    if ty.is_float() {
        for (value, raw) in out.iter_mut().zip(bytes.chunks_exact(ty.block_bytes())) {
            *value = float(ty, raw);
        }
        return Ok(());
    }
    for (index, values) in out.chunks_exact_mut(SUB).enumerate() {
        values.copy_from_slice(&sub_block(ty, bytes, index).values(ty));
    }
    Ok(())
}

/// One element of a float type from its little-endian bytes.
fn float(ty: TensorType, raw: &[u8]) -> f32 {
    match ty {
        TensorType::F16 => f16::from_le_bytes([raw[0], raw[1]]).to_f32(),
        TensorType::BF16 => bf16::from_le_bytes([raw[0], raw[1]]).to_f32(),
        _ => f32::from_le_bytes([raw[0], raw[1], raw[2], raw[3]]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_little_endian() {
        let mut out = [0.0; 2];
        dequantize(TensorType::BF16, &[0x80, 0x3f, 0x00, 0xc0], &mut out).unwrap();
        assert_eq!(out, [1.0, -2.0]);
        dequantize(TensorType::F16, &[0x00, 0x3c, 0x01, 0x00], &mut out).unwrap();
        assert_eq!(out, [1.0, 2.0f32.powi(-24)]);
        dequantize(TensorType::F32, &[0, 0, 0x80, 0x3f, 0, 0, 0, 0x40], &mut out).unwrap();
        assert_eq!(out, [1.0, 2.0]);
    }

    #[test]
    fn a_length_that_does_not_fit_is_refused() {
        let mut out = [0.0; 32];
        let error = dequantize(TensorType::Q8_0, &[0; 33], &mut out).unwrap_err();
        assert_eq!(error.to_string(), "32 elements of Q8_0 do not fill 33 bytes exactly");
        assert!(dequantize(TensorType::Q4K, &[0; 144], &mut out).is_err());
    }
}
