//! What one step computes: rows of tokens of any number of sequences, where each stands, and which rows give a next
//! token. Filled anew for every step; nothing is allocated once it has had its largest size.

use std::ops::Range;

/// What is wanted of a sequence's tokens, of the last one if not said otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// Nothing: more of the prompt follows in a later step.
    Nothing,
    /// The most likely next token.
    Best,
    /// The most likely token after each of them.
    Each,
    /// All logits, and the most likely token.
    Logits,
    /// The same after each of them.
    EachLogits,
}

/// The tokens of one step.
#[derive(Debug, Default)]
pub struct Batch {
    pub(crate) rows: Vec<Row>,
    pub(crate) parts: Vec<Part>,
    pub(crate) outputs: Vec<Output>,
    pub(crate) logits: usize,
    blocks: Vec<u32>,
}

/// One token.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    pub(crate) token: u32,
    pub(crate) position: usize,
    /// Which part it belongs to.
    pub(crate) part: usize,
}

/// Neighbouring tokens of one sequence.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub(crate) rows: Range<usize>,
    /// Position of the first row.
    pub(crate) position: usize,
    blocks: Range<usize>,
}

/// A row that gives a token.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    pub(crate) row: usize,
    /// Where its logits go, if they are wanted.
    pub(crate) logits: Option<usize>,
}

impl Batch {
    /// Forgets all.
    pub fn clear(&mut self) {
        self.rows.clear();
        self.parts.clear();
        self.outputs.clear();
        self.blocks.clear();
        self.logits = 0;
    }

    /// Adds tokens of one sequence, the first at `position`; `blocks` are the blocks of the sequence from its
    /// beginning, with room for them.
    pub fn push(&mut self, tokens: &[u32], position: usize, blocks: &[u32], want: Want) {
        let first = self.rows.len();
        let part = self.parts.len();
        let rows = tokens.iter().zip(position..);
        self.rows
            .extend(rows.map(|(&token, position)| Row { token, position, part }));
        let start = self.blocks.len();
        self.blocks.extend(blocks);
        self.parts.push(Part {
            rows: first..self.rows.len(),
            position,
            blocks: start..self.blocks.len(),
        });
        let outputs = match want {
            Want::Nothing => self.rows.len()..self.rows.len(),
            Want::Best | Want::Logits => first.max(self.rows.len().saturating_sub(1))..self.rows.len(),
            Want::Each | Want::EachLogits => first..self.rows.len(),
        };
        for row in outputs {
            let logits = matches!(want, Want::Logits | Want::EachLogits).then_some(self.logits);
            self.logits += usize::from(logits.is_some());
            self.outputs.push(Output { row, logits });
        }
    }

    /// Tokens.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is nothing to compute.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The blocks of a part's sequence.
    pub(crate) fn blocks(&self, part: &Part) -> &[u32] {
        &self.blocks[part.blocks.clone()]
    }
}
