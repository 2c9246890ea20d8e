//! The SentencePiece-like model of Llama-class files (`tokenizer.ggml.model` = `llama`): any two
//! neighbours whose joined text is a token may join, the best score first; what is no token at the end
//! becomes byte tokens.
use std::collections::HashMap;

use super::merge::{Merger, NO_TOKEN};
use super::vocabulary::{TokenKind, Vocabulary};
use crate::load::gguf::{Gguf, GgufError};

/// The mark that stands for a space in the file's texts.
pub const SPACE_MARK: char = '\u{2581}';

/// Bytes of a token's text: each join looks for a text that may be as long. Models have less than a hundred.
const MAX_TEXT_BYTES: usize = 512;
const TEXTS: &str = "tokenizer.ggml.tokens";

/// Token texts with their scores.
#[derive(Debug)]
pub struct Spm {
    // text -> (token, rank), where a lower rank is a higher score
    tokens: HashMap<Box<str>, (u32, u32)>,
    bytes: [u32; 256],
    add_space_prefix: bool,
}

impl Spm {
    /// Reads scores and byte tokens.
    pub fn read(gguf: &Gguf, vocabulary: &Vocabulary) -> Result<Self, GgufError> {
        const SCORES: &str = "tokenizer.ggml.scores";
        let scores = gguf.find_numbers(SCORES)?.and_then(|numbers| numbers.to_f32s());
        let scores = scores
            .filter(|scores| scores.len() == vocabulary.len() && scores.iter().all(|score| !score.is_nan()))
            .ok_or_else(|| gguf.metadata_error(SCORES, "must hold one number for each token"))?;
        let tokens = vocabulary.ordinary_ids();
        if let Some((text, token)) = tokens.iter().find(|(text, _)| text.len() > MAX_TEXT_BYTES) {
            let bytes = text.len();
            let problem = format!("has a text of {bytes} bytes, token {token}; {MAX_TEXT_BYTES} are supported");
            return Err(gguf.metadata_error(TEXTS, problem));
        }
        let tokens = tokens
            .into_iter()
            .map(|(text, token)| (text.into(), (token, rank(scores[token as usize]))))
            .collect();

        let unknown = vocabulary
            .iter()
            .find(|(.., kind)| *kind == TokenKind::Unknown)
            .map(|(id, ..)| id);
        let mut bytes = [unknown.unwrap_or(NO_TOKEN); 256];
        for (token, text, kind) in vocabulary.iter() {
            if kind == TokenKind::Byte {
                let byte = byte_of(text)
                    .ok_or_else(|| gguf.metadata_error(TEXTS, format!("has the byte token `{text}`, not `<0xNN>`")))?;
                bytes[usize::from(byte)] = token;
            }
        }
        let add_space_prefix = gguf.find_bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
        Ok(Self {
            tokens,
            bytes,
            add_space_prefix,
        })
    }

    /// Appends the tokens of `text`; `after_special` says that a special token, or nothing, is before it.
    pub fn encode(&self, text: &str, after_special: bool, merger: &mut Merger, tokens: &mut Vec<u32>) {
        let mut marked = String::with_capacity(text.len() + 4);
        if self.add_space_prefix && after_special {
            marked.push(SPACE_MARK);
        }
        marked.extend(text.chars().map(|char| if char == ' ' { SPACE_MARK } else { char }));

        let symbols = marked.char_indices().map(|(at, char)| {
            let end = at + char.len_utf8();
            let token = self.tokens.get(&marked[at..end]).map_or(NO_TOKEN, |&(token, _)| token);
            (token, at as u32, end as u32)
        });
        let merged = merger.merge(symbols, |left, right| {
            let joined = &marked[left.start as usize..right.end as usize];
            self.tokens.get(joined).map(|&(token, rank)| (rank, token))
        });
        for symbol in merged {
            if symbol.token != NO_TOKEN {
                tokens.push(symbol.token);
                continue;
            }
            let bytes = marked[symbol.start as usize..symbol.end as usize].bytes();
            tokens.extend(
                bytes
                    .map(|byte| self.bytes[usize::from(byte)])
                    .filter(|&token| token != NO_TOKEN),
            );
        }
    }
}

/// The byte that `<0xNN>` stands for.
pub fn byte_of(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() != 2 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    u8::from_str_radix(digits, 16).ok()
}

/// Orders scores from the best down, below `u32::MAX`.
fn rank(score: f32) -> u32 {
    // -0.0 + 0.0 is 0.0: both zeros are one score.
    let bits = (score + 0.0).to_bits();
    // Flip so that unsigned order is numeric order (IEEE 754, 5.10), then turn it around.
    let ascending = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    !ascending
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_better_score_ranks_lower() {
        let scores = [f32::INFINITY, 10.0, 0.5, 0.0, -1e-9, -1.0, -1000.0, f32::NEG_INFINITY];
        let ranks = scores.map(rank);
        assert!(ranks.is_sorted_by(|a, b| a < b), "{ranks:?}");
        assert_eq!(rank(-0.0), rank(0.0));
        assert!(ranks[7] < u32::MAX);
    }

    #[test]
    fn byte_tokens_are_read_from_their_notation_only() {
        assert_eq!(byte_of("<0x0A>"), Some(10));
        assert_eq!(byte_of("<0x+A>"), None);
        assert_eq!(byte_of("<0x0AB>"), None);
    }
}
