//! Activations of up to a few hundred tokens, quantised for the integer kernels: blocks of 32 signed
//! bytes with an f32 scale, and the sums of their halves, from which offsets and minima of the weights
//! follow exactly. Rows are kept in fours, so that a kernel walks one pointer for four tokens.

use crate::buffer::{Buffer, OutOfMemory, Plain};
use crate::isa::Isa;
use crate::lanes::{LANES, lanes_fn};
use crate::pool::Pool;

/// Rows that are stored together and that one pass of a kernel takes.
pub(crate) const QUAD: usize = 4;
/// Elements of a block.
const BLOCK: usize = 32;
/// The largest quant. -128 is never used: the bounds of the 16-bit sums need |quant| <= 127.
const QMAX: f32 = 127.0;
/// A block without any larger magnitude becomes zeros: it is far below what f16 weights can lift
/// back to significance, and 127 / magnitude must stay finite.
const TINY: f32 = 1e-30;

/// One block of four rows: 192 bytes, three cache lines.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Quad {
    /// The quants, in -127..=127.
    pub(crate) quants: [[i8; BLOCK]; QUAD],
    /// `value = scale * quant`; NaN in the first block of a row that is not finite.
    pub(crate) scale: [f32; QUAD],
    /// `scale * (sum of the quants)`.
    pub(crate) sum: [f32; QUAD],
    /// The sums of quants 0..16 and 16..32; at most 16 * 127 = 2032 in magnitude.
    pub(crate) halves: [[i16; 2]; QUAD],
    unused: [u32; QUAD],
}
// SAFETY: integers and floats only, without padding, for which zero is a value; aligned to 64.
unsafe impl Plain for Quad {}

/// A reusable buffer of `rows` x `cols` activations.
pub struct Activations {
    /// max_rows x max_cols: the rows as they were filled in, for weights of float types.
    floats: Buffer<f32>,
    /// (rows / 4) x blocks.
    quads: Buffer<Quad>,
    max_rows: usize,
    max_cols: usize,
    rows: usize,
    cols: usize,
}

impl Activations {
    /// Room for `max_rows` x `max_cols`.
    ///
    /// # Errors
    /// If the memory is not to be had.
    pub fn new(max_rows: usize, max_cols: usize) -> Result<Activations, OutOfMemory> {
        let overflow = OutOfMemory { bytes: usize::MAX };
        let padded = max_rows.checked_next_multiple_of(QUAD).ok_or(overflow)?;
        let floats = padded.checked_mul(max_cols).ok_or(overflow)?;
        let quads = (padded / QUAD).checked_mul(max_cols.div_ceil(BLOCK)).ok_or(overflow)?;
        Ok(Activations {
            floats: Buffer::zeroed(floats)?,
            quads: Buffer::zeroed(quads)?,
            max_rows,
            max_cols,
            rows: 0,
            cols: 0,
        })
    }

    /// Makes the buffer `rows` x `cols`; all values become zero.
    ///
    /// # Panics
    /// If that is more than there is room for, or nothing.
    pub fn set(&mut self, rows: usize, cols: usize) {
        self.reshape(rows, cols);
        let blocks = self.blocks();
        self.floats[..rows * cols].fill(0.0);
        let zero = Quad {
            quants: [[0; BLOCK]; QUAD],
            scale: [0.0; QUAD],
            sum: [0.0; QUAD],
            halves: [[0; 2]; QUAD],
            unused: [0; QUAD],
        };
        self.quads[..rows.div_ceil(QUAD) * blocks].fill(zero);
    }

    /// Copies `values` to row `row` and quantises it.
    ///
    /// # Panics
    /// If the row or the length is outside the shape.
    pub fn set_row(&mut self, row: usize, values: &[f32]) {
        assert!(
            row < self.rows && values.len() == self.cols,
            "activations: row outside the shape"
        );
        let (cols, blocks) = (self.cols, self.blocks());
        let floats = &mut self.floats[row * cols..][..cols];
        floats.copy_from_slice(values);
        quantize_row(
            Isa::detect(),
            floats,
            &mut self.quads[row / QUAD * blocks..][..blocks],
            row % QUAD,
        );
    }

