//! The memory of the forward pass, made once.

use super::{Encoder, EncoderLayer, attention};
use crate::buffer::{Buffer, OutOfMemory};
use crate::dense::{LANES, Outputs, TOGETHER, groups, padded};
use crate::pool::{Pool, Shared, Stages};
use std::ops::Range;

/// Rows of a group, unless a single sequence is longer: what a thread keeps of them fits into its own cache, and the
/// weights, which come from further away, are used for so many.
pub(super) const GROUP_ROWS: usize = 64;
/// Rows that are multiplied with a piece of the weights at once.
pub(super) const CHUNK: usize = 64;

/// Working memory for batches of any size, of sequences up to a length.
pub struct EncoderWork {
    stages: Stages,
    hidden: Buffer<f32>,
    qkv: Buffer<f32>,
    attended: Buffer<f32>,
    inner: Buffer<f32>,
    bytes: Buffer<u8>,
    scales: Buffer<f32>,
    offsets: Buffer<f32>,
    own: Vec<Own>,
    /// The sequences from the longest to the shortest.
    order: Vec<usize>,
    groups: Vec<Group>,
    longest: usize,
    sizes: Sizes,
}

/// Neighbours in the order, computed together.
#[derive(Debug, Clone)]
pub(super) struct Group {
    pub(super) sequences: Range<usize>,
    pub(super) rows: usize,
}

/// Elements of a row in each buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sizes {
    width: usize,
    inner: usize,
    bytes: usize,
    groups: usize,
}

/// The rows of all groups that are computed at the same time: each thread has room for a group.
pub(super) struct Buffers<'a> {
    /// rows x width.
    pub(super) hidden: Rooms<'a, f32>,
    /// rows x 3 widths.
    pub(super) qkv: Rooms<'a, f32>,
    /// rows x width.
    pub(super) attended: Rooms<'a, f32>,
    /// rows x inner.
    pub(super) inner: Rooms<'a, f32>,
    /// The inputs of the next layer as bytes, with their scales and offsets.
    pub(super) bytes: Rooms<'a, u8>,
    pub(super) scales: Rooms<'a, f32>,
    pub(super) offsets: Rooms<'a, f32>,
    pub(super) own: Shared<'a, Own>,
}

/// A buffer of rows for each thread. How long rows are is the business of those who use a room.
pub(super) struct Rooms<'a, T> {
    all: Shared<'a, T>,
    /// Elements of a room.
    each: usize,
}

/// What a thread has for itself in every case.
pub(super) struct Own {
    pub(super) attention: attention::Scratch,
    pub(super) results: Vec<Outputs>,
}

/// All that a batch needs.
pub(super) struct Parts<'a> {
    pub(super) stages: &'a mut Stages,
    pub(super) buffers: Buffers<'a>,
    pub(super) order: &'a [usize],
    pub(super) groups: &'a [Group],
}

impl EncoderWork {
    pub(super) fn new(encoder: &Encoder, pool: &Pool, longest: usize) -> Result<EncoderWork, OutOfMemory> {
        assert!(
            longest <= encoder.max_positions(),
            "a sequence longer than the positions"
        );
        let sizes = Sizes::of(encoder);
        let overflow = OutOfMemory { bytes: usize::MAX };
        let rows = GROUP_ROWS.max(longest).checked_mul(pool.threads()).ok_or(overflow)?;
        let size = |columns: usize| rows.checked_mul(columns).ok_or(overflow);
        let own = || Own {
            attention: attention::Scratch::new(longest, encoder.width() / encoder.heads),
            results: vec![[0.0; LANES * TOGETHER]; CHUNK],
        };
        Ok(EncoderWork {
            stages: Stages::new(pool, encoder.stages()),
            hidden: Buffer::zeroed(size(sizes.width)?)?,
            qkv: Buffer::zeroed(size(3 * sizes.width)?)?,
            attended: Buffer::zeroed(size(sizes.width)?)?,
            inner: Buffer::zeroed(size(sizes.inner)?)?,
            bytes: Buffer::zeroed(size(sizes.bytes)?)?,
            scales: Buffer::zeroed(size(sizes.groups)?)?,
            offsets: Buffer::zeroed(size(sizes.groups)?)?,
            own: (0..pool.threads()).map(|_| own()).collect(),
            order: Vec::new(),
            groups: Vec::new(),
            longest,
            sizes,
        })
    }

