//! The prompt at the beginning of an answer, with the probabilities of its tokens if they are asked for.
use crate::input::Prompt;
use crate::logprobs::Scored;
use crate::text::TextAssembler;
use windlass_engine::request::Logprobs;
use windlass_engine::tokenizer::Tokenizer;

/// A prompt that is to be shown once all that is to be said of it is known.
#[derive(Debug)]
pub struct Echo {
    text: String,
    /// Those whose probabilities are still to come, the next one last, with the characters of the text before each.
    awaited: Vec<(u32, usize)>,
    scored: Vec<Scored>,
}

impl Echo {
    /// `with_logprobs`: those of its tokens come with it.
    pub fn new(prompt: &Prompt, tokenizer: &Tokenizer, with_logprobs: bool) -> Self {
        let mut echo = Self {
            text: prompt.text.clone(),
            awaited: Vec::new(),
            scored: Vec::new(),
        };
        if with_logprobs {
            let placed = prompt.tokens.iter().copied().zip(offsets(prompt, tokenizer));
            echo.awaited.extend(placed);
            echo.awaited.reverse();
            // Nothing is before the first: it has no probability.
            echo.add(tokenizer, [None]);
        }
        echo
    }

    /// Takes the probabilities of the next tokens.
    pub fn add<'a>(&mut self, tokenizer: &Tokenizer, logprobs: impl IntoIterator<Item = Option<&'a Logprobs>>) {
        for logprobs in logprobs {
            if let Some((token, offset)) = self.awaited.pop() {
                self.scored.push(Scored::new(tokenizer, token, offset, logprobs));
            }
        }
    }

    /// Whether all is known.
    pub fn is_complete(&self) -> bool {
        self.awaited.is_empty()
    }

    /// Characters of the text.
    pub fn characters(&self) -> usize {
        self.text.chars().count()
    }

    /// The text, and its tokens.
    pub fn finish(self) -> (String, Vec<Scored>) {
        (self.text, self.scored)
    }
}

/// For each token the characters of the prompt's text that are complete before it.
fn offsets(prompt: &Prompt, tokenizer: &Tokenizer) -> Vec<usize> {
    let pieces = prompt.tokens.iter().map(|&token| tokenizer.piece_with_special(token));
    if tokenizer.decode(&prompt.tokens) == prompt.text {
        return place(pieces);
    }
    // The tokenizer put something before the text: a token that begins it, or a space before the first word.
    let mut rest = prompt.text.as_bytes();
    place(pieces.map(|piece| {
        let word = piece.strip_prefix(b" ").unwrap_or(piece);
        let shown = [piece, word].into_iter().find(|shown| rest.starts_with(shown));
        let (shown, after) = rest.split_at(shown.map_or(0, <[u8]>::len));
        rest = after;
        shown
    }))
}

/// For each of the pieces that make up a text, the characters that are complete before it.
fn place<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<usize> {
    let mut text = TextAssembler::default();
    let place = |piece| {
        let offset = text.characters();
        text.push(piece);
        offset
    };
    pieces.map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_begins_after_the_characters_that_are_complete() {
        let pieces: [&[u8]; 5] = [b"a\xF0\x9F", b"\x98", b"\x80b", b"", b"\xFFc"];
        assert_eq!(place(pieces.into_iter()), [0, 1, 1, 3, 3]);
    }
}
