//! Where every quant and scale of a packed matrix is. A tile is 16 rows x 32 columns:
//!
//! - quants: eight 64-byte vectors, vector `j` holding columns `4j..4j+4` of row 0, of row 1, …; narrow
//!   quants share bytes between vectors (see [`Quants`]);
//! - scales: a second stream in the same order (see [`Scales`]).

use crate::blocks::{SUB, SubBlock};
use crate::tensor_type::TensorType;

/// Rows of a group, one a lane: as many as the widest registers have. Narrower ones take a group in halves.
pub(crate) const GROUP: usize = 16;
/// Bytes of a vector of quants: four columns of each row.
pub(crate) const VECTOR: usize = 4 * GROUP;
/// Tiles that share the f16 scales of a K format.
pub(crate) const SUPER: usize = 8;

/// How the quants of a tile are stored. Vector `j` is columns `4j..4j+4`; "byte `i` of vector `j`" is row
/// `i / 4`, column `4j + i % 4`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Quants {
    /// 4 vectors: vector `j` in the low, `j + 4` in the high nibbles of stored vector `j`.
    U4,
    /// As U4, then one vector whose bit `j` of byte `i` is bit 4 of byte `i` of vector `j`.
    U5,
    /// As U4, then two vectors: bits `2j..2j+2` of byte `i` of the first are bits 4 and 5 of byte `i` of vector
    /// `j`; the second has those of vectors 4 to 7.
    U6,
    /// 8 vectors of signed bytes.
    S8,
}

/// How the scales of a group are stored; all values little-endian, sixteen rows together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scales {
    /// A tile: 16 f16 scales.
    Plain,
    /// A tile: 16 f16 scales, 16 f16 minima.
    Min,
    /// 8 tiles: 16 f16 scales, 16 f16 minima; then for each tile 16 u8 scales, 16 u8 minima.
    SuperMin,
    /// 8 tiles: 16 f16 scales; then for each tile 16 pairs of i8 scales, one for each half of the columns.
    SuperHalves,
}

/// How a quantised type stores its quants.
pub(crate) const fn quants_of(ty: TensorType) -> Quants {
    match ty {
        TensorType::Q4_0 | TensorType::Q4_1 | TensorType::Q4K => Quants::U4,
        TensorType::Q5_0 | TensorType::Q5_1 | TensorType::Q5K => Quants::U5,
        TensorType::Q6K => Quants::U6,
        _ => Quants::S8,
    }
}

/// How a quantised type stores its scales.
pub(crate) const fn scales_of(ty: TensorType) -> Scales {
    match ty {
        TensorType::Q4_1 | TensorType::Q5_1 => Scales::Min,
        TensorType::Q4K | TensorType::Q5K => Scales::SuperMin,
        TensorType::Q6K => Scales::SuperHalves,
        _ => Scales::Plain,
    }
}

/// Bytes of the quants of a tile.
pub(crate) const fn tile_bytes(ty: TensorType) -> usize {
    match quants_of(ty) {
        Quants::U4 => 4 * VECTOR,
        Quants::U5 => 5 * VECTOR,
        Quants::U6 => 6 * VECTOR,
        Quants::S8 => 8 * VECTOR,
    }
}

/// Bytes of the scales of a tile, or of a run of 8 tiles where those share a part.
pub(crate) const fn scale_bytes(scales: Scales) -> usize {
    match scales {
        Scales::Plain => 2 * GROUP,
        Scales::Min => 4 * GROUP,
        Scales::SuperMin => 4 * GROUP + SUPER * 2 * GROUP,
        Scales::SuperHalves => 2 * GROUP + SUPER * 2 * GROUP,
    }
}

pub(crate) fn group_quant_bytes(ty: TensorType, cols: usize) -> usize {
    if ty.is_float() {
        cols * GROUP * ty.block_bytes()
    } else {
        cols / SUB * tile_bytes(ty)
    }
}

