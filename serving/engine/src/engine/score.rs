//! What the arithmetic is measured with: its quality by the logits after every token of a text, its speed by what
//! memory alone would take. Nothing that serves calls these.
use windlass_kernels::Want;

use super::Engine;
use crate::request::{AdmitError, Request, RequestId};

impl Engine {
    /// Gives `each` the logits of the next token after each of `tokens`, in order, computed one by one.
    ///
    /// # Panics
    /// If requests live: they may hold the blocks that this needs.
    pub fn score(&mut self, tokens: &[u32], mut each: impl FnMut(&[f32])) -> Result<(), AdmitError> {
        assert!(!self.has_work(), "requests live");
        self.check_prompt(tokens)?;
        let mut sequence = self
            .scheduler
            .sequence(Request::new(RequestId(u64::MAX), tokens.to_vec(), 1));
        let blocks = tokens.len().div_ceil(self.cache.shape().block_tokens);
        assert!(sequence.table.grow(blocks), "the context is larger than the cache");
        for (position, &token) in tokens.iter().enumerate() {
            self.batch.clear();
            self.batch
                .push(&[token], position, sequence.table.blocks(), Want::Logits);
            self.weights
                .forward(&self.threads, &mut self.cache, &mut self.workspace, &self.batch);
            each(self.workspace.logits(0).unwrap_or_default());
        }
        Ok(())
    }

    /// Reads all weights that a step reads, and does nothing with them; gives their bytes.
    pub fn read_weights(&self) -> usize {
        self.weights.read_weights(&self.threads)
    }
}
