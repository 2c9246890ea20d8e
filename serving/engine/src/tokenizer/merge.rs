//! The merge loop that both tokenizer models share: neighbours join in order of priority, the leftmost
//! first among equals, until no pair can join. n symbols take O(n log n).
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A stretch of the text that is, or may become, a token.
#[derive(Debug, Clone, Copy)]
pub struct Symbol {
    /// Its token, or [`NO_TOKEN`].
    pub token: u32,
    /// First byte in the text.
    pub start: u32,
    /// One past its last byte.
    pub end: u32,
    prev: u32,
    next: u32,
    // The priority of joining with `next`: a queue entry is stale unless it says the same.
    rank: u32,
    joined: u32,
}

/// For text that has no token.
pub const NO_TOKEN: u32 = u32::MAX;

const NONE: u32 = u32::MAX;

/// Working memory, kept between calls.
#[derive(Debug, Default)]
pub struct Merger {
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Reverse<(u32, u32)>>,
}

impl Merger {
    /// Joins `initial` symbols (token, start, end; adjacent, in order). `pair` gives the priority
    /// (lower first, never `u32::MAX`) and the token of two neighbours that may join.
    pub fn merge(
        &mut self,
        initial: impl Iterator<Item = (u32, u32, u32)>,
        pair: impl Fn(&Symbol, &Symbol) -> Option<(u32, u32)>,
    ) -> impl Iterator<Item = &Symbol> {
        self.symbols.clear();
        self.queue.clear();
        for (index, (token, start, end)) in initial.enumerate() {
            let index = index as u32;
            let prev = index.checked_sub(1).unwrap_or(NONE);
            self.symbols.push(Symbol {
                token,
                start,
                end,
                prev,
                next: index + 1,
                rank: NONE,
                joined: NO_TOKEN,
            });
        }
        if let Some(last) = self.symbols.last_mut() {
            last.next = NONE;
        }
        for index in 0..self.symbols.len() as u32 {
            self.offer(index, &pair);
        }
        while let Some(Reverse((rank, left))) = self.queue.pop() {
            if self.symbols[left as usize].rank != rank {
                continue;
            }
            self.join(left);
            self.offer(left, &pair);
            let prev = self.symbols[left as usize].prev;
            if prev != NONE {
                self.offer(prev, &pair);
            }
        }
        let symbols = &self.symbols;
        std::iter::successors(symbols.first(), move |symbol| symbols.get(symbol.next as usize))
    }

    fn offer(&mut self, left: u32, pair: &impl Fn(&Symbol, &Symbol) -> Option<(u32, u32)>) {
        let symbol = self.symbols[left as usize];
        let found = match self.symbols.get(symbol.next as usize) {
            Some(next) => pair(&symbol, next),
            None => None,
        };
        let (rank, joined) = found.unwrap_or((NONE, NO_TOKEN));
        let symbol = &mut self.symbols[left as usize];
        (symbol.rank, symbol.joined) = (rank, joined);
        if rank != NONE {
            self.queue.push(Reverse((rank, left)));
        }
    }

    fn join(&mut self, left: u32) {
        let right = self.symbols[left as usize].next;
        let Symbol { end, next, .. } = self.symbols[right as usize];
        self.symbols[right as usize].rank = NONE;
        let symbol = &mut self.symbols[left as usize];
        (symbol.token, symbol.end, symbol.next) = (symbol.joined, end, next);
        if next != NONE {
            self.symbols[next as usize].prev = left;
        }
    }
}
