//! Activations of up to a few hundred tokens, quantised for the integer kernels: blocks of 32 signed
//! bytes with an f32 scale, and the sums of their halves, from which offsets and minima of the weights
//! follow exactly. Rows are kept in fours, so that a kernel walks one pointer for four tokens. A block
//! is quantised by itself, so that whoever computes 32 columns of a row can write them at once.

use crate::buffer::{Buffer, OutOfMemory, Plain};
use crate::isa::Isa;
use crate::lanes::{Lanes, lanes_fn};
use crate::pool::Shared;

/// Rows that are stored together and that one pass of a kernel takes.
pub(crate) const QUAD: usize = 4;
/// Elements of a block.
pub(crate) const BLOCK: usize = 32;
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
    /// `value = scale * quant`; NaN if a value of the block is not finite, which makes every product NaN.
    pub(crate) scale: [f32; QUAD],
    /// `scale * (sum of the quants)`.
    pub(crate) sum: [f32; QUAD],
    /// The sums of quants 0..16 and 16..32; at most 16 * 127 = 2032 in magnitude.
    pub(crate) halves: [[i16; 2]; QUAD],
    /// -8 times the sum of the quants: what a product with quants that are 8 too large has too much, to be taken as the
    /// first addend of its sum.
    pub(crate) surplus: [i32; QUAD],
}
// SAFETY: integers and floats only, without padding, for which zero is a value; aligned to 64.
unsafe impl Plain for Quad {}

/// A reusable buffer of activations with a fixed number of columns.
pub(crate) struct Activations {
    /// rows x cols as they were written, for weights of float types; empty if there are none.
    floats: Buffer<f32>,
    /// (rows / 4) x blocks.
    quads: Buffer<Quad>,
    max_rows: usize,
    cols: usize,
}

impl Activations {
    /// Room for `max_rows` x `cols`; `floats` says whether a matrix of a float type will read them.
    ///
    /// # Errors
    /// If the memory is not to be had.
    pub(crate) fn new(max_rows: usize, cols: usize, floats: bool) -> Result<Activations, OutOfMemory> {
        let overflow = OutOfMemory { bytes: usize::MAX };
        let padded = max_rows.checked_next_multiple_of(QUAD).ok_or(overflow)?;
        let plain = if floats {
            padded.checked_mul(cols).ok_or(overflow)?
        } else {
            0
        };
        let quads = (padded / QUAD).checked_mul(cols.div_ceil(BLOCK)).ok_or(overflow)?;
        Ok(Activations {
            floats: Buffer::zeroed(plain)?,
            quads: Buffer::zeroed(quads)?,
            max_rows,
            cols,
        })
    }

    /// Bytes of such a buffer.
    pub(crate) fn bytes(max_rows: usize, cols: usize, floats: bool) -> u64 {
        let quads = max_rows.div_ceil(QUAD) as u64 * cols.div_ceil(BLOCK) as u64;
        let plain = if floats { max_rows as u64 * cols as u64 } else { 0 };
        quads
            .saturating_mul(size_of::<Quad>() as u64)
            .saturating_add(plain.saturating_mul(4))
    }

    /// The first `rows` rows, to be written by several threads.
    ///
    /// # Panics
    /// If there is no room for so many.
    pub(crate) fn target(&mut self, rows: usize) -> Target<'_> {
        assert!(
            rows <= self.max_rows,
            "activations: {rows} rows, room for {}",
            self.max_rows
        );
        Target {
            floats: Shared::new(&mut self.floats),
            quads: Shared::new(&mut self.quads),
            rows,
            cols: self.cols,
        }
    }
}

/// Activations while they are written.
#[derive(Clone, Copy)]
pub(crate) struct Target<'a> {
    floats: Shared<'a, f32>,
    quads: Shared<'a, Quad>,
    rows: usize,
    cols: usize,
}

impl<'a> Target<'a> {
    /// Quantises `values` into row `row` from column `column` (a multiple of 32) on; they end at a multiple of 32 or
    /// with the row.
    ///
    /// # Safety
    /// Nobody else uses these columns of the row meanwhile.
    ///
    /// # Panics
    /// If the columns are outside the shape.
    pub(crate) unsafe fn write(&self, isa: Isa, row: usize, column: usize, values: &[f32]) {
        let end = column + values.len();
        assert!(
            row < self.rows && end <= self.cols && column.is_multiple_of(BLOCK),
            "activations: outside the shape"
        );
        assert!(
            end.is_multiple_of(BLOCK) || end == self.cols,
            "activations: a part of a block"
        );
        // SAFETY: by the contract.
        let floats = unsafe { self.floats_at(row, column..end) };
        quantize(isa, values, self.lane(row, column), floats);
    }

