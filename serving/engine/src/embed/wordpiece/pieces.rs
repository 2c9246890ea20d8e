//! The pieces that words are cut into, and the longest that a word begins with.

/// Pieces in the order of their bytes: those that a text begins with are the last one that is not behind the text, as
/// far as it is a beginning, and the beginnings of that one. So the work does not depend on how many are long.
#[derive(Debug)]
pub struct Pieces(Vec<Piece>);

#[derive(Debug)]
struct Piece {
    text: Box<str>,
    token: u32,
    /// The place of the longest other piece that this one begins with.
    beginning: Option<u32>,
}

impl Pieces {
    /// Of different texts. Those without characters, or with more than `max_chars`, are in no word.
    pub fn new(pieces: impl IntoIterator<Item = (Box<str>, u32)>, max_chars: usize) -> Self {
        let piece = |(text, token)| Piece {
            text,
            token,
            beginning: None,
        };
        let mut pieces: Vec<Piece> = pieces.into_iter().map(piece).collect();
        pieces.retain(|piece| !piece.text.is_empty() && piece.text.chars().count() <= max_chars);
        pieces.sort_unstable_by(|a, b| a.text.cmp(&b.text));
        // The beginnings of the last piece.
        let mut open: Vec<u32> = Vec::new();
        for at in 0..pieces.len() {
            while let Some(&last) = open.last()
                && !pieces[at].text.starts_with(&*pieces[last as usize].text)
            {
                open.pop();
            }
            pieces[at].beginning = open.last().copied();
            open.push(at as u32);
        }
        Self(pieces)
    }

    /// Bytes and token of the longest piece at the beginning of a text.
    pub fn longest(&self, text: &str) -> Option<(usize, u32)> {
        let last = self.0.partition_point(|piece| *piece.text <= *text).checked_sub(1)?;
        let bytes = self.0[last].text.bytes().zip(text.bytes());
        let common = bytes.take_while(|(piece, text)| piece == text).count();
        let found = self.beginnings(last).find(|piece| piece.text.len() <= common)?;
        Some((found.text.len(), found.token))
    }

    /// A piece, and those that it begins with.
    fn beginnings(&self, at: usize) -> impl Iterator<Item = &Piece> {
        std::iter::successors(self.0.get(at), |piece| self.0.get(piece.beginning? as usize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(texts: &[&str], max_chars: usize) -> Pieces {
        Pieces::new(texts.iter().map(|&text| text.into()).zip(0..), max_chars)
    }

    #[test]
    fn the_longest_piece_is_found_whatever_lies_between() {
        let pieces = pieces(&["a", "ab", "abcd", "abcé", "abd", "b", "", "é", "ab\u{10FFFF}"], 8);
        for (text, found) in [
            ("abcx", Some((2, 1))),
            ("abcdx", Some((4, 2))),
            ("abcéx", Some((5, 3))),
            ("abce", Some((2, 1))),
            ("abd", Some((3, 4))),
            ("abz", Some((2, 1))),
            ("aa", Some((1, 0))),
            ("bab", Some((1, 5))),
            ("ê", None),
            ("è", None),
            ("Z", None),
            ("z", None),
        ] {
            assert_eq!(pieces.longest(text), found, "{text}");
        }
        assert_eq!(super::Pieces(Vec::new()).longest("a"), None);
    }

    #[test]
    fn no_vocabulary_makes_more_work_than_the_longest_word_has_characters() {
        let texts: Vec<String> = (1..1000).map(|length| "a".repeat(length)).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let pieces = pieces(&texts, 256);
        let work = (0..pieces.0.len()).map(|at| pieces.beginnings(at).count());
        assert_eq!((pieces.0.len(), work.max()), (256, Some(256)));
        assert_eq!(pieces.longest(&"a".repeat(300)), Some((256, 255)));
    }
}
