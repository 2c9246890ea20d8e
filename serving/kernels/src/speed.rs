//! How fast products and attention are, for benchmarks: the same code that a step runs, on data that no cache holds.

use crate::activations::Activations;
use crate::attention::{self, Rows, attend, rows_together};
use crate::kv::{KvCache, KvError, KvShape};
use crate::matmul::{Columns, Items, Scratch};
use crate::matrix::{Matrix, PackError};
use crate::pool::{Pool, Shared, Stages};
use crate::roof::read;
use crate::store::Store;
use crate::tensor_type::TensorType;

/// Bytes that a thread reads at once.
const PIECE: usize = 64 << 10;

/// Reads matrices and does nothing with them; gives their bytes.
pub(crate) fn read_all<'a>(pool: &Pool, matrices: impl Iterator<Item = &'a Matrix>) -> usize {
    let parts = matrices.flat_map(Matrix::memory);
    let pieces: Vec<&[u8]> = parts.flat_map(|part| part.chunks(PIECE)).collect();
    pool.run(&mut Stages::new(pool, 1), |member| {
        member.stage(pieces.len(), |index| {
            std::hint::black_box(read(pieces[index]));
        });
    });
    pieces.iter().map(|piece| piece.len()).sum()
}

/// Matrices of one shape, and activations for them.
pub struct Products {
    matrices: Vec<Matrix>,
    activations: Activations,
    out: Vec<f32>,
    stages: Stages,
    tokens: usize,
}

impl Products {
    /// `count` matrices of `rows` x `cols` for `tokens` rows of activations.
    ///
    /// # Errors
    /// If the type has no such rows, or the memory is not to be had.
    pub fn new(
        pool: &Pool,
        ty: TensorType,
        rows: usize,
        cols: usize,
        count: usize,
        tokens: usize,
    ) -> Result<Products, PackError> {
        let row = ty.row_bytes(cols).ok_or(PackError::Columns { ty, cols })?;
        // Quants and scales of all kinds, none of them a number that is slow to compute with.
        let pattern = [0x21u8, 0x2c, 0x57, 0x2a];
        let bytes: Vec<u8> = pattern.into_iter().cycle().take(rows * row).collect();
        let size = Matrix::packed_bytes(ty, rows, cols).unwrap_or(usize::MAX);
        let mut store = Store::new(size.saturating_mul(count))?;
        let matrices = (0..count).map(|_| Matrix::pack(&mut store, ty, rows, cols, &bytes));
        let matrices = matrices.collect::<Result<_, _>>()?;
        let mut activations = Activations::new(tokens, cols, ty.is_float())?;
        let target = activations.target(tokens);
        let values: Vec<f32> = (0..cols).map(|i| (i % 255) as f32 - 127.0).collect();
        for token in 0..tokens {
            // SAFETY: one thread.
            unsafe { target.write(pool.isa(), token, 0, &values) };
        }
        Ok(Products {
            matrices,
            activations,
            out: vec![0.0; tokens * rows],
            stages: Stages::new(pool, count),
            tokens,
        })
    }

    /// Multiply-adds of a run.
    pub fn multiply_adds(&self) -> usize {
        let each = self.matrices.iter().map(|matrix| matrix.rows() * matrix.cols());
        each.sum::<usize>() * self.tokens
    }

    /// Bytes of weights that a run reads.
    pub fn bytes(&self) -> usize {
        self.matrices.iter().map(Matrix::bytes).sum()
    }

    /// Reads all matrices and does nothing with them: what memory alone takes of a run.
    pub fn read(&self, pool: &Pool) {
        read_all(pool, self.matrices.iter());
    }

    /// Multiplies with all matrices, one after the other.
    pub fn run(&mut self, pool: &Pool) {
        let (tokens, target) = (self.tokens, self.activations.target(self.tokens));
        let (matrices, out) = (&self.matrices, Shared::new(&mut self.out));
        pool.run(&mut self.stages, |member| {
            let mut scratch = Scratch::new();
            for matrix in matrices {
                let (items, out) = (Items::new([matrix], tokens), Columns::new(out, matrix.rows()));
                member.stage(items.count(), |index| {
                    let item = items.get(index);
                    // SAFETY: nobody writes the activations.
                    let input = unsafe { target.input() };
                    item.products(member.isa(), matrix, input, &mut scratch, |group, tokens, results| {
                        // SAFETY: no other item has this group and these tokens.
                        unsafe { out.set(member.isa(), group, tokens.start, results, None) };
                    });
                });
            }
        });
    }
}

