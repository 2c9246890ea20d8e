//! One group of sequences through all layers, by one thread or by all of them. Every access to a shared buffer is inside an
//! item of a stage: an item has the part that it writes for itself, and what it reads was written in stages that are over.

use super::attention::{attend, copy};
use super::ops::{add_biased, biased, embedding, gelu, layer_norm};
use super::work::{Buffers, CHUNK, Group, Own, Rooms};
use super::{Encoder, EncoderLayer, Norm, Pooling};
use crate::dense::{Activations, ByteRows, Dense, GROUP_AFTER_NORM, Precision, Rows, groups, padded, quantize_row};
use crate::isa::Isa;
use crate::ops::add;
use crate::pool::{Member, Shared};

/// Rows of an item in stages that go row by row.
const SOME_ROWS: usize = 8;

/// Those who compute a group.
pub(super) trait Crew {
    /// Calls `f` for every index in `0..count`, on this thread or on others; returns when all calls have returned.
    fn stage(&self, count: usize, f: impl FnMut(usize));
    /// The number of this thread.
    fn thread(&self) -> usize;
    /// What it computes with.
    fn isa(&self) -> Isa;
}

impl Crew for Member<'_> {
    fn stage(&self, count: usize, f: impl FnMut(usize)) {
        Member::stage(self, count, f);
    }
    fn thread(&self) -> usize {
        Member::thread(self)
    }
    fn isa(&self) -> Isa {
        Member::isa(self)
    }
}

/// A thread by itself.
pub(super) struct Alone<'a>(pub(super) &'a Member<'a>);

impl Crew for Alone<'_> {
    fn stage(&self, count: usize, f: impl FnMut(usize)) {
        (0..count).for_each(f);
    }
    fn thread(&self) -> usize {
        self.0.thread()
    }
    fn isa(&self) -> Isa {
        self.0.isa()
    }
}

/// A batch.
pub(super) struct Job<'a> {
    pub(super) encoder: &'a Encoder,
    pub(super) sequences: &'a [&'a [u32]],
    pub(super) order: &'a [usize],
    pub(super) buffers: Buffers<'a>,
    /// sequences x width.
    pub(super) vectors: Shared<'a, f32>,
}

/// A group of a batch, and where its rows are.
struct Pass<'a> {
    job: &'a Job<'a>,
    group: &'a Group,
    /// Whose part of the buffers its rows are in.
    room: usize,
}

/// What becomes of the outputs of a layer, beside the bias.
#[derive(Clone, Copy)]
enum Then {
    /// They are stored.
    Store,
    /// They are activated and stored.
    Gelu,
    /// They are added to what is there.
    Add,
}

impl Job<'_> {
    /// Computes a group in room `room`.
    ///
    /// # Safety
    /// Only this crew uses the room meanwhile, only it computes this group, and its threads have different numbers.
    pub(super) unsafe fn run(&self, crew: &impl Crew, group: &Group, room: usize) {
        Pass { job: self, group, room }.run(crew);
    }
}

impl<'a> Pass<'a> {
    fn run(&self, crew: &impl Crew) {
        // SAFETY: each thread has another number, and computes one group at a time.
        let own = unsafe { &mut self.job.buffers.own.get_mut(crew.thread()..crew.thread() + 1)[0] };
        let Buffers {
            hidden,
            qkv,
            attended,
            inner,
            ..
        } = &self.job.buffers;
        self.embed(crew);
        for layer in &self.job.encoder.layers {
            let EncoderLayer { up, down, output, .. } = layer;
            self.dense(crew, own, &layer.qkv, hidden, qkv, Then::Store);
            self.attention(crew, own);
            self.quantize(crew, output, attended);
            self.dense(crew, own, output, attended, hidden, Then::Add);
            self.norm(crew, &layer.attention_norm);
            self.dense(crew, own, up, hidden, inner, Then::Gelu);
            self.quantize(crew, down, inner);
            self.dense(crew, own, down, inner, hidden, Then::Add);
            self.norm(crew, &layer.feed_forward_norm);
        }
        self.pool(crew);
    }

    /// The sequences of the group: its number in the batch, its first row in the group, and its tokens.
    fn sequences(&self) -> impl Iterator<Item = (usize, usize, &'a [u32])> {
        let mut row = 0;
        self.job.order[self.group.sequences.clone()].iter().map(move |&index| {
            let tokens = self.job.sequences[index];
            row += tokens.len();
            (index, row - tokens.len(), tokens)
        })
    }

