//! Norms of hidden states on their way into products. Where a model normalises what is added to a hidden state, that and
//! the addition happen here as well: the sum goes to the other of two buffers, because in the same stage other threads may
//! still read the one that it was made of.

use super::Pass;
use crate::activations::{Activations, Input, QUAD, Target};
use crate::decoder::workspace::Own;
use crate::ops::{add, rmsnorm_on};
use crate::pool::Member;

/// The hidden states as a stage finds them.
#[derive(Clone, Copy, Default)]
pub(super) struct State<'a> {
    /// Which of the two buffers has them.
    pub(super) buffer: usize,
    /// The norm of what is still to be added to them.
    pub(super) post_norm: Option<&'a [f32]>,
}

impl State<'_> {
    /// After a norm, which added what was to be added.
    pub(super) fn settled(self) -> Self {
        match self.post_norm {
            None => self,
            Some(_) => State {
                buffer: 1 - self.buffer,
                post_norm: None,
            },
        }
    }
}

/// A norm of hidden states on their way into products.
pub(super) struct Norm<'a> {
    weight: &'a [f32],
    /// What it is made of.
    state: State<'a>,
    /// It is the one before the head: only the rows of outputs are wanted, and nothing follows.
    is_last: bool,
}

impl<'a> Norm<'a> {
    /// Of all rows.
    pub(super) fn new(weight: &'a [f32], state: State<'a>) -> Norm<'a> {
        Norm {
            weight,
            state,
            is_last: false,
        }
    }

    /// The one before the head.
    pub(super) fn last(weight: &'a [f32], state: State<'a>) -> Norm<'a> {
        Norm {
            weight,
            state,
            is_last: true,
        }
    }

    /// Whether it makes the hidden states of what follows.
    fn makes_states(&self) -> bool {
        self.state.post_norm.is_some() && !self.is_last
    }
}

/// A thread's own copy of a norm's results in one stage.
pub(super) struct Private<'s> {
    target: Target<'s>,
    row: &'s mut [f32],
    sum: &'s mut [f32],
    is_made: bool,
}

impl<'s> Private<'s> {
    pub(super) fn new(
        normed: &'s mut Activations,
        row: &'s mut [f32],
        sum: &'s mut [f32],
        count: usize,
    ) -> Private<'s> {
        Private {
            target: normed.target(count.min(QUAD)),
            row,
            sum,
            is_made: false,
        }
    }
}

impl<'a> Pass<'a> {
    /// Rows that a norm is for.
    fn count(&self, norm: &Norm<'_>) -> usize {
        if norm.is_last {
            self.batch.outputs.len()
        } else {
            self.batch.len()
        }
    }

    /// Normalises hidden states for products, if they are too many for each thread to do alone.
    pub(super) fn norm_stage(&self, member: &Member<'_>, own: &mut Own, norm: &Norm<'_>) {
        let count = self.count(norm);
        if count <= QUAD {
            return;
        }
        let (row, sum, target) = (&mut own.row, &mut own.sum, self.buffers.inputs);
        member.stage(count.div_ceil(QUAD), |quad| {
            for index in quad * QUAD..((quad + 1) * QUAD).min(count) {
                // SAFETY: an item is four rows; what it reads is not written in this stage.
                unsafe { self.normalise(member, (&mut *row, &mut *sum), norm, index, target, norm.makes_states()) };
            }
        });
    }

    /// Row `index` of a norm's results to `target`, made in `row` and `sum`; if `keeps`, the sum to where the hidden states
    /// of what follows are.
    ///
    /// # Safety
    /// Nobody writes the row's hidden state or what is to be added to it, nobody else uses row `index` of the target, and
    /// nobody else keeps the hidden state.
    unsafe fn normalise(
        &self,
        member: &Member<'_>,
        (row, sum): (&mut [f32], &mut [f32]),
        norm: &Norm<'_>,
        index: usize,
        target: Target<'_>,
        keeps: bool,
    ) {
        let (isa, width, epsilon) = (member.isa(), self.decoder.width(), self.decoder.norm_epsilon);
        let at = if norm.is_last {
            self.batch.outputs[index].row
        } else {
            index
        };
        let part = at * width..(at + 1) * width;
        let out = &mut row[..width];
        // SAFETY: by the contract; the buffer that takes the sums is not the one that is read.
        unsafe {
            let mut hidden = self.buffers.hidden[norm.state.buffer].get(part.clone());
            if let Some(weight) = norm.state.post_norm {
                rmsnorm_on(isa, self.buffers.addend.get(part.clone()), weight, epsilon, sum);
                add(sum, hidden);
                if keeps {
                    let kept = self.buffers.hidden[norm.state.settled().buffer];
                    kept.get_mut(part).copy_from_slice(sum);
                }
                hidden = sum;
            }
            rmsnorm_on(isa, hidden, norm.weight, epsilon, out);
            target.write(isa, index, 0, out);
        }
    }

    /// The normalised hidden states for item `item` of a stage: from `norm_stage`, or this thread's own, made with its
    /// first item. Item 0 keeps the hidden states that the norm makes.
    ///
    /// # Safety
    /// Inside an item of a stage in which neither what the norm reads nor its results are written.
    pub(super) unsafe fn normed<'s>(
        &self,
        member: &Member<'_>,
        private: &mut Private<'s>,
        item: usize,
        norm: &Norm<'_>,
    ) -> Input<'s>
    where
        'a: 's,
    {
        let count = self.count(norm);
        if count > QUAD {
            // SAFETY: by the contract.
            return unsafe { self.buffers.inputs.input() };
        }
        let keeps = item == 0 && norm.makes_states();
        if !private.is_made || keeps {
            for index in 0..count {
                let rows = (&mut *private.row, &mut *private.sum);
                // SAFETY: the target belongs to this thread, the hidden states that are kept to item 0; the rest by the
                // contract.
                unsafe { self.normalise(member, rows, norm, index, private.target, keeps) };
            }
            private.is_made = true;
        }
        // SAFETY: the target belongs to this thread.
        unsafe { private.target.input() }
    }
}
