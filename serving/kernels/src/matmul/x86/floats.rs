//! Weights of float types: one fused multiply-add a column and token, even and odd columns summed apart.

use crate::activations::{Input, QUAD};
use crate::layout::GROUP;
use crate::matmul::{Sixteen, quads};
use crate::matrix::Matrix;
use crate::tensor_type::TensorType;
use std::arch::x86_64::*;

/// A float type as a compile-time fact.
trait Float {
    const TYPE: TensorType;
}
struct F32;
struct F16;
struct BF16;
impl Float for F32 {
    const TYPE: TensorType = TensorType::F32;
}
impl Float for F16 {
    const TYPE: TensorType = TensorType::F16;
}
impl Float for BF16 {
    const TYPE: TensorType = TensorType::BF16;
}

/// Outputs of group `group` for the tokens from `first` on.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn group(matrix: &Matrix, group: usize, activations: Input<'_>, first: usize, results: &mut [Sixteen]) {
    let packed = matrix.group_quants(group);
    for (quad, tokens) in quads(results.len()) {
        let first = first + quad * QUAD;
        let results = &mut results[quad * QUAD..][..tokens];
        for half in 0..2 {
            match matrix.ty {
                TensorType::F16 => few::<F16>(packed, half, activations, first, results),
                TensorType::BF16 => few::<BF16>(packed, half, activations, first, results),
                _ => few::<F32>(packed, half, activations, first, results),
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn few<F: Float>(packed: &[u8], half: usize, activations: Input<'_>, first: usize, results: &mut [Sixteen]) {
    match results.len() {
        1 => row::<F, 1>(packed, half, activations, first, results),
        2 => row::<F, 2>(packed, half, activations, first, results),
        3 => row::<F, 3>(packed, half, activations, first, results),
        _ => row::<F, 4>(packed, half, activations, first, results),
    }
}

/// `N` tokens against the columns of a group.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn row<F: Float, const N: usize>(
    packed: &[u8],
    half: usize,
    activations: Input<'_>,
    first: usize,
    results: &mut [Sixteen],
) {
    let width = GROUP * F::TYPE.block_bytes();
    let mut tokens: [&[f32]; N] = [&[]; N];
    for n in 0..N {
        tokens[n] = activations.row(first + n);
    }
    let mut even = [_mm256_setzero_ps(); N];
    let mut odd = [_mm256_setzero_ps(); N];
    let pairs = packed.chunks_exact(2 * width);
    let last = pairs.remainder();
    for (pair, weights) in pairs.enumerate() {
        let (w0, w1) = (widen::<F>(&weights[..width], half), widen::<F>(&weights[width..], half));
        for n in 0..N {
            even[n] = _mm256_fmadd_ps(w0, _mm256_set1_ps(tokens[n][2 * pair]), even[n]);
            odd[n] = _mm256_fmadd_ps(w1, _mm256_set1_ps(tokens[n][2 * pair + 1]), odd[n]);
        }
    }
    if last.len() == width {
        for n in 0..N {
            even[n] = _mm256_fmadd_ps(
                widen::<F>(last, half),
                _mm256_set1_ps(tokens[n][activations.cols() - 1]),
                even[n],
            );
        }
    }
    for n in 0..N {
        let result = &mut results[n].as_chunks_mut::<8>().0[half];
        // SAFETY: half a result is eight floats.
        unsafe { _mm256_storeu_ps(result.as_mut_ptr(), _mm256_add_ps(even[n], odd[n])) };
    }
}

/// Eight of the weights of a column, which are `16 * F::TYPE.block_bytes()` bytes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn widen<F: Float>(column: &[u8], half: usize) -> __m256 {
    let size = GROUP / 2 * F::TYPE.block_bytes();
    let weights = &column[half * size..][..size];
    // SAFETY: there are 32 bytes for the last load and 16 for the others; none needs alignment.
    unsafe {
        match F::TYPE {
            TensorType::F16 => _mm256_cvtph_ps(_mm_loadu_si128(weights.as_ptr().cast())),
            TensorType::BF16 => {
                let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(weights.as_ptr().cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
            }
            _ => _mm256_loadu_ps(weights.as_ptr().cast()),
        }
    }
}