    /// Makes the buffer `rows` x `cols` and fills it in parallel: `f` writes row `row` (which holds
    /// old values) into the slice that it is given; then the row is quantised.
    ///
    /// # Panics
    /// If that is more than there is room for, or nothing; with a panic of `f`.
    pub fn fill(&mut self, pool: &Pool, rows: usize, cols: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
        self.reshape(rows, cols);
        let blocks = self.blocks();
        let floats = &mut self.floats[..rows * cols];
        let quads = &mut self.quads[..rows.div_ceil(QUAD) * blocks];
        pool.for_each_chunk_pair((floats, QUAD * cols), (quads, blocks), |quad, floats, quads| {
            for (lane, row) in floats.chunks_exact_mut(cols).enumerate() {
                f(quad * QUAD + lane, row);
                quantize_row(pool.isa(), row, quads, lane);
            }
        });
    }

    /// Rows in use.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns in use.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Row `row` as it was filled in; all NaN if it was not finite.
    pub fn row(&self, row: usize) -> &[f32] {
        assert!(row < self.rows, "activations: row outside the shape");
        &self.floats[row * self.cols..][..self.cols]
    }

    /// Whether all values of a row were finite. Products of another row are NaN, and only its own.
    pub fn row_is_finite(&self, row: usize) -> bool {
        assert!(row < self.rows, "activations: row outside the shape");
        !self.quads[row / QUAD * self.blocks()].scale[row % QUAD].is_nan()
    }

    /// Blocks of a row; the last may be partly zeros beyond `cols`.
    pub(crate) fn blocks(&self) -> usize {
        self.cols.div_ceil(BLOCK)
    }

    /// The blocks of rows `4 * quad..4 * quad + 4`. Lanes at or beyond `rows()` hold old values.
    pub(crate) fn quads(&self, quad: usize) -> &[Quad] {
        &self.quads[quad * self.blocks()..][..self.blocks()]
    }

    fn reshape(&mut self, rows: usize, cols: usize) {
        assert!(
            0 < rows && rows <= self.max_rows,
            "activations: {rows} rows, room for {}",
            self.max_rows
        );
        assert!(
            0 < cols && cols <= self.max_cols,
            "activations: {cols} columns, room for {}",
            self.max_cols
        );
        (self.rows, self.cols) = (rows, cols);
    }
}

