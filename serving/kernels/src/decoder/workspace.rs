//! The memory of a step, made once.

use super::Decoder;
use crate::activations::{Activations, QUAD, Target};
use crate::batch::Batch;
use crate::buffer::{Buffer, OutOfMemory};
use crate::lanes::lanes_fn;
use crate::layout::GROUP;
use crate::matmul::{CHUNK, Sixteen};
use crate::pool::{Pool, Shared, Stages};
use crate::{attention, matmul};

/// Working memory for batches of up to a number of rows and outputs.
pub struct Workspace {
    stages: Stages,
    /// The hidden states, and the other buffer that takes them where there are post norms.
    hidden: [Buffer<f32>; 2],
    /// What a product adds to them, before its post norm.
    addend: Buffer<f32>,
    q: Buffer<f32>,
    k: Buffer<f32>,
    v: Buffer<f32>,
    angles: Buffer<f32>,
    inputs: Activations,
    attended: Activations,
    inner: Activations,
    logits: Buffer<f32>,
    threads: Vec<Own>,
    rows: usize,
    outputs: usize,
    vocabulary: usize,
    /// For each output of the last batch, where its logits are.
    wanted: Vec<Option<usize>>,
}

/// What a thread has for itself.
pub(super) struct Own {
    pub(super) product: matmul::Scratch,
    pub(super) attention: attention::Scratch,
    /// Results of an attention item: rows x heads x head_dim.
    pub(super) results: Vec<f32>,
    /// The normalised hidden states of up to four rows.
    pub(super) normed: Activations,
    /// One of them before it is quantised, or a key.
    pub(super) row: Vec<f32>,
    /// A hidden state with what was added to it last.
    pub(super) sum: Vec<f32>,
    /// Two groups of outputs for the tokens of a chunk.
    pub(super) gate: [Vec<Sixteen>; 2],
    pub(super) up: [Vec<Sixteen>; 2],
    /// The largest logits that this thread has seen, for each output.
    pub(super) best: Vec<Best>,
}

/// The buffers of a step, as its threads share them.
pub(super) struct Buffers<'a> {
    pub(super) hidden: [Shared<'a, f32>; 2],
    pub(super) addend: Shared<'a, f32>,
    pub(super) q: Shared<'a, f32>,
    pub(super) k: Shared<'a, f32>,
    pub(super) v: Shared<'a, f32>,
    pub(super) angles: Shared<'a, f32>,
    pub(super) inputs: Target<'a>,
    pub(super) attended: Target<'a>,
    pub(super) inner: Target<'a>,
    pub(super) logits: Shared<'a, f32>,
    pub(super) threads: Shared<'a, Own>,
}

impl Workspace {
    /// For batches of `rows` rows, of which `outputs` give a token.
    ///
    /// # Errors
    /// If the memory is not to be had.
    pub fn new(decoder: &Decoder, pool: &Pool, rows: usize, outputs: usize) -> Result<Workspace, OutOfMemory> {
        let floats =
            |rows: usize, cols: usize| Buffer::zeroed(rows.checked_mul(cols).ok_or(OutOfMemory { bytes: usize::MAX })?);
        let plain = decoder.matrices().any(|matrix| matrix.tensor_type().is_float());
        let beside = if decoder.has_post_norms() { rows } else { 0 };
        let own = || {
            Ok(Own {
                product: matmul::Scratch::new(),
                attention: attention::Scratch::default(),
                results: Vec::new(),
                normed: Activations::new(QUAD, decoder.width(), plain)?,
                row: vec![0.0; decoder.width().max(decoder.head_dim)],
                sum: vec![0.0; decoder.width()],
                gate: [0, 1].map(|_| vec![[0.0; GROUP]; CHUNK.min(rows)]),
                up: [0, 1].map(|_| vec![[0.0; GROUP]; CHUNK.min(rows)]),
                best: vec![Best::NONE; outputs],
            })
        };
        Ok(Workspace {
            stages: Stages::new(pool, decoder.stages()),
            hidden: [floats(rows, decoder.width())?, floats(beside, decoder.width())?],
            addend: floats(beside, decoder.width())?,
            q: floats(rows, decoder.query_width())?,
            k: floats(rows, decoder.kv_width())?,
            v: floats(rows, decoder.kv_width())?,
            angles: floats(rows, decoder.angles_len())?,
            inputs: Activations::new(rows.max(outputs), decoder.width(), plain)?,
            attended: Activations::new(rows, decoder.query_width(), plain)?,
            inner: Activations::new(rows, decoder.feed_forward(), plain)?,
            logits: floats(outputs, decoder.vocabulary())?,
            threads: (0..pool.threads()).map(|_| own()).collect::<Result<_, _>>()?,
            rows,
            outputs,
            vocabulary: decoder.vocabulary(),
            wanted: Vec::with_capacity(outputs),
        })
    }

