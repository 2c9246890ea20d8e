//! The tokens with which a model is asked to fill a hole in a text: prefix, suffix, then the middle, which it writes
//! (Bavarian et al., "Efficient training of language models to fill in the middle", 2022).
use super::token_id;
use super::vocabulary::Vocabulary;
use crate::load::gguf::{Gguf, GgufError};

/// What stands before each of the three parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HoleMarks {
    prefix: u32,
    suffix: u32,
    middle: u32,
}

/// Keys of today's files, and of those before them.
const KEYS: [[&str; 3]; 2] = [
    [
        "tokenizer.ggml.fim_pre_token_id",
        "tokenizer.ggml.fim_suf_token_id",
        "tokenizer.ggml.fim_mid_token_id",
    ],
    [
        "tokenizer.ggml.prefix_token_id",
        "tokenizer.ggml.suffix_token_id",
        "tokenizer.ggml.middle_token_id",
    ],
];

/// Names in the published vocabularies: most files have no keys.
const NAMES: [[&str; 3]; 5] = [
    ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"],
    ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"],
    ["<fim-prefix>", "<fim-suffix>", "<fim-middle>"],
    ["<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"],
    ["▁<PRE>", "▁<SUF>", "▁<MID>"],
];

impl HoleMarks {
    /// Those of a model file, if its model knows any.
    pub fn read(gguf: &Gguf, vocabulary: &Vocabulary) -> Result<Option<Self>, GgufError> {
        for keys in KEYS {
            let mut ids = [None; 3];
            for (id, key) in ids.iter_mut().zip(keys) {
                *id = token_id(gguf, key, vocabulary)?;
            }
            if let Some(marks) = Self::new(ids) {
                return Ok(Some(marks));
            }
        }
        Ok(Self::by_name(vocabulary.iter().map(|(id, text, _)| (id, text))))
    }

    fn by_name<'a>(tokens: impl Iterator<Item = (u32, &'a str)>) -> Option<Self> {
        let mut found = [[None; 3]; NAMES.len()];
        for (token, text) in tokens {
            for (names, ids) in NAMES.iter().zip(&mut found) {
                if let Some(part) = names.iter().position(|name| *name == text) {
                    ids[part] = Some(token);
                }
            }
        }
        found.into_iter().find_map(Self::new)
    }

    fn new(ids: [Option<u32>; 3]) -> Option<Self> {
        let [Some(prefix), Some(suffix), Some(middle)] = ids else {
            return None;
        };
        Some(Self { prefix, suffix, middle })
    }

    /// The prompt whose answer is the middle.
    pub fn around(&self, prefix: &[u32], suffix: &[u32]) -> Vec<u32> {
        [&[self.prefix], prefix, &[self.suffix], suffix, &[self.middle]].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_found_by_name_when_all_three_are_there() {
        let texts = ["a", "<fim_middle>", "<fim_prefix>", "<|fim_prefix|>", "<fim_suffix>"];
        let marks = HoleMarks::by_name((0..).zip(texts)).unwrap();
        assert_eq!(marks.around(&[7, 8], &[9]), [2, 7, 8, 4, 9, 1]);
        assert_eq!(
            HoleMarks::by_name((0..).zip(&texts[..4]).map(|(id, text)| (id, *text))),
            None
        );
    }
}