/// Attention of the last rows of some sequences of equal length, over all layers of a cache.
pub struct Attention {
    cache: KvCache,
    stages: Stages,
    /// Blocks of each sequence: those of all sequences take turns.
    blocks: Vec<Vec<u32>>,
    ratio: usize,
    context: usize,
    rows: usize,
}

impl Attention {
    /// `sequences` of `context` tokens, of which the last `rows` attend to what is before them; `ratio` query heads for
    /// each KV head of `shape`.
    ///
    /// # Errors
    /// If there is no such cache, or no memory for it.
    ///
    /// # Panics
    /// If `rows` is not in 1..=`context`.
    pub fn new(
        pool: &Pool,
        shape: KvShape,
        sequences: usize,
        context: usize,
        rows: usize,
        ratio: usize,
    ) -> Result<Attention, KvError> {
        assert!((1..=context).contains(&rows), "{rows} rows of {context}");
        let each = context.div_ceil(shape.block_tokens.max(1));
        let mut cache = KvCache::new(shape, sequences.saturating_mul(each))?;
        let blocks: Vec<Vec<u32>> = (0..sequences)
            .map(|sequence| (0..each).map(|block| (block * sequences + sequence) as u32).collect())
            .collect();
        let width = shape.kv_heads * shape.head_dim;
        let values: Vec<f32> = (0..width).map(|i| (i % 31) as f32 / 31.0 - 0.5).collect();
        for layer in 0..shape.layers {
            for position in 0..sequences * each * shape.block_tokens {
                let (block, slot) = (position / shape.block_tokens, position % shape.block_tokens);
                cache.write(layer, block as u32, slot, &values, &values);
            }
        }
        Ok(Attention {
            cache,
            stages: Stages::new(pool, shape.layers),
            blocks,
            ratio,
            context,
            rows,
        })
    }

    /// Multiply-adds of a run: of queries with keys, and of weights with values.
    pub fn multiply_adds(&self) -> usize {
        let shape = self.cache.shape();
        let pairs: usize = (self.context - self.rows + 1..=self.context).sum();
        2 * pairs * self.blocks.len() * shape.layers * shape.kv_heads * self.ratio * shape.head_dim
    }

    /// Bytes of keys and values.
    pub fn bytes(&self) -> usize {
        self.cache.blocks() * self.cache.shape().block_bytes().unwrap_or(usize::MAX)
    }

    /// Attends once, layer after layer.
    pub fn run(&mut self, pool: &Pool) {
        let KvShape {
            layers,
            kv_heads,
            head_dim,
            ..
        } = self.cache.shape();
        let (ratio, rows, first) = (self.ratio, self.rows, self.context - self.rows);
        let together = rows_together(ratio);
        let runs = rows.div_ceil(together);
        let (cache, blocks) = (self.cache.shared(), &self.blocks);
        pool.run(&mut self.stages, |member| {
            let mut scratch = attention::Scratch::default();
            for layer in 0..layers {
                let count = blocks.len() * runs * kv_heads;
                let item = |index: usize| {
                    let (run, head) = (index / kv_heads, index % kv_heads);
                    let skip = run % runs * together;
                    let rows = Rows {
                        blocks: &blocks[run / runs],
                        position: first + skip,
                        window: usize::MAX,
                        count: together.min(rows - skip),
                    };
                    (head, rows)
                };
                member.stage(count, |index| {
                    let (head, rows) = item(index);
                    let next = (index + 1 < count).then(|| item(index + 1));
                    scratch.begin(rows.count, ratio, head_dim).fill(0.1);
                    // SAFETY: nobody writes to the cache.
                    unsafe { attend(member.isa(), cache, layer, head, rows, next, &mut scratch) };
                });
            }
        });
    }
}
