//! Tokens that are found in text before anything else looks at it: control tokens (only where the
//! caller trusts the text) and user-defined tokens (always). The longest match at the leftmost place wins.
use super::vocabulary::{TokenKind, Vocabulary};

/// The special tokens of a vocabulary, sorted by their bytes.
#[derive(Debug)]
pub struct SpecialTokens {
    entries: Vec<Entry>,
    starts: [bool; 256],
}

/// A stretch of text between special tokens, or one of them.
#[derive(Debug, PartialEq, Eq)]
pub enum Segment<'a> {
    /// Text for the model's own splitting.
    Text(&'a str),
    /// A special token.
    Special(u32),
}

#[derive(Debug)]
struct Entry {
    text: Box<[u8]>,
    token: u32,
    control: bool,
}

impl SpecialTokens {
    /// Collects them from the vocabulary.
    pub fn of(vocabulary: &Vocabulary) -> Self {
        let special = vocabulary
            .iter()
            .filter(|(_, _, kind)| matches!(kind, TokenKind::Control | TokenKind::Unknown | TokenKind::UserDefined));
        Self::new(special.map(|(token, text, kind)| (token, text, kind != TokenKind::UserDefined)))
    }

    /// From tokens, their texts, and whether they are control tokens. What has no text is found nowhere.
    pub fn new<'a>(tokens: impl IntoIterator<Item = (u32, &'a str, bool)>) -> Self {
        let mut entries: Vec<Entry> = tokens
            .into_iter()
            .filter(|(_, text, _)| !text.is_empty())
            .map(|(token, text, control)| Entry {
                text: text.as_bytes().into(),
                token,
                control,
            })
            .collect();
        entries.sort_by(|a, b| (&a.text, a.token).cmp(&(&b.text, b.token)));
        entries.dedup_by(|later, first| later.text == first.text);
        let mut starts = [false; 256];
        for entry in &entries {
            starts[usize::from(entry.text[0])] = true;
        }
        Self { entries, starts }
    }

    /// Cuts `text` at special tokens and hands each part to `emit` in order; control tokens stay text
    /// unless `control` is set.
    pub fn split<'a>(&self, text: &'a str, control: bool, mut emit: impl FnMut(Segment<'a>)) {
        let bytes = text.as_bytes();
        let (mut from, mut at) = (0, 0);
        while at < bytes.len() {
            match self.longest_at(&bytes[at..], control) {
                Some(entry) => {
                    if from < at {
                        emit(Segment::Text(&text[from..at]));
                    }
                    emit(Segment::Special(entry.token));
                    at += entry.text.len();
                    from = at;
                }
                None => at += 1,
            }
        }
        if from < bytes.len() {
            emit(Segment::Text(&text[from..]));
        }
    }

    /// Whether `rest` begins with a control token, or is all of it the beginning of one.
    pub fn begins_control(&self, rest: &[u8]) -> bool {
        let Some(&first) = rest.first() else { return false };
        self.starts[usize::from(first)]
            && self
                .candidates(first)
                .iter()
                .any(|entry| entry.control && (rest.starts_with(&entry.text) || entry.text.starts_with(rest)))
    }

    fn longest_at(&self, rest: &[u8], control: bool) -> Option<&Entry> {
        let first = *rest.first()?;
        if !self.starts[usize::from(first)] {
            return None;
        }
        // Narrow the sorted list byte by byte: what is left shares `depth` bytes with the text.
        let mut candidates = self.candidates(first);
        let mut longest = None;
        for depth in 1.. {
            // The shortest sorts first, so a complete match is the first of what is left.
            let head = candidates.first()?;
            if head.text.len() == depth {
                if control || !head.control {
                    longest = Some(head);
                }
                candidates = &candidates[1..];
            }
            let Some(&next) = rest.get(depth) else { break };
            let low = candidates.partition_point(|entry| entry.text[depth] < next);
            let high = candidates.partition_point(|entry| entry.text[depth] <= next);
            candidates = &candidates[low..high];
            if candidates.is_empty() {
                break;
            }
        }
        longest
    }

    fn candidates(&self, first: u8) -> &[Entry] {
        let low = self.entries.partition_point(|entry| entry.text[0] < first);
        let high = self.entries.partition_point(|entry| entry.text[0] <= first);
        &self.entries[low..high]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn specials(tokens: &[(&str, bool)]) -> SpecialTokens {
        SpecialTokens::new((0..).zip(tokens).map(|(id, &(text, control))| (id, text, control)))
    }

    fn split<'a>(specials: &SpecialTokens, text: &'a str, control: bool) -> Vec<Segment<'a>> {
        let mut segments = Vec::new();
        specials.split(text, control, |segment| segments.push(segment));
        segments
    }

    #[test]
    fn the_longest_token_at_the_leftmost_place_wins() {
        let specials = specials(&[("<a>", true), ("<a><b>", true), ("<", false)]);
        assert_eq!(
            split(&specials, "x<a><b>y", true),
            [Segment::Text("x"), Segment::Special(1), Segment::Text("y")]
        );
        assert_eq!(
            split(&specials, "<a><", true),
            [Segment::Special(0), Segment::Special(2)]
        );
    }

    #[test]
    fn control_tokens_stay_text_where_the_text_is_not_trusted() {
        let specials = specials(&[("<end>", true), ("<tool>", false)]);
        assert_eq!(
            split(&specials, "<end><tool>", false),
            [Segment::Text("<end>"), Segment::Special(1)]
        );
    }

    #[test]
    fn a_token_cut_off_at_the_end_of_the_text_is_text() {
        let specials = specials(&[("<end>", true)]);
        assert_eq!(split(&specials, "é<en", true), [Segment::Text("é<en")]);
        assert!(specials.begins_control(b"<en"));
        assert!(specials.begins_control(b"<end>more"));
        assert!(!specials.begins_control(b"<e "));
    }
}