    /// Quantises a block of some rows from `first` on, from column `column` (a multiple of 32) on: 32 columns, or up to the
    /// end of the row, beyond which values must be zeros. The values are those of the first and of the last sixteen columns.
    ///
    /// # Safety
    /// Nobody else uses these columns of these rows meanwhile.
    ///
    /// # Panics
    /// If the columns are outside the shape.
    pub(crate) unsafe fn write_block(&self, isa: Isa, first: usize, column: usize, values: [&[[f32; BLOCK / 2]]; 2]) {
        assert!(
            first + values[0].len() <= self.rows && column < self.cols && column.is_multiple_of(BLOCK),
            "activations: outside the shape"
        );
        assert_eq!(
            values[0].len(),
            values[1].len(),
            "activations: halves of different rows"
        );
        quantize_rows(isa, *self, first, column, values);
    }

    /// The blocks of a row from a column on.
    #[inline(always)]
    fn lane(&self, row: usize, column: usize) -> Lane<'a> {
        Lane {
            quads: self.quads,
            first: row / QUAD * self.cols.div_ceil(BLOCK) + column / BLOCK,
            lane: row % QUAD,
        }
    }

    /// Where columns of a row are kept as they are, if they are.
    ///
    /// # Safety
    /// Nobody else uses them meanwhile.
    #[inline(always)]
    unsafe fn floats_at(&self, row: usize, columns: std::ops::Range<usize>) -> Option<&'a mut [f32]> {
        if self.floats.is_empty() {
            return None;
        }
        let at = row * self.cols;
        // SAFETY: by the contract.
        Some(unsafe { self.floats.get_mut(at + columns.start..at + columns.end) })
    }

    /// What has been written.
    ///
    /// # Safety
    /// Nobody writes for as long as the result lives.
    pub(crate) unsafe fn input(&self) -> Input<'a> {
        // SAFETY: by the contract.
        unsafe {
            Input {
                floats: self.floats.get(0..self.floats.len()),
                quads: self.quads.get(0..self.quads.len()),
                rows: self.rows,
                cols: self.cols,
            }
        }
    }
}

/// One of the four rows of some blocks, for its only writer.
#[derive(Clone, Copy)]
struct Lane<'a> {
    quads: Shared<'a, Quad>,
    first: usize,
    lane: usize,
}

impl Lane<'_> {
    #[inline(always)]
    fn set(&self, block: usize, quants: &[i8; BLOCK], scale: f32, halves: [i16; 2]) {
        let quad = self.quads.at(self.first + block);
        // SAFETY: `at` gives an element inside the slice. Only this lane of it is touched, by place, without a
        // reference to the whole; `Target::write`, which alone makes a `Lane`, has these columns for itself.
        unsafe {
            (&raw mut (*quad).quants[self.lane]).write(*quants);
            (&raw mut (*quad).scale[self.lane]).write(scale);
            (&raw mut (*quad).sum[self.lane]).write(scale * f32::from(halves[0] + halves[1]));
            (&raw mut (*quad).surplus[self.lane]).write(-8 * i32::from(halves[0] + halves[1]));
            (&raw mut (*quad).halves[self.lane]).write(halves);
        }
    }
}

/// Activations while they are read.
#[derive(Clone, Copy)]
pub(crate) struct Input<'a> {
    floats: &'a [f32],
    quads: &'a [Quad],
    rows: usize,
    cols: usize,
}

impl<'a> Input<'a> {
    /// Columns.
    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    /// Row `row` as it was written; blocks with a value that is not finite are all NaN.
    pub(crate) fn row(&self, row: usize) -> &'a [f32] {
        assert!(row < self.rows, "activations: row outside the shape");
        &self.floats[row * self.cols..][..self.cols]
    }

    /// The blocks of rows `4 * quad..4 * quad + 4`; the last may be partly zeros beyond `cols`. Rows at or beyond
    /// `rows()` hold old values.
    pub(crate) fn quads(&self, quad: usize) -> &'a [Quad] {
        let blocks = self.cols.div_ceil(BLOCK);
        &self.quads[quad * blocks..][..blocks]
    }
}

/// Gives the scale with which `value = scale * quant`: 0 with zeros for a block of next to nothing, NaN with zeros for
/// one with a value that is not finite.
#[inline(always)]
pub(crate) fn quantize_block<L: Lanes>(l: L, block: &[f32; BLOCK], quants: &mut [i8; BLOCK]) -> f32 {
    let largest = l.magnitude(block);
    if largest < TINY || !largest.is_finite() {
        *quants = [0; BLOCK];
        return if largest.is_finite() { 0.0 } else { f32::NAN };
    }
    l.quantize(block, 0.0, QMAX / largest, quants);
    largest / QMAX
}

lanes_fn! {
    /// Quantises values into their blocks, and keeps them as floats where those are wanted.
    fn quantize(l, values: &[f32], lane: Lane<'_>, floats: Option<&mut [f32]>) {
        let mut floats = floats;
        let (blocks, rest) = values.as_chunks::<BLOCK>();
        let mut last = [0.0; BLOCK];
        last[..rest.len()].copy_from_slice(rest);
        let last = (!rest.is_empty()).then_some(&last);
        for (index, block) in blocks.iter().chain(last).enumerate() {
            let scale = quantize_one(l, block, lane, index);
            if let Some(floats) = &mut floats {
                let end = floats.len().min((index + 1) * BLOCK);
                keep(&mut floats[index * BLOCK..end], block, scale);
            }
        }
    }
}