lanes_fn! {
    /// Quantises one row into lane `lane` of its blocks. A row that is not finite becomes NaN.
    fn quantize_row(l, row: &mut [f32], quads: &mut [Quad], lane: usize) {
        let mut finite = true;
        for (values, quad) in row.chunks(BLOCK).zip(quads.iter_mut()) {
            let mut block = [0.0; BLOCK];
            block[..values.len()].copy_from_slice(values);
            let mut largest = l.splat(0.0);
            // x - x is NaN exactly for what is not finite; a sum of zeros stays zero.
            let mut wrong = l.splat(0.0);
            for eight in block.as_chunks::<LANES>().0 {
                let v = l.load(eight);
                largest = l.max(l.abs(v), largest);
                wrong = l.add(wrong, l.sub(v, v));
            }
            finite &= l.sum(wrong) == 0.0;
            let largest = l.max_of(largest);
            let quants = &mut quad.quants[lane];
            if finite && largest >= TINY {
                l.quantize(&block, QMAX / largest, quants);
                quad.scale[lane] = largest / QMAX;
            } else {
                *quants = [0; BLOCK];
                quad.scale[lane] = 0.0;
            }
            let half = |half: &[i8]| half.iter().map(|&q| i16::from(q)).sum::<i16>();
            quad.halves[lane] = [half(&quants[..BLOCK / 2]), half(&quants[BLOCK / 2..])];
            quad.sum[lane] = quad.scale[lane] * f32::from(quad.halves[lane][0] + quad.halves[lane][1]);
        }
        if !finite {
            row.fill(f32::NAN);
            quads[0].scale[lane] = f32::NAN;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{Random, bits};

    fn filled(isa: Isa, threads: usize, rows: usize, cols: usize, data: &[f32]) -> Activations {
        let pool = Pool::with_isa(threads, isa).unwrap();
        let mut activations = Activations::new(rows + 1, cols).unwrap();
        activations.fill(&pool, rows, cols, |row, out| {
            out.copy_from_slice(&data[row * cols..][..cols])
        });
        activations
    }

    #[test]
    fn quantised_values_are_within_half_a_step_and_their_sums_are_exact() {
        for isa in [Isa::detect(), Isa::scalar()] {
            let data = Random::new(3).floats(9 * 100);
            let activations = filled(isa, 2, 9, 100, &data);
            for row in 0..9 {
                for (block, quad) in activations.quads(row / QUAD).iter().enumerate() {
                    let (quants, scale) = (&quad.quants[row % QUAD], quad.scale[row % QUAD]);
                    for (i, &q) in quants.iter().enumerate() {
                        let value = if block * BLOCK + i < 100 {
                            data[row * 100 + block * BLOCK + i]
                        } else {
                            0.0
                        };
                        assert!((f32::from(q) * scale - value).abs() <= scale * 0.5001);
                    }
                    assert!(
                        quants.iter().any(|q| q.abs() == 127),
                        "the largest value uses the whole range"
                    );
                    let sum = |half: &[i8]| half.iter().map(|&q| i32::from(q)).sum::<i32>();
                    let halves = [sum(&quants[..16]), sum(&quants[16..])];
                    assert_eq!(quad.halves[row % QUAD].map(i32::from), halves);
                    assert_eq!(quad.sum[row % QUAD], scale * (halves[0] + halves[1]) as f32);
                }
            }
        }
    }

    #[test]
    fn scalar_and_detected_instructions_quantise_to_the_same_bits() {
        let mut data = Random::new(4).floats(33 * 576);
        // Ties at half a step, huge, tiny and signed zero values.
        data[..4].copy_from_slice(&[127.0, 0.5, 1.5, -2.5]);
        data[32..36].copy_from_slice(&[3e38, -3e38, 1.0, -0.0]);
        data[64..96].fill(1e-31);
        data[96..128].fill(f32::MIN_POSITIVE / 4.0);
        data[128..160].fill(-2e-30);
        let (a, b) = (
            filled(Isa::detect(), 2, 33, 576, &data),
            filled(Isa::scalar(), 1, 33, 576, &data),
        );
        for row in 0..33 {
            let lane = row % QUAD;
            for (a, b) in a.quads(row / QUAD).iter().zip(b.quads(row / QUAD)) {
                assert_eq!(a.quants[lane], b.quants[lane]);
                assert_eq!(a.halves[lane], b.halves[lane]);
                assert_eq!(bits(&[a.scale[lane], a.sum[lane]]), bits(&[b.scale[lane], b.sum[lane]]));
            }
        }
        assert_eq!(a.quads(0)[2].quants[0], [0; BLOCK]);
        assert_eq!(a.quads(0)[4].quants[0], [-127; BLOCK]);
        assert_eq!(a.quads(0)[1].quants[0][..3], [127, -127, 0]);
    }

    #[test]
    fn a_row_that_is_not_finite_is_reported_and_alone() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut data = Random::new(5).floats(6 * 64);
            let clean = filled(Isa::detect(), 1, 6, 64, &data);
            data[2 * 64 + 40] = bad;
            let dirty = filled(Isa::detect(), 1, 6, 64, &data);
            for row in 0..6 {
                assert_eq!(dirty.row_is_finite(row), row != 2);
                if row != 2 {
                    assert_eq!(bits(dirty.row(row)), bits(clean.row(row)));
                    assert_eq!(
                        dirty.quads(row / QUAD)[1].quants[row % QUAD],
                        clean.quads(row / QUAD)[1].quants[row % QUAD]
                    );
                }
            }
            assert!(dirty.row(2).iter().all(|x| x.is_nan()));
        }
    }

    #[test]
    fn rows_set_one_by_one_equal_rows_filled_together() {
        let data = Random::new(6).floats(5 * 96);
        let together = filled(Isa::detect(), 2, 5, 96, &data);
        let mut single = Activations::new(5, 96).unwrap();
        single.set(5, 96);
        for row in 0..5 {
            single.set_row(row, &data[row * 96..][..96]);
        }
        for row in 0..5 {
            assert_eq!(single.row(row), together.row(row));
            assert_eq!(
                single.quads(row / QUAD)[2].quants[row % QUAD],
                together.quads(row / QUAD)[2].quants[row % QUAD]
            );
        }
    }

    #[test]
    fn huge_sizes_are_errors() {
        assert!(Activations::new(usize::MAX, 8).is_err());
        assert!(Activations::new(1 << 40, 1 << 20).is_err());
    }
}
