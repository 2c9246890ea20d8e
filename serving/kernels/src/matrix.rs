//! Packed weights. A matrix is stored as groups of 16 rows and, in a group, as tiles of 16 rows x 32
//! columns whose 16 lanes are the rows, in two streams: quants and scales (see `layout`). Matrices of
//! float types have for each column the 16 rows. Missing rows of the last group are zeros. The file's
//! bytes are not needed after packing.

use crate::blocks::{SUB, SubBlock, sub_block};
use crate::buffer::OutOfMemory;
use crate::layout::{
    GROUP, group_quant_bytes, group_scale_bytes, pack_floats, pack_quants, pack_scales, places, quant, tile_bytes,
};
use crate::store::{Region, Store};
use crate::tensor_type::TensorType;
use half::{bf16, f16};

/// The bytes and the shape do not make a matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PackError {
    /// No rows or no columns.
    #[error("a matrix of {rows} x {cols} is empty")]
    Empty {
        /// Rows asked for.
        rows: usize,
        /// Columns asked for.
        cols: usize,
    },
    /// A row is not whole blocks.
    #[error("rows of {cols} columns are not whole blocks of {ty}")]
    Columns {
        /// The type of the elements.
        ty: TensorType,
        /// Columns asked for.
        cols: usize,
    },
    /// The data has another size.
    #[error("{rows} x {cols} of {ty} do not fill {bytes} bytes exactly")]
    Size {
        /// The type of the elements.
        ty: TensorType,
        /// Rows asked for.
        rows: usize,
        /// Columns asked for.
        cols: usize,
        /// Bytes given.
        bytes: usize,
    },
    /// There is no memory for the packed form.
    #[error(transparent)]
    Memory(#[from] OutOfMemory),
}

/// Packed weights of `rows` outputs x `cols` inputs.
pub struct Matrix {
    pub(crate) ty: TensorType,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    quants: Region,
    scales: Region,
}

impl Matrix {
    /// Packs `rows` x `cols` elements, rows one after another as in the file, into a store.
    ///
    /// # Errors
    /// If shape and bytes do not fit together or the memory is not to be had.
    pub fn pack(
        store: &mut Store,
        ty: TensorType,
        rows: usize,
        cols: usize,
        bytes: &[u8],
    ) -> Result<Matrix, PackError> {
        if rows == 0 || cols == 0 {
            return Err(PackError::Empty { rows, cols });
        }
        let row_bytes = ty.row_bytes(cols).ok_or(PackError::Columns { ty, cols })?;
        if row_bytes.checked_mul(rows) != Some(bytes.len()) {
            return Err(PackError::Size {
                ty,
                rows,
                cols,
                bytes: bytes.len(),
            });
        }
        // The sizes below are at most 8 times those of the bytes that exist, and checked by the buffer.
        let groups = rows.div_ceil(GROUP);
        let group_quants = group_quant_bytes(ty, cols);
        let group_scales = group_scale_bytes(ty, cols);
        let size = |group: usize| groups.checked_mul(group).ok_or(OutOfMemory { bytes: usize::MAX });
        let (quants, scales) = store.fill_two([size(group_quants)?, size(group_scales)?], |quants, scales| {
            pack_rows(ty, cols, bytes.chunks_exact(row_bytes), quants, scales);
        })?;
        Ok(Matrix {
            ty,
            rows,
            cols,
            quants,
            scales,
        })
    }

    /// Bytes of a store that a matrix takes once packed; `None` if rows are not whole blocks, or that overflows.
    pub fn packed_bytes(ty: TensorType, rows: usize, cols: usize) -> Option<usize> {
        ty.row_bytes(cols)?;
        let groups = rows.div_ceil(GROUP);
        let sizes = [group_quant_bytes(ty, cols), group_scale_bytes(ty, cols)];
        sizes.into_iter().try_fold(0usize, |sum, group| {
            sum.checked_add(Store::taken(groups.checked_mul(group)?)?)
        })
    }

    /// Outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The type that the weights were packed from.
    pub fn tensor_type(&self) -> TensorType {
        self.ty
    }

    /// Bytes that the packed form takes.
    pub fn bytes(&self) -> usize {
        self.quants.len() + self.scales.len()
    }

