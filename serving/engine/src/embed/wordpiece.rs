//! Text to tokens as BERT does it, from a `tokenizer.json`: text is cleaned and split at white space and punctuation,
//! and each word is cut greedily into the longest pieces of the vocabulary. Whatever else the file asks for is refused by
//! name: other tokens would be a wrong answer.
mod file;
mod pieces;
mod rules;

use pieces::Pieces;
use rules::{Rules, is_punctuation};

use crate::tokenizer::special::{Segment, SpecialTokens};

/// A tokenizer.
#[derive(Debug)]
pub struct WordPiece {
    /// Pieces that begin a word.
    first: Pieces,
    /// Pieces that continue one, without their prefix.
    next: Pieces,
    unknown: u32,
    max_word_chars: usize,
    rules: Rules,
    /// Texts that are tokens wherever they stand.
    special: SpecialTokens,
    before: Vec<u32>,
    after: Vec<u32>,
    largest_token: u32,
}

impl WordPiece {
    /// The largest token that a text can have.
    pub fn largest_token(&self) -> u32 {
        self.largest_token
    }

    /// Tokens that every text has around its own.
    pub fn frame(&self) -> usize {
        self.before.len() + self.after.len()
    }

    /// The tokens of a text, those around it included.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let mut tokens = self.before.clone();
        self.special.split(text, true, |segment| match segment {
            Segment::Text(text) => self.plain(text, &mut tokens),
            Segment::Special(token) => tokens.push(token),
        });
        tokens.extend(&self.after);
        tokens
    }

    /// Shortens the tokens of a text to `limit` from the end, but for those around it. For a limit that these alone
    /// exceed, they stay.
    pub fn truncate(&self, tokens: &mut Vec<u32>, limit: usize) {
        let after = tokens.len() - self.after.len();
        let keep = limit.max(self.frame()) - self.after.len();
        if keep < after {
            tokens.drain(keep..after);
        }
    }

    fn plain(&self, text: &str, tokens: &mut Vec<u32>) {
        let text = self.rules.apply(text);
        for word in text.split(char::is_whitespace) {
            let mut rest = word;
            while let Some(char) = rest.chars().next() {
                let end = if is_punctuation(char) {
                    char.len_utf8()
                } else {
                    rest.find(is_punctuation).unwrap_or(rest.len())
                };
                self.word(&rest[..end], tokens);
                rest = &rest[end..];
            }
        }
    }

    fn word(&self, word: &str, tokens: &mut Vec<u32>) {
        let start = tokens.len();
        if word.chars().count() > self.max_word_chars {
            return tokens.push(self.unknown);
        }
        let mut rest = word;
        let mut pieces = &self.first;
        while !rest.is_empty() {
            let Some((end, token)) = pieces.longest(rest) else {
                tokens.truncate(start);
                return tokens.push(self.unknown);
            };
            tokens.push(token);
            rest = &rest[end..];
            pieces = &self.next;
        }
    }
}

#[cfg(test)]
mod tests;
