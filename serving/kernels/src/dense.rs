//! Products of many rows with the weights of a dense layer, in f32 or in bytes with exact sums. Weights lie in panels of
//! 16 outputs: step by step, the 16 outputs' next input (f32), or their next four inputs (bytes), which is one register
//! of AVX-512 and two of AVX2. A kernel keeps the sums of a tile of rows x panels in registers over all steps, so an
//! output is one sum in the order of the inputs: it depends neither on the tile nor on the instruction set.
//!
//! Bytes: a weight row has one scale; a row of activations has for each group of inputs a scale and an offset,
//! `value = scale * byte + offset`, because what comes out of a norm lies far from the middle of its range. The sum of
//! bytes x weights of a group is an exact integer, and `sum(value * weight) = scale * integer + offset * sum(weights)`.
//! Weights that are far larger than the others of their row would make its scale too coarse for these (all-MiniLM-L6-v2 has
//! nine, up to 39 times the root mean square; they were most of the error): they stay floats and are added one by one.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod quantize;
mod scalar;
#[cfg(test)]
mod tests;

use crate::buffer::OutOfMemory;
use crate::isa::{Isa, Kind};
use crate::store::{Region, Store};
use quantize::WeightRange;
pub(crate) use quantize::quantize_row;
use std::ops::Range;

/// Outputs of a panel.
pub(crate) const LANES: usize = 16;
/// Panels that a kernel takes together at most.
pub(crate) const TOGETHER: usize = 3;
/// Inputs of a group where they come out of a norm, which leaves some elements much larger than others.
pub const GROUP_AFTER_NORM: usize = 192;
/// Inputs of a group elsewhere.
pub const GROUP_ELSEWHERE: usize = 1536;
/// Inputs in a step of the kernel for bytes.
const STEP: usize = 4;

/// The outputs of a row for up to three panels.
pub(crate) type Outputs = [f32; LANES * TOGETHER];

/// What weights and activations are multiplied as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// Single precision, as the file has them.
    F32,
    /// Bytes: a quarter of the memory, and several times as fast.
    Int8,
}

/// Up to three panels of f32 weights, one after the other; a step is an input.
#[derive(Clone, Copy)]
pub(crate) struct Floats<'a> {
    /// panels x steps.
    pub(crate) weights: &'a [[f32; LANES]],
    /// Steps of a panel.
    pub(crate) steps: usize,
}

impl<'a> Floats<'a> {
    fn count(&self) -> usize {
        self.weights.len() / self.steps
    }

    fn panel(&self, index: usize) -> &'a [[f32; LANES]] {
        &self.weights[index * self.steps..][..self.steps]
    }
}

/// Up to three panels of byte weights; a step is four inputs.
#[derive(Clone, Copy)]
struct Bytes<'a> {
    /// panels x steps.
    weights: &'a [[i8; LANES * STEP]],
    /// Steps of a panel.
    steps: usize,
    /// Inputs of a group.
    group: usize,
    /// The scales of each panel.
    scales: &'a [[f32; LANES]],
    /// panels x groups: the sums of the weights.
    sums: &'a [[f32; LANES]],
}

impl<'a> Bytes<'a> {
    fn count(&self) -> usize {
        self.scales.len()
    }

    fn groups(&self) -> usize {
        groups(self.steps * STEP, self.group)
    }

    /// The steps of a group.
    fn steps_of(&self, group: usize) -> Range<usize> {
        let each = self.group / STEP;
        group * each..((group + 1) * each).min(self.steps)
    }

    /// The weights of a panel, and their sums for each group.
    fn panel(&self, index: usize) -> (&'a [[i8; LANES * STEP]], &'a [[f32; LANES]]) {
        let (weights, sums) = (&self.weights[index * self.steps..], &self.sums[index * self.groups()..]);
        (&weights[..self.steps], &sums[..self.groups()])
    }
}