    fn sequence(&self, place: usize) -> (usize, usize, &'a [u32]) {
        let mut sequences = self.sequences();
        match sequences.nth(place) {
            Some(sequence) => sequence,
            None => unreachable!("fewer sequences than were counted"),
        }
    }

    /// Hidden states from the embeddings.
    fn embed(&self, crew: &impl Crew) {
        let encoder = self.job.encoder;
        let width = encoder.width();
        crew.stage(self.group.sequences.len(), |place| {
            let (_, first, tokens) = self.sequence(place);
            let word = |index: usize| &encoder.words[tokens[index] as usize * width..][..width];
            for index in 0..tokens.len() {
                // SAFETY: an item is the rows of a sequence.
                let hidden = unsafe { self.row(&self.job.buffers.hidden, first + index, width) };
                let position = &encoder.positions[index * width..][..width];
                let next = word((index + 2).min(tokens.len() - 1));
                embedding(crew.isa(), word(index), position, next, hidden);
                // SAFETY: as above.
                unsafe { self.norm_row(crew.isa(), first + index, &encoder.embedding_norm) };
            }
        });
    }

    /// Normalises the hidden states, and quantises them for layers of bytes.
    fn norm(&self, crew: &impl Crew, norm: &Norm) {
        self.some_rows(crew, |row| {
            // SAFETY: an item has its rows for itself.
            unsafe { self.norm_row(crew.isa(), row, norm) };
        });
    }

    /// # Safety
    /// Nobody else uses the row, nor its place among the bytes.
    unsafe fn norm_row(&self, isa: Isa, row: usize, norm: &Norm) {
        let Norm { weight, bias } = norm;
        // SAFETY: by the contract.
        unsafe {
            let hidden = self.row(&self.job.buffers.hidden, row, weight.len());
            layer_norm(isa, hidden, weight, bias, self.job.encoder.epsilon);
            if self.job.encoder.is_bytes() {
                self.quantize_row(isa, GROUP_AFTER_NORM, row, hidden);
            }
        }
    }

    /// The inputs of a layer of bytes.
    fn quantize(&self, crew: &impl Crew, dense: &Dense, inputs: &Rooms<'a, f32>) {
        if dense.precision() == Precision::Int8 {
            self.some_rows(crew, |row| {
                // SAFETY: an item has its rows for itself.
                unsafe { self.quantize_row(crew.isa(), dense.group(), row, self.row(inputs, row, dense.inputs())) };
            });
        }
    }

    /// # Safety
    /// Nobody else uses the row's place among the bytes.
    unsafe fn quantize_row(&self, isa: Isa, group: usize, row: usize, values: &[f32]) {
        let Buffers {
            bytes, scales, offsets, ..
        } = &self.job.buffers;
        let (padded, groups) = (padded(values.len()), groups(values.len(), group));
        // SAFETY: by the contract.
        unsafe {
            let (scales, offsets) = (self.row(scales, row, groups), self.row(offsets, row, groups));
            quantize_row(isa, group, values, self.row(bytes, row, padded), scales, offsets);
        }
    }

    fn some_rows(&self, crew: &impl Crew, f: impl Fn(usize)) {
        let rows = self.group.rows;
        crew.stage(rows.div_ceil(SOME_ROWS), |item| {
            (item * SOME_ROWS..((item + 1) * SOME_ROWS).min(rows)).for_each(&f);
        });
    }

    /// A layer over all rows; its inputs are `from`, or the bytes that were made of them.
    fn dense(
        &self,
        crew: &impl Crew,
        own: &mut Own,
        dense: &Dense,
        from: &Rooms<'a, f32>,
        to: &Rooms<'a, f32>,
        then: Then,
    ) {
        let pieces = dense.pieces();
        crew.stage(self.group.rows.div_ceil(CHUNK) * pieces, |item| {
            let (first, piece) = (item / pieces * CHUNK, item % pieces);
            let count = CHUNK.min(self.group.rows - first);
            // SAFETY: the inputs are not written in this stage.
            let inputs = unsafe { self.inputs(dense, from, first, count) };
            dense.product(crew.isa(), piece, inputs, &mut own.results);
            let columns = dense.piece(piece);
            let (results, bias) = (&own.results[..count], &dense.bias()[columns.clone()]);
            let mut outs: [&mut [f32]; CHUNK] = std::array::from_fn(|row| match row < count {
                true => {
                    let at = (first + row) * dense.outputs();
                    // SAFETY: no other item has these rows and columns.
                    unsafe { to.get_mut(self.room, at + columns.start..at + columns.end) }
                }
                false => &mut [],
            });
            match then {
                Then::Gelu => gelu(crew.isa(), results, bias, &mut outs),
                Then::Store => biased(crew.isa(), results, bias, &mut outs),
                Then::Add => add_biased(crew.isa(), results, bias, &mut outs),
            }
        });
    }