lanes_fn! {
    /// Quantises one block of some rows.
    fn quantize_rows(l, target: Target<'_>, first: usize, column: usize, values: [&[[f32; BLOCK / 2]]; 2]) {
        let end = target.cols.min(column + BLOCK);
        for (row, (low, high)) in (first..).zip(values[0].iter().zip(values[1])) {
            let mut block = [0.0; BLOCK];
            block[..BLOCK / 2].copy_from_slice(low);
            block[BLOCK / 2..].copy_from_slice(high);
            let scale = quantize_one(l, &block, target.lane(row, column), 0);
            // SAFETY: `Target::write_block`, which alone comes here, has these columns for itself.
            if let Some(floats) = unsafe { target.floats_at(row, column..end) } {
                keep(floats, &block, scale);
            }
        }
    }
}

/// Quantises a block of values to block `index` of a lane; gives its scale.
#[inline(always)]
fn quantize_one<L: Lanes>(l: L, block: &[f32; BLOCK], lane: Lane<'_>, index: usize) -> f32 {
    let mut quants = [0; BLOCK];
    let scale = quantize_block(l, block, &mut quants);
    lane.set(index, &quants, scale, l.half_sums(&quants));
    scale
}

/// Keeps the values of a block, or as much as there is of it, as they are; NaN if one of them is not finite.
#[inline(always)]
fn keep(floats: &mut [f32], block: &[f32; BLOCK], scale: f32) {
    if scale.is_nan() {
        floats.fill(f32::NAN);
    } else {
        floats.copy_from_slice(&block[..floats.len()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{Random, bits};

    fn filled(isa: Isa, rows: usize, cols: usize, data: &[f32]) -> Activations {
        let mut activations = Activations::new(rows + 1, cols, true).unwrap();
        let target = activations.target(rows);
        for row in 0..rows {
            // SAFETY: one thread.
            unsafe { target.write(isa, row, 0, &data[row * cols..][..cols]) };
        }
        activations
    }

    fn read(activations: &mut Activations, rows: usize) -> Input<'_> {
        // SAFETY: one thread.
        unsafe { activations.target(rows).input() }
    }

    #[test]
    fn quantised_values_are_within_half_a_step_and_their_sums_are_exact() {
        for isa in [Isa::detect(), Isa::scalar()] {
            let data = Random::new(3).floats(9 * 100);
            let mut activations = filled(isa, 9, 100, &data);
            let input = read(&mut activations, 9);
            for row in 0..9 {
                assert_eq!(input.row(row), &data[row * 100..][..100]);
                for (block, quad) in input.quads(row / QUAD).iter().enumerate() {
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
                    assert_eq!(quad.surplus[row % QUAD], -8 * (halves[0] + halves[1]));
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
        let (mut a, mut b) = (
            filled(Isa::detect(), 33, 576, &data),
            filled(Isa::scalar(), 33, 576, &data),
        );
        let (a, b) = (read(&mut a, 33), read(&mut b, 33));
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
    fn a_block_that_is_not_finite_is_marked_and_alone() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut data = Random::new(5).floats(6 * 64);
            data[2 * 64 + 40] = bad;
            let mut activations = filled(Isa::detect(), 6, 64, &data);
            let input = read(&mut activations, 6);
            for row in 0..6 {
                for block in 0..2 {
                    let quad = &input.quads(row / QUAD)[block];
                    let is_marked = (row, block) == (2, 1);
                    assert_eq!(quad.scale[row % QUAD].is_nan(), is_marked);
                    assert_eq!(quad.sum[row % QUAD].is_nan(), is_marked);
                    let floats = &input.row(row)[block * BLOCK..][..BLOCK];
                    assert!(floats.iter().all(|x| x.is_nan() == is_marked));
                }
            }
        }
    }

    #[test]
    fn columns_written_one_block_at_a_time_equal_rows_written_whole() {
        let data = Random::new(6).floats(5 * 80);
        let mut whole = filled(Isa::detect(), 5, 80, &data);
        let mut parts = Activations::new(5, 80, true).unwrap();
        let target = parts.target(5);
        for row in 0..5 {
            for (block, values) in data[row * 80..][..80].chunks(BLOCK).enumerate() {
                // SAFETY: one thread.
                unsafe { target.write(Isa::detect(), row, block * BLOCK, values) };
            }
        }
        let (whole, parts) = (read(&mut whole, 5), read(&mut parts, 5));
        for row in 0..5 {
            assert_eq!(whole.row(row), parts.row(row));
            for (a, b) in whole.quads(row / QUAD).iter().zip(parts.quads(row / QUAD)) {
                assert_eq!(a.quants[row % QUAD], b.quants[row % QUAD]);
                assert_eq!(a.sum[row % QUAD], b.sum[row % QUAD]);
            }
        }
    }

    #[test]
    fn huge_sizes_are_errors() {
        assert!(Activations::new(usize::MAX, 8, true).is_err());
        assert!(Activations::new(1 << 40, 1 << 20, false).is_err());
    }
}