/// Rows of f32 activations.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    /// From the first element of the first row to the last of the last.
    pub(crate) data: &'a [f32],
    /// From a row to the next.
    pub(crate) stride: usize,
    /// How many.
    pub(crate) count: usize,
}

impl<'a> Rows<'a> {
    fn row(&self, index: usize, len: usize) -> &'a [f32] {
        &self.data[index * self.stride..][..len]
    }
}

/// Rows of byte activations.
#[derive(Clone, Copy)]
pub(crate) struct ByteRows<'a> {
    /// rows x `padded(inputs)`.
    pub(crate) bytes: &'a [u8],
    /// rows x groups.
    pub(crate) scales: &'a [f32],
    /// rows x groups.
    pub(crate) offsets: &'a [f32],
    /// How many rows.
    pub(crate) count: usize,
}

impl<'a> ByteRows<'a> {
    /// The fours of bytes of a row, and the scale and the offset of each group, for these panels.
    fn row(&self, index: usize, panels: &Bytes<'_>) -> (&'a [[u8; STEP]], &'a [f32], &'a [f32]) {
        let (inputs, groups) = (panels.steps * STEP, panels.groups());
        let fours = self.bytes[index * padded(inputs)..][..inputs].as_chunks().0;
        let part = index * groups..(index + 1) * groups;
        (fours, &self.scales[part.clone()], &self.offsets[part])
    }
}

/// Inputs rounded up: what a row of bytes takes.
pub(crate) fn padded(inputs: usize) -> usize {
    inputs.next_multiple_of(32)
}

/// Groups of a row.
pub(crate) fn groups(inputs: usize, group: usize) -> usize {
    inputs.div_ceil(group)
}

