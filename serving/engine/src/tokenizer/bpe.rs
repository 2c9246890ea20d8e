//! Byte-pair encoding over bytes (`tokenizer.ggml.model` = `gpt2`). The file writes each byte as one
//! printable character; that alphabet ends here: inside, symbols are token ids.
use std::collections::HashMap;

use super::merge::{Merger, NO_TOKEN};
use super::split::SplitRule;
use super::vocabulary::Vocabulary;
use crate::load::gguf::{Gguf, GgufError};

const MERGES: &str = "tokenizer.ggml.merges";

/// The merge table of one vocabulary.
#[derive(Debug)]
pub struct Bpe {
    rule: SplitRule,
    bytes: [u32; 256],
    // (left, right) -> (rank, joined)
    merges: HashMap<(u32, u32), (u32, u32)>,
    // Pieces that are a token as a whole, by their bytes; empty unless the model looks there first.
    whole: HashMap<Box<[u8]>, u32>,
}

impl Bpe {
    /// Reads the merges; `whole_first` says that a piece that is a token is not merged at all.
    pub fn read(gguf: &Gguf, vocabulary: &Vocabulary, rule: SplitRule, whole_first: bool) -> Result<Self, GgufError> {
        let ids = vocabulary.ordinary_ids();
        let alphabet = byte_alphabet();
        let mut buffer = [0u8; 4];
        let bytes = alphabet.map(|char| ids.get(&*char.encode_utf8(&mut buffer)).copied().unwrap_or(NO_TOKEN));

        let mut merges = HashMap::new();
        let mut joined = String::new();
        for (rank, merge) in gguf.texts(MERGES)?.iter().enumerate() {
            let refuse = |problem: &str| gguf.metadata_error(MERGES, format!("entry {rank} (`{merge}`) {problem}"));
            let (left, right) = merge.split_once(' ').ok_or_else(|| refuse("is not two texts"))?;
            joined.clear();
            joined.extend([left, right]);
            let id = |text: &str| {
                ids.get(text)
                    .copied()
                    .ok_or_else(|| refuse(&format!("needs the token `{text}`")))
            };
            let pair = (id(left)?, id(right)?);
            let joined = id(&joined)?;
            merges.entry(pair).or_insert((rank as u32, joined));
        }
        let whole = match whole_first {
            false => HashMap::new(),
            true => ids
                .iter()
                .filter_map(|(text, &id)| Some((decode(text)?.into(), id)))
                .collect(),
        };
        Ok(Self {
            rule,
            bytes,
            merges,
            whole,
        })
    }

    /// Appends the tokens of `text`. A byte that the vocabulary lacks yields no token (the models with
    /// such holes never saw that byte, and have nothing to stand for it).
    pub fn encode(&self, text: &str, merger: &mut Merger, tokens: &mut Vec<u32>) {
        self.rule.split(text, |piece| {
            if let Some(&token) = self.whole.get(piece.as_bytes()) {
                tokens.push(token);
                return;
            }
            let symbols = piece
                .bytes()
                .zip(0u32..)
                .map(|(byte, at)| (self.bytes[usize::from(byte)], at, at + 1));
            let merged = merger.merge(symbols, |left, right| {
                self.merges.get(&(left.token, right.token)).copied()
            });
            tokens.extend(merged.map(|symbol| symbol.token).filter(|&token| token != NO_TOKEN));
        });
    }
}

/// The bytes that a token's text stands for; `None` if it is not written in the byte alphabet.
pub fn decode(text: &str) -> Option<Vec<u8>> {
    text.chars().map(byte_of).collect()
}

/// The character that stands for each byte: printable Latin-1 for itself, the rest from U+0100 up.
fn byte_alphabet() -> [char; 256] {
    let mut next = 0x100u32;
    std::array::from_fn(|byte| match byte as u8 {
        printable @ (b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff) => char::from(printable),
        _ => {
            let stand_in = char::from_u32(next).unwrap_or(char::REPLACEMENT_CHARACTER);
            next += 1;
            stand_in
        }
    })
}

fn byte_of(char: char) -> Option<u8> {
    match char as u32 {
        code @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => Some(code as u8),
        // In order: 0x00..=0x20, 0x7f..=0xa0, 0xad.
        code @ 0x100..=0x120 => Some((code - 0x100) as u8),
        code @ 0x121..=0x142 => Some((code - 0x121 + 0x7f) as u8),
        0x143 => Some(0xad),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_has_a_way_back_for_every_byte() {
        for (byte, char) in byte_alphabet().into_iter().enumerate() {
            assert_eq!(byte_of(char), Some(byte as u8));
        }
        assert_eq!(decode("Ġt"), Some(b" t".to_vec()));
        assert_eq!(decode("日"), None);
    }
}
