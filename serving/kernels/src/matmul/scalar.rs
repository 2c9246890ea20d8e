//! The portable product, and the definition of what every other one computes. For each tile of 32
//! columns the integer part is exact; then, in the order of the tiles,
//! `acc = fma(weight_scale * activation_scale, integer, acc)` and, where the type has minima,
//! `acc = fma(min, activation_scale * sum, acc)`.

use super::{Sixteen, quads};
use crate::activations::{Input, QUAD};
use crate::blocks::{SUB, SubBlock};
use crate::layout::{GROUP, Scales, quant, scales_of, tile_bytes};
use crate::matrix::Matrix;
use crate::tensor_type::TensorType;
use half::{bf16, f16};

pub(super) fn group(matrix: &Matrix, group: usize, activations: Input<'_>, first: usize, results: &mut [Sixteen]) {
    if matrix.ty.is_float() {
        return float_group(matrix, group, activations, first, results);
    }
    results.fill([0.0; GROUP]);
    let ty = matrix.ty;
    let lanes = GROUP.min(matrix.rows - group * GROUP);
    let tiles = matrix.group_quants(group).chunks_exact(tile_bytes(ty));
    for (tile, packed) in tiles.enumerate() {
        for lane in 0..lanes {
            let weights: [i32; SUB] = std::array::from_fn(|col| signed(ty, quant(ty, packed, lane, col)));
            let block = matrix.sub_block(group * GROUP + lane, tile);
            for (quad, tokens) in quads(results.len()) {
                let acts = &activations.quads(first / QUAD + quad)[tile];
                for token in 0..tokens {
                    let acc = &mut results[quad * QUAD + token][lane];
                    let half = |h: usize| dot(&weights[h * 16..][..16], &acts.quants[token][h * 16..][..16]);
                    let scale = acts.scale[token];
                    *acc = accumulate(ty, &block, [half(0), half(1)], scale, acts.sum[token], *acc);
                }
            }
        }
    }
}

/// One tile: `dots` are the exact sums of its two halves.
fn accumulate(ty: TensorType, block: &SubBlock, dots: [i32; 2], scale: f32, sum: f32, acc: f32) -> f32 {
    if scales_of(ty) == Scales::SuperHalves {
        // At most 2 * 16 * 32 * 127 * 128 in magnitude: fits.
        let integer = dots[0] * i32::from(block.sub[0] as i8) + dots[1] * i32::from(block.sub[1] as i8);
        return (f16::from_bits(block.d).to_f32() * scale).mul_add(integer as f32, acc);
    }
    let (scales, min) = block.scales(ty);
    let acc = (scales[0] * scale).mul_add((dots[0] + dots[1]) as f32, acc);
    match scales_of(ty) {
        Scales::Min | Scales::SuperMin => min.mul_add(sum, acc),
        Scales::Plain | Scales::SuperHalves => acc,
    }
}

fn signed(ty: TensorType, quant: u8) -> i32 {
    match ty {
        TensorType::Q8_0 => i32::from(quant as i8),
        _ => i32::from(quant) - SubBlock::offset(ty),
    }
}

fn dot(weights: &[i32], acts: &[i8]) -> i32 {
    weights.iter().zip(acts).map(|(&w, &a)| w * i32::from(a)).sum()
}

/// Even and odd columns are summed apart, each in order, and added at the end.
fn float_group(matrix: &Matrix, group: usize, activations: Input<'_>, first: usize, results: &mut [Sixteen]) {
    let packed = matrix.group_quants(group);
    for (token, out) in results.iter_mut().enumerate() {
        let mut sums = [[0.0f32; GROUP]; 2];
        for (col, &a) in activations.row(first + token).iter().enumerate() {
            for (lane, sum) in sums[col % 2].iter_mut().enumerate() {
                *sum = weight(matrix.ty, packed, col * GROUP + lane).mul_add(a, *sum);
            }
        }
        *out = std::array::from_fn(|lane| sums[0][lane] + sums[1][lane]);
    }
}

fn weight(ty: TensorType, packed: &[u8], index: usize) -> f32 {
    let two = || [packed[2 * index], packed[2 * index + 1]];
    match ty {
        TensorType::F16 => f16::from_le_bytes(two()).to_f32(),
        TensorType::BF16 => bf16::from_le_bytes(two()).to_f32(),
        _ => f32::from_le_bytes(std::array::from_fn(|i| packed[4 * index + i])),
    }
}