/// Activations of one kind or the other.
#[derive(Clone, Copy)]
pub(crate) enum Activations<'a> {
    /// For weights in f32.
    Floats(Rows<'a>),
    /// For weights in bytes.
    Bytes(ByteRows<'a>),
}

/// The packed weights of a dense layer.
pub struct Dense {
    outputs: usize,
    inputs: usize,
    weights: Region,
    bias: Vec<f32>,
    /// For bytes: inputs of a group.
    group: usize,
    /// For bytes: one for each output, whole panels.
    scales: Vec<[f32; LANES]>,
    /// For bytes: panels x groups.
    sums: Vec<[f32; LANES]>,
    /// For bytes: by outputs.
    outliers: Vec<Outlier>,
    precision: Precision,
}

/// A weight that is not among the bytes.
struct Outlier {
    output: usize,
    input: usize,
    weight: f32,
}

impl Dense {
    /// Packs `bias.len()` rows of `inputs` weights each; as bytes, `group` inputs share a scale.
    ///
    /// # Errors
    /// If the store has no room (see `packed_bytes`).
    ///
    /// # Panics
    /// If the sizes do not fit together.
    pub fn pack(
        store: &mut Store,
        precision: Precision,
        group: usize,
        inputs: usize,
        weights: &[f32],
        bias: Vec<f32>,
    ) -> Result<Dense, OutOfMemory> {
        let outputs = bias.len();
        // A sum of more products of bytes could overflow.
        assert!(
            (32..=1 << 15).contains(&group) && group.is_multiple_of(32),
            "dense: groups of {group}"
        );
        assert!(inputs > 0 && outputs > 0, "a dense layer of {outputs} x {inputs}");
        assert_eq!(
            Some(weights.len()),
            inputs.checked_mul(outputs),
            "dense: size of the weights"
        );
        let overflow = OutOfMemory { bytes: usize::MAX };
        let size = Self::sizes(precision, outputs, inputs).ok_or(overflow)?;
        let panels = outputs.div_ceil(LANES);
        let ranges: Vec<WeightRange> = match precision {
            Precision::F32 => Vec::new(),
            Precision::Int8 => weights.chunks_exact(inputs).map(WeightRange::of).collect(),
        };
        let mut dense = Dense {
            outputs,
            inputs,
            weights: store
                .fill_two([size, 0], |bytes, _| pack(precision, inputs, weights, &ranges, bytes))?
                .0,
            bias,
            group,
            scales: Vec::new(),
            sums: Vec::new(),
            outliers: Vec::new(),
            precision,
        };
        if precision == Precision::Int8 {
            dense.scales = vec![[0.0; LANES]; panels];
            for (output, (row, range)) in weights.chunks_exact(inputs).zip(&ranges).enumerate() {
                dense.scales[output / LANES][output % LANES] = range.scale;
                let outliers = row.iter().enumerate().filter(|(_, weight)| range.leaves_out(**weight));
                dense
                    .outliers
                    .extend(outliers.map(|(input, &weight)| Outlier { output, input, weight }));
            }
            dense.sums = dense.sum_groups();
        }
        Ok(dense)
    }

    /// Bytes of a store that the packed weights take; `None` if that overflows. What bytes leave out is kept besides, in at
    /// most a tenth of that.
    pub fn packed_bytes(precision: Precision, outputs: usize, inputs: usize) -> Option<usize> {
        Store::taken(Self::sizes(precision, outputs, inputs)?)
    }

    fn sizes(precision: Precision, outputs: usize, inputs: usize) -> Option<usize> {
        let steps = steps(precision, inputs);
        outputs.div_ceil(LANES).checked_mul(steps)?.checked_mul(4 * LANES)
    }

    /// Outputs.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Inputs.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// What is added to the products.
    pub(crate) fn bias(&self) -> &[f32] {
        &self.bias
    }

    pub(crate) fn precision(&self) -> Precision {
        self.precision
    }

    /// Inputs that share a scale, as bytes.
    pub(crate) fn group(&self) -> usize {
        self.group
    }

    /// How often `product` must be called for all outputs.
    pub(crate) fn pieces(&self) -> usize {
        self.outputs.div_ceil(LANES * TOGETHER)
    }

    /// The outputs of piece `index`.
    pub(crate) fn piece(&self, index: usize) -> Range<usize> {
        let first = index * LANES * TOGETHER;
        first..(first + LANES * TOGETHER).min(self.outputs)
    }

    /// Outputs `piece(index)` of some rows, without the bias: row by row, to the front of `results`.
    ///
    /// # Panics
    /// If the activations are of the other kind, or their sizes do not fit.
    pub(crate) fn product(&self, isa: Isa, index: usize, rows: Activations<'_>, results: &mut [Outputs]) {
        let panels = index * TOGETHER..((index + 1) * TOGETHER).min(self.outputs.div_ceil(LANES));
        let steps = steps(self.precision, self.inputs);
        let size = steps * 4 * LANES;
        let bytes = &self.weights[panels.start * size..panels.end * size];
        match rows {
            Activations::Floats(rows) => {
                assert_eq!(self.precision, Precision::F32, "dense: floats for bytes");
                // SAFETY: any bits are floats.
                let (before, weights, after) = unsafe { bytes.align_to() };
                assert!(before.is_empty() && after.is_empty(), "regions are aligned to 64 bytes");
                multiply(isa, Floats { weights, steps }, rows, results);
            }
            Activations::Bytes(rows) => {
                assert_eq!(self.precision, Precision::Int8, "dense: bytes for floats");
                let groups = groups(self.inputs, self.group);
                // SAFETY: any bits are signed bytes, which need no alignment.
                let (_, weights, _) = unsafe { bytes.align_to() };
                let panels = Bytes {
                    weights,
                    steps,
                    group: self.group,
                    scales: &self.scales[panels.clone()],
                    sums: &self.sums[panels.start * groups..panels.end * groups],
                };
                multiply_bytes(isa, panels, rows, results);
                self.add_outliers(self.piece(index), &panels, rows, results);
            }
        }
    }

    /// What the weights that are not among the bytes add to outputs `piece`.
    fn add_outliers(&self, piece: Range<usize>, panels: &Bytes<'_>, rows: ByteRows<'_>, results: &mut [Outputs]) {
        let [first, end] = [piece.start, piece.end].map(|at| self.outliers.partition_point(|one| one.output < at));
        for &Outlier { output, input, weight } in &self.outliers[first..end] {
            for (row, result) in results[..rows.count].iter_mut().enumerate() {
                let (fours, scales, offsets) = rows.row(row, panels);
                let group = input / self.group;
                let byte = fours[input / STEP][input % STEP];
                result[output - piece.start] += weight * (scales[group] * f32::from(byte) + offsets[group]);
            }
        }
    }

    fn sum_groups(&self) -> Vec<[f32; LANES]> {
        let size = steps(self.precision, self.inputs) * STEP * LANES;
        let groups = self
            .weights
            .chunks(size)
            .flat_map(|panel| panel.chunks(self.group * LANES));
        groups
            .map(|group| {
                let mut sums = [0i32; LANES];
                for step in group.as_chunks::<{ LANES * STEP }>().0 {
                    for (byte, &weight) in step.iter().enumerate() {
                        sums[byte / STEP] += i32::from(weight as i8);
                    }
                }
                // At most 2^15 * 127 in magnitude: exact.
                sums.map(|sum| sum as f32)
            })
            .collect()
    }
}

/// Steps of a panel.
fn steps(precision: Precision, inputs: usize) -> usize {
    match precision {
        Precision::F32 => inputs,
        Precision::Int8 => inputs.div_ceil(STEP),
    }
}

/// Writes rows of weights into panels; bytes have a range for each row.
fn pack(precision: Precision, inputs: usize, weights: &[f32], ranges: &[WeightRange], packed: &mut [u8]) {
    let panel_bytes = steps(precision, inputs) * 4 * LANES;
    for (output, row) in weights.chunks_exact(inputs).enumerate() {
        let panel = &mut packed[output / LANES * panel_bytes..][..panel_bytes];
        let lane = output % LANES;
        match precision {
            Precision::F32 => {
                for (step, weight) in panel.as_chunks_mut::<{ 4 * LANES }>().0.iter_mut().zip(row) {
                    step[lane * 4..][..4].copy_from_slice(&weight.to_ne_bytes());
                }
            }
            Precision::Int8 => {
                let range = &ranges[output];
                for (step, weights) in panel
                    .as_chunks_mut::<{ STEP * LANES }>()
                    .0
                    .iter_mut()
                    .zip(row.chunks(STEP))
                {
                    for (byte, &weight) in step[lane * STEP..].iter_mut().zip(weights) {
                        *byte = range.byte(weight) as u8;
                    }
                }
            }
        }
    }
}

/// Rows times f32 panels: results begin each row of `results`.
///
/// # Panics
/// If the rows are shorter than the panels, or there are too few results.
pub(crate) fn multiply(isa: Isa, panels: Floats<'_>, rows: Rows<'_>, results: &mut [Outputs]) {
    match isa.0 {
        Kind::Scalar(_) => scalar::floats(panels, rows, results),
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2(avx2) => avx2::floats(avx2, panels, rows, results),
        #[cfg(target_arch = "x86_64")]
        Kind::Vnni(vnni) => avx512::floats(vnni, panels, rows, results),
    }
}

/// As `multiply`, for bytes.
fn multiply_bytes(isa: Isa, panels: Bytes<'_>, rows: ByteRows<'_>, results: &mut [Outputs]) {
    match isa.0 {
        Kind::Scalar(_) => scalar::bytes(panels, rows, results),
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2(avx2) => avx2::bytes(avx2, panels, rows, results),
        #[cfg(target_arch = "x86_64")]
        Kind::Vnni(vnni) => avx512::bytes(vnni, panels, rows, results),
    }
}