pub(crate) fn group_scale_bytes(ty: TensorType, cols: usize) -> usize {
    if ty.is_float() {
        return 0;
    }
    let tiles = match scales_of(ty) {
        Scales::Plain | Scales::Min => 1,
        Scales::SuperMin | Scales::SuperHalves => SUPER,
    };
    cols / SUB / tiles * scale_bytes(scales_of(ty))
}

/// Where the scales of one row and one tile are among the scales of the group.
pub(crate) struct Places {
    pub(crate) d: usize,
    pub(crate) m: Option<usize>,
    pub(crate) sub: Option<[usize; 2]>,
}

pub(crate) fn places(ty: TensorType, lane: usize, tile: usize) -> Places {
    let scales = scales_of(ty);
    let run = |tiles: usize| tile / tiles * scale_bytes(scales);
    let at = tile % SUPER * 2 * GROUP;
    match scales {
        Scales::Plain => Places {
            d: run(1) + 2 * lane,
            m: None,
            sub: None,
        },
        Scales::Min => Places {
            d: run(1) + 2 * lane,
            m: Some(run(1) + 2 * GROUP + 2 * lane),
            sub: None,
        },
        Scales::SuperMin => {
            let start = run(SUPER);
            let sub = start + 4 * GROUP + at + lane;
            Places {
                d: start + 2 * lane,
                m: Some(start + 2 * GROUP + 2 * lane),
                sub: Some([sub, sub + GROUP]),
            }
        }
        Scales::SuperHalves => {
            let start = run(SUPER);
            let sub = start + 2 * GROUP + at + 2 * lane;
            Places {
                d: start + 2 * lane,
                m: None,
                sub: Some([sub, sub + 1]),
            }
        }
    }
}

pub(crate) fn pack_floats(width: usize, lane: usize, row: &[u8], group: &mut [u8]) {
    for (element, column) in row.chunks_exact(width).zip(group.chunks_exact_mut(GROUP * width)) {
        column[lane * width..][..width].copy_from_slice(element);
    }
}

pub(crate) fn pack_quants(ty: TensorType, lane: usize, quants: &[u8; SUB], tile: &mut [u8]) {
    let kind = quants_of(ty);
    for (col, &quant) in quants.iter().enumerate() {
        let (vector, byte) = (col / 4, lane * 4 + col % 4);
        if kind == Quants::S8 {
            tile[vector * VECTOR + byte] = quant;
            continue;
        }
        tile[vector % 4 * VECTOR + byte] |= (quant & 15) << (vector / 4 * 4);
        let high = quant >> 4;
        match kind {
            Quants::U5 => tile[4 * VECTOR + byte] |= high << vector,
            Quants::U6 => tile[(4 + vector / 4) * VECTOR + byte] |= high << (vector % 4 * 2),
            Quants::U4 | Quants::S8 => {}
        }
    }
}

pub(crate) fn pack_scales(ty: TensorType, lane: usize, tile: usize, block: &SubBlock, scales: &mut [u8]) {
    let place = places(ty, lane, tile);
    scales[place.d..place.d + 2].copy_from_slice(&block.d.to_le_bytes());
    if let Some(at) = place.m {
        scales[at..at + 2].copy_from_slice(&block.m.to_le_bytes());
    }
    if let Some(at) = place.sub {
        scales[at[0]] = block.sub[0];
        scales[at[1]] = block.sub[1];
    }
}

/// The raw quant of one row and column of a tile.
pub(crate) fn quant(ty: TensorType, tile: &[u8], lane: usize, col: usize) -> u8 {
    let (vector, byte) = (col / 4, lane * 4 + col % 4);
    let low = || tile[vector % 4 * VECTOR + byte] >> (vector / 4 * 4) & 15;
    match quants_of(ty) {
        Quants::U4 => low(),
        Quants::U5 => low() | (tile[4 * VECTOR + byte] >> vector & 1) << 4,
        Quants::U6 => low() | (tile[(4 + vector / 4) * VECTOR + byte] >> (vector % 4 * 2) & 3) << 4,
        Quants::S8 => tile[vector * VECTOR + byte],
    }
}