    /// Bytes that such memory takes for `threads` threads and a model of these sizes, or somewhat more.
    pub fn bytes(threads: usize, width: usize, inner: usize, longest: usize) -> u64 {
        let rows = GROUP_ROWS.max(longest) as u64;
        // Hidden states, qkv, the attention's results, the inner states, and bytes of the longest of them.
        let columns = 5 * width as u64 + inner as u64 + padded(width.max(inner)) as u64 / 4;
        // The attention of a thread: keys, values, and a chunk's scores.
        let attention = rows.saturating_mul(2 * width as u64 + 2 * attention::CHUNK as u64);
        let each = rows.saturating_mul(columns).saturating_add(attention);
        each.saturating_mul(4).saturating_mul(threads as u64)
    }

    /// Cuts a batch into groups.
    pub(super) fn begin(&mut self, encoder: &Encoder, sequences: &[&[u32]]) -> Parts<'_> {
        assert_eq!(self.sizes, Sizes::of(encoder), "working memory of another model");
        let fits = |sequence: &&[u32]| (1..=self.longest).contains(&sequence.len());
        assert!(sequences.iter().all(fits), "sequences of 1 to {} tokens", self.longest);
        self.order.clear();
        self.order.extend(0..sequences.len());
        self.order
            .sort_by_key(|&index| std::cmp::Reverse(sequences[index].len()));
        self.groups.clear();
        for (place, &index) in self.order.iter().enumerate() {
            let len = sequences[index].len();
            match self.groups.last_mut() {
                Some(group) if group.rows + len <= GROUP_ROWS => {
                    group.rows += len;
                    group.sequences.end = place + 1;
                }
                _ => self.groups.push(Group {
                    sequences: place..place + 1,
                    rows: len,
                }),
            }
        }
        let threads = self.own.len();
        Parts {
            stages: &mut self.stages,
            buffers: Buffers {
                hidden: Rooms::new(&mut self.hidden, threads),
                qkv: Rooms::new(&mut self.qkv, threads),
                attended: Rooms::new(&mut self.attended, threads),
                inner: Rooms::new(&mut self.inner, threads),
                bytes: Rooms::new(&mut self.bytes, threads),
                scales: Rooms::new(&mut self.scales, threads),
                offsets: Rooms::new(&mut self.offsets, threads),
                own: Shared::new(&mut self.own),
            },
            order: &self.order,
            groups: &self.groups,
        }
    }
}

/// Groups of the rows that any layer takes.
fn most_groups(encoder: &Encoder) -> usize {
    let all = encoder.layers.iter().flat_map(EncoderLayer::dense);
    all.map(|dense| groups(dense.inputs(), dense.group()))
        .max()
        .unwrap_or(0)
}

impl Sizes {
    fn of(encoder: &Encoder) -> Sizes {
        let inputs = encoder.inner().max(encoder.width());
        let is_bytes = encoder.is_bytes();
        Sizes {
            width: encoder.width(),
            inner: encoder.inner(),
            bytes: if is_bytes { padded(inputs) } else { 0 },
            groups: if is_bytes { most_groups(encoder) } else { 0 },
        }
    }
}

impl<'a, T> Rooms<'a, T> {
    fn new(all: &'a mut [T], threads: usize) -> Rooms<'a, T> {
        Rooms {
            each: all.len() / threads,
            all: Shared::new(all),
        }
    }

    /// A part of a room.
    ///
    /// # Safety
    /// Nobody writes there for as long as the result lives.
    pub(super) unsafe fn get(&self, room: usize, range: Range<usize>) -> &'a [T] {
        // SAFETY: by the contract.
        unsafe { self.all.get(self.place(room, range)) }
    }

    /// # Safety
    /// Nobody else reads or writes there for as long as the result lives.
    #[allow(clippy::mut_from_ref, reason = "the contract makes the parts disjoint")]
    pub(super) unsafe fn get_mut(&self, room: usize, range: Range<usize>) -> &'a mut [T] {
        // SAFETY: by the contract.
        unsafe { self.all.get_mut(self.place(room, range)) }
    }

    fn place(&self, room: usize, range: Range<usize>) -> Range<usize> {
        assert!(range.end <= self.each, "outside the room");
        room * self.each + range.start..room * self.each + range.end
    }
}