    /// # Safety
    /// Nobody writes the rows meanwhile.
    unsafe fn inputs(&self, dense: &Dense, from: &Rooms<'a, f32>, first: usize, count: usize) -> Activations<'a> {
        let inputs = dense.inputs();
        let rows = |size: usize| first * size..(first + count) * size;
        let (padded, groups) = (padded(inputs), groups(inputs, dense.group()));
        // SAFETY: by the contract.
        unsafe {
            match dense.precision() {
                Precision::F32 => Activations::Floats(Rows {
                    data: from.get(self.room, rows(inputs)),
                    stride: inputs,
                    count,
                }),
                Precision::Int8 => Activations::Bytes(ByteRows {
                    bytes: self.job.buffers.bytes.get(self.room, rows(padded)),
                    scales: self.job.buffers.scales.get(self.room, rows(groups)),
                    offsets: self.job.buffers.offsets.get(self.room, rows(groups)),
                    count,
                }),
            }
        }
    }

    /// An item is a head of a sequence.
    fn attention(&self, crew: &impl Crew, own: &mut Own) {
        let (heads, width) = (self.job.encoder.heads, self.job.encoder.width());
        let (dim, stride) = (width / heads, 3 * width);
        crew.stage(self.group.sequences.len() * heads, |item| {
            let (_, first, tokens) = self.sequence(item / heads);
            let column = item % heads * dim;
            let (start, end) = (first * stride, (first + tokens.len()) * stride);
            // SAFETY: queries, keys and values are not written in this stage.
            let parts = [0, 1, 2].map(|index| unsafe {
                let part = start + index * width + column..end;
                self.job.buffers.qkv.get(self.room, part)
            });
            attend(
                crew.isa(),
                &mut own.attention,
                parts,
                stride,
                tokens.len(),
                dim,
                |row, at, values| {
                    let at = (first + row) * width + column + at;
                    // SAFETY: no other item has this head of these rows.
                    let out = unsafe { self.job.buffers.attended.get_mut(self.room, at..at + values.len()) };
                    copy(out, values);
                },
            );
        });
    }

    /// The vector of each sequence.
    fn pool(&self, crew: &impl Crew) {
        let encoder = self.job.encoder;
        let width = encoder.width();
        crew.stage(self.group.sequences.len(), |place| {
            let (index, first, tokens) = self.sequence(place);
            let rows = match encoder.pooling {
                Pooling::Mean => tokens.len(),
                Pooling::First => 1,
            };
            // SAFETY: an item is a sequence, and hidden states are not written in this stage.
            let vector = unsafe { self.job.vectors.get_mut(index * width..(index + 1) * width) };
            vector.fill(0.0);
            for row in first..first + rows {
                let at = row * width;
                // SAFETY: as above.
                add(vector, unsafe {
                    self.job.buffers.hidden.get(self.room, at..at + width)
                });
            }
            // A vector of zeros stays one.
            let scale = match encoder.normalize {
                true => 1.0 / vector.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-12),
                false => 1.0 / rows as f32,
            };
            vector.iter_mut().for_each(|x| *x *= scale);
        });
    }

    /// Row `row` of the group, in a buffer of `len` elements a row.
    ///
    /// # Safety
    /// Nobody else uses the row meanwhile.
    #[allow(clippy::mut_from_ref, reason = "the contract makes the rows disjoint")]
    unsafe fn row<T>(&self, buffer: &Rooms<'a, T>, row: usize, len: usize) -> &'a mut [T] {
        // SAFETY: by the contract.
        unsafe { buffer.get_mut(self.room, row * len..(row + 1) * len) }
    }
}