    /// Bytes that such a workspace takes for a model of these sizes, or somewhat more.
    pub fn bytes(sizes: &WorkspaceSizes) -> u64 {
        let WorkspaceSizes {
            rows,
            outputs,
            width,
            query_width,
            kv_width,
            feed_forward,
            angles,
            has_post_norms,
            vocabulary,
        } = *sizes;
        let activations = [width, query_width, feed_forward]
            .iter()
            .map(|&cols| Activations::bytes(rows.max(outputs), cols, true))
            .fold(0u64, u64::saturating_add);
        let hidden = if has_post_norms { 3 * width } else { width };
        let floats = (hidden + query_width + 2 * kv_width + angles) as u64;
        let floats = floats.saturating_mul(rows as u64);
        let logits = (outputs as u64).saturating_mul(vocabulary as u64);
        activations.saturating_add(floats.saturating_add(logits).saturating_mul(4))
    }

    /// The most likely next token of an output of the last batch, in the order in which outputs were added; `None` if
    /// its logits are not finite numbers.
    ///
    /// # Panics
    /// If there was no such output.
    pub fn best(&self, output: usize) -> Option<u32> {
        assert!(output < self.wanted.len(), "output {output} of {}", self.wanted.len());
        let all = self.threads.iter().map(|own| own.best[output]);
        all.fold(Best::NONE, Best::join).token()
    }

    /// The logits of an output of the last batch, if they were wanted.
    ///
    /// # Panics
    /// If there was no such output.
    pub fn logits(&self, output: usize) -> Option<&[f32]> {
        let index = self.wanted[output]?;
        Some(&self.logits[index * self.vocabulary..][..self.vocabulary])
    }

    /// Ready for a batch.
    pub(super) fn begin(&mut self, decoder: &Decoder, batch: &Batch) -> (&mut Stages, Buffers<'_>) {
        let outputs = batch.outputs.len();
        assert!(
            batch.len() <= self.rows && outputs <= self.outputs,
            "a batch of {} rows and {outputs} outputs, room for {} and {}",
            batch.len(),
            self.rows,
            self.outputs
        );
        assert_eq!(self.vocabulary, decoder.vocabulary(), "a workspace of another model");
        self.wanted.clear();
        self.wanted.extend(batch.outputs.iter().map(|output| output.logits));
        for own in &mut self.threads {
            own.best[..outputs].fill(Best::NONE);
        }
        let rows = batch.len();
        let buffers = Buffers {
            hidden: self.hidden.each_mut().map(|hidden| Shared::new(hidden)),
            addend: Shared::new(&mut self.addend),
            q: Shared::new(&mut self.q),
            k: Shared::new(&mut self.k),
            v: Shared::new(&mut self.v),
            angles: Shared::new(&mut self.angles),
            inputs: self.inputs.target(rows.max(outputs)),
            attended: self.attended.target(rows),
            inner: self.inner.target(rows),
            logits: Shared::new(&mut self.logits),
            threads: Shared::new(&mut self.threads),
        };
        (&mut self.stages, buffers)
    }
}

/// What [`Workspace::bytes`] must know of a model.
#[derive(Debug, Clone, Copy)]
pub struct WorkspaceSizes {
    /// Rows of a batch.
    pub rows: usize,
    /// Outputs of a batch.
    pub outputs: usize,
    /// Elements of a hidden state.
    pub width: usize,
    /// Elements of all query heads.
    pub query_width: usize,
    /// Elements of all key heads.
    pub kv_width: usize,
    /// Elements inside the feed-forward network.
    pub feed_forward: usize,
    /// Rotated elements of a head, of all rotations together.
    pub angles: usize,
    /// Whether the layers have norms behind attention or feed-forward network.
    pub has_post_norms: bool,
    /// Tokens of the vocabulary.
    pub vocabulary: usize,
}