    /// Writes row `row` as f32: the same values as `dequantize` of the file's bytes.
    ///
    /// # Panics
    /// If there is no such row or `out` is not `cols` long.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows, "row {row} of a matrix of {} rows", self.rows);
        assert_eq!(out.len(), self.cols, "row: length of the output");
        let lane = row % GROUP;
        let quants = self.group_quants(row / GROUP);
        match self.ty {
            TensorType::F32 => {
                for (value, raw) in out.iter_mut().zip(quants.as_chunks::<{ 4 * GROUP }>().0) {
                    *value = f32::from_le_bytes(std::array::from_fn(|i| raw[lane * 4 + i]));
                }
            }
            TensorType::F16 | TensorType::BF16 => {
                for (value, raw) in out.iter_mut().zip(quants.as_chunks::<{ 2 * GROUP }>().0) {
                    let raw = [raw[lane * 2], raw[lane * 2 + 1]];
                    *value = match self.ty {
                        TensorType::F16 => f16::from_le_bytes(raw).to_f32(),
                        _ => bf16::from_le_bytes(raw).to_f32(),
                    };
                }
            }
            _ => {
                for (tile, values) in out.chunks_exact_mut(SUB).enumerate() {
                    values.copy_from_slice(&self.sub_block(row, tile).values(self.ty));
                }
            }
        }
    }

    /// The packed form: quants and scales.
    pub(crate) fn memory(&self) -> [&[u8]; 2] {
        [&self.quants, &self.scales]
    }

    /// Groups of rows.
    pub(crate) fn groups(&self) -> usize {
        self.rows.div_ceil(GROUP)
    }

    /// The quants of a group, or its floats.
    pub(crate) fn group_quants(&self, group: usize) -> &[u8] {
        let len = group_quant_bytes(self.ty, self.cols);
        &self.quants[group * len..][..len]
    }

    /// The scales of a group; empty for float types.
    pub(crate) fn group_scales(&self, group: usize) -> &[u8] {
        let len = group_scale_bytes(self.ty, self.cols);
        &self.scales[group * len..][..len]
    }

    /// Reads 32 elements of a quantised row back.
    pub(crate) fn sub_block(&self, row: usize, tile: usize) -> SubBlock {
        let (group, lane) = (row / GROUP, row % GROUP);
        let quants = &self.group_quants(group)[tile * tile_bytes(self.ty)..][..tile_bytes(self.ty)];
        let scales = self.group_scales(group);
        let place = places(self.ty, lane, tile);
        let half = |at: Option<usize>| at.map_or(0, |at| u16::from_le_bytes([scales[at], scales[at + 1]]));
        SubBlock {
            quants: std::array::from_fn(|col| quant(self.ty, quants, lane, col)),
            d: half(Some(place.d)),
            m: half(place.m),
            sub: place.sub.map_or([0; 2], |at| at.map(|at| scales[at])),
        }
    }
}

fn pack_rows<'a>(
    ty: TensorType,
    cols: usize,
    rows: impl Iterator<Item = &'a [u8]>,
    quants: &mut [u8],
    scales: &mut [u8],
) {
    let (group_quants, group_scales) = (group_quant_bytes(ty, cols), group_scale_bytes(ty, cols));
    for (row, bytes) in rows.enumerate() {
        let quants = &mut quants[row / GROUP * group_quants..][..group_quants];
        let lane = row % GROUP;
        if ty.is_float() {
            pack_floats(ty.block_bytes(), lane, bytes, quants);
            continue;
        }
        let scales = &mut scales[row / GROUP * group_scales..][..group_scales];
        for tile in 0..cols / SUB {
            let block = sub_block(ty, bytes, tile);
            let quants = &mut quants[tile * tile_bytes(ty)..][..tile_bytes(ty)];
            pack_quants(ty, lane, &block.quants, quants);
            pack_scales(ty, lane, tile, &block, scales);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dequantize::dequantize;
    use crate::sample::{Random, bits, pack, weights};

    #[test]
    fn a_packed_row_is_the_dequantised_row_for_every_type() {
        for ty in TensorType::ALL {
            let mut random = Random::new(1);
            for (rows, cols) in [(1, 256), (8, 512), (13, 768)] {
                let bytes = weights(ty, rows, cols, &mut random);
                let matrix = pack(ty, rows, cols, &bytes).unwrap();
                let (mut packed, mut plain) = (vec![0.0; cols], vec![0.0; rows * cols]);
                dequantize(ty, &bytes, &mut plain).unwrap();
                for row in 0..rows {
                    matrix.row(row, &mut packed);
                    assert_eq!(
                        bits(&packed),
                        bits(&plain[row * cols..][..cols]),
                        "{ty}, row {row} of {rows}"
                    );
                }
            }
        }
    }

    #[test]
    fn packing_takes_no_more_than_the_file_when_rows_are_whole_groups() {
        for ty in TensorType::ALL {
            let bytes = weights(ty, 16, 512, &mut Random::new(2));
            let packed = pack(ty, 16, 512, &bytes).unwrap().bytes();
            let spare = 16 * 512 / 256 * 4; // K formats: 6-bit scales become bytes
            assert!(packed <= bytes.len() + spare, "{ty}: {packed} of {}", bytes.len());
        }
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let pack = |ty, rows, cols, len| pack(ty, rows, cols, &vec![0; len]).err();
        assert_eq!(
            pack(TensorType::F32, 0, 8, 0),
            Some(PackError::Empty { rows: 0, cols: 8 })
        );
        assert_eq!(
            pack(TensorType::Q4K, 1, 128, 144),
            Some(PackError::Columns {
                ty: TensorType::Q4K,
                cols: 128
            })
        );
        assert_eq!(
            pack(TensorType::Q8_0, 2, 32, 67),
            Some(PackError::Size {
                ty: TensorType::Q8_0,
                rows: 2,
                cols: 32,
                bytes: 67
            })
        );
        assert!(matches!(
            pack(TensorType::F16, usize::MAX, 4, 8),
            Some(PackError::Size { .. })
        ));
    }
}
