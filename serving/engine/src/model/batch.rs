//! The rows of one step: tokens of several sequences, prompts and single next tokens side by side.

/// One token to compute.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    /// Its id, inside the vocabulary.
    pub token: u32,
    /// Its place in its sequence.
    pub position: usize,
    /// The cache blocks of its sequence, in order, up to at least this position. Rows of one sequence
    /// borrow the same slice: that is how attention knows that they belong together.
    pub blocks: &'a [u32],
}

/// The rows of a step and which of them need logits.
#[derive(Debug, Clone, Default)]
pub struct Batch<'a> {
    /// Rows of one sequence are neighbours, in order of position.
    pub rows: Vec<Row<'a>>,
    /// Indices into `rows`, ascending.
    pub wanted: Vec<usize>,
}