/// The largest logits so far, in a lane each by the token's number modulo 16.
#[derive(Clone, Copy)]
pub(super) struct Best {
    values: [f32; GROUP],
    groups: [i32; GROUP],
    /// NaN once a logit was not finite.
    wrong: [f32; GROUP],
}

impl Best {
    const NONE: Best = Best {
        values: [f32::NEG_INFINITY; GROUP],
        groups: [i32::MAX; GROUP],
        wrong: [0.0; GROUP],
    };

    fn join(mut self, other: Best) -> Best {
        for lane in 0..GROUP {
            self.offer(lane, other.values[lane], other.groups[lane], other.wrong[lane]);
        }
        self
    }

    /// Of equal logits the first token wins. Without branches, so that lanes are compared together.
    #[inline(always)]
    fn offer(&mut self, lane: usize, value: f32, group: i32, wrong: f32) {
        let is_first = (value == self.values[lane]) & (group < self.groups[lane]);
        let is_better = (value > self.values[lane]) | is_first;
        self.values[lane] = if is_better { value } else { self.values[lane] };
        self.groups[lane] = if is_better { group } else { self.groups[lane] };
        self.wrong[lane] += wrong;
    }

    fn token(self) -> Option<u32> {
        if self.wrong.iter().any(|wrong| wrong.is_nan()) {
            return None;
        }
        let token = |lane: usize| self.groups[lane] as usize * GROUP + lane;
        let lanes = (0..GROUP).filter(|&lane| self.groups[lane] != i32::MAX);
        let best = lanes.reduce(|a, b| {
            let is_better =
                self.values[b] > self.values[a] || (self.values[b] == self.values[a] && token(b) < token(a));
            if is_better { b } else { a }
        })?;
        u32::try_from(token(best)).ok()
    }
}

lanes_fn! {
    /// Looks at the logits of tokens `16 * group..16 * group + lanes` of some outputs.
    pub(super) fn see(_l, best: &mut [Best], group: usize, logits: &[Sixteen], lanes: usize) {
        for (best, logits) in best.iter_mut().zip(logits) {
            // All, where there are all, so that they are compared together; times 0 is 0 if the logit is finite, else NaN.
            if lanes == GROUP {
                for (lane, &logit) in logits.iter().enumerate() {
                    best.offer(lane, logit, group as i32, logit * 0.0);
                }
                continue;
            }
            for (lane, &logit) in logits[..lanes].iter().enumerate() {
                best.offer(lane, logit, group as i32, logit * 0.0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;

    fn best(logits: &[f32], order: &[usize]) -> Option<u32> {
        let mut parts = [Best::NONE; 2];
        for (turn, &group) in order.iter().enumerate() {
            let lanes = GROUP.min(logits.len() - group * GROUP);
            let mut sixteen = [9.0; GROUP];
            sixteen[..lanes].copy_from_slice(&logits[group * GROUP..][..lanes]);
            see(Isa::detect(), &mut parts[turn % 2..][..1], group, &[sixteen], lanes);
        }
        parts[0].join(parts[1]).token()
    }

    #[test]
    fn the_first_of_the_largest_logits_wins_in_whatever_order_they_come() {
        let mut logits = [-1.0; 2 * GROUP + 5];
        (logits[5], logits[19], logits[21], logits[36]) = (0.5, 2.0, 2.0, 2.0);
        for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2], [2, 0, 1]] {
            assert_eq!(best(&logits, &order), Some(19));
        }
        logits[19] = -2.0;
        assert_eq!(best(&logits, &[2, 1, 0]), Some(21));
        logits[21] = -2.0;
        assert_eq!(best(&logits, &[2, 1, 0]), Some(36));
    }

    #[test]
    fn a_logit_that_is_not_finite_leaves_no_token() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut logits = [0.0; 16];
            logits[9] = bad;
            assert_eq!(best(&logits, &[1, 0]), None);
        }
        assert_eq!(best(&[], &[]), None);
    }
}
