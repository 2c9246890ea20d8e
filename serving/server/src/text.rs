//! From token bytes to text that may be sent: holds back incomplete UTF-8 and whatever may still
//! become a stop text. The result depends on the bytes alone, never on where tokens end.
//! Knows nothing of HTTP or of the engine.

use std::ops::Range;

/// Assembles the text of one answer.
#[derive(Debug, Default)]
pub struct TextAssembler {
    stops: Vec<String>,
    /// The stop text that appears is part of the answer.
    includes_stop: bool,
    /// Characters that are complete so far, sent or held.
    characters: usize,
    /// Bytes of a character that is not complete yet, at most three.
    partial: Vec<u8>,
    /// Text that may be the beginning of a stop text.
    held: String,
    stopped: bool,
}

impl TextAssembler {
    /// `stops` must not contain an empty text.
    pub fn new(stops: Vec<String>, includes_stop: bool) -> Self {
        Self {
            stops,
            includes_stop,
            ..Self::default()
        }
    }

    /// Takes the bytes of one token and returns the text that is now certain, often empty.
    /// After a stop text it returns nothing.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        if self.stopped {
            return String::new();
        }
        let new = self.decode(bytes);
        self.take(&new)
    }

    /// As `push`, for tokens before the first that may end the answer: stop texts begin after them.
    pub fn push_unstoppable(&mut self, bytes: &[u8]) -> String {
        self.decode(bytes)
    }

    /// Characters that are complete so far, also those that are held back.
    pub fn characters(&self) -> usize {
        self.characters
    }

    /// Whether a stop text appeared: the answer ends there.
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    /// The end of the answer: returns what was held back, and whether that completed a stop text
    /// (or one had appeared before).
    pub fn finish(mut self) -> (String, bool) {
        if self.stopped {
            return (String::new(), true);
        }
        let new = String::from_utf8_lossy(&std::mem::take(&mut self.partial)).into_owned();
        let mut text = self.take(&new);
        if !self.stopped {
            text.push_str(&self.held);
        }
        (text, self.stopped)
    }

    /// The characters that these bytes complete.
    fn decode(&mut self, bytes: &[u8]) -> String {
        self.partial.extend_from_slice(bytes);
        let complete = complete_len(&self.partial);
        let rest = self.partial.split_off(complete);
        let new = String::from_utf8_lossy(&self.partial).into_owned();
        self.partial = rest;
        self.characters += new.chars().count();
        new
    }

    fn take(&mut self, new: &str) -> String {
        if self.stops.is_empty() {
            return new.to_owned();
        }
        self.held.push_str(new);
        if let Some(stop) = first_stop(&self.held, &self.stops) {
            self.stopped = true;
            self.held
                .truncate(if self.includes_stop { stop.end } else { stop.start });
            return std::mem::take(&mut self.held);
        }
        let keep = longest_open_stop(&self.held, &self.stops);
        let rest = self.held.split_off(self.held.len() - keep);
        std::mem::replace(&mut self.held, rest)
    }
}

/// How many of `bytes` can be decoded for good: all, except the beginning of a character at the end.
fn complete_len(bytes: &[u8]) -> usize {
    let mut decided = 0;
    while let Err(error) = std::str::from_utf8(&bytes[decided..]) {
        decided += error.valid_up_to();
        match error.error_len() {
            Some(invalid) => decided += invalid,
            None => return decided,
        }
    }
    bytes.len()
}

/// The stop text that is complete first; of several that end together, the longest.
/// "Complete first" is what makes the answer independent of token boundaries.
fn first_stop(text: &str, stops: &[String]) -> Option<Range<usize>> {
    stops
        .iter()
        .filter_map(|stop| text.find(stop.as_str()).map(|start| start..start + stop.len()))
        .min_by_key(|stop| (stop.end, stop.start))
}

/// Length of the longest end of `text` that is a beginning of a stop text.
fn longest_open_stop(text: &str, stops: &[String]) -> usize {
    let open = |stop: &String| {
        let longest = text.len().min(stop.len() - 1);
        (1..=longest)
            .rev()
            .find(|&len| text.as_bytes().ends_with(&stop.as_bytes()[..len]))
            .unwrap_or(0)
    };
    // Both are UTF-8 and an incomplete character never matches the end of a complete text, so the
    // length falls on a character boundary.
    stops.iter().map(open).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(stops: &[&str], pieces: &[&[u8]]) -> (Vec<String>, bool) {
        let mut assembler = TextAssembler::new(stops.iter().map(ToString::to_string).collect(), false);
        let mut out = Vec::new();
        for piece in pieces {
            out.push(assembler.push(piece));
        }
        let (rest, stopped) = assembler.finish();
        out.push(rest);
        (out, stopped)
    }

    #[test]
    fn a_character_split_over_tokens_comes_out_whole() {
        let (out, _) = run(&[], &[b"a\xF0\x9F", b"\x98", b"\x80b"]);
        assert_eq!(out, ["a", "", "😀b", ""]);
    }

    #[test]
    fn bytes_that_are_not_utf8_become_replacement_characters_at_once() {
        let (out, _) = run(&[], &[b"a\xFFb", b"\xE2\x82", b"x"]);
        assert_eq!(out, ["a\u{FFFD}b", "", "\u{FFFD}x", ""]);
    }

    #[test]
    fn an_incomplete_character_at_the_end_is_replaced() {
        assert_eq!(run(&[], &[b"a\xE2\x82"]).0, ["a", "\u{FFFD}"]);
    }

    #[test]
    fn a_stop_text_across_tokens_is_never_sent() {
        let (out, stopped) = run(&["\n\nUser:"], &[b"yes\n", b"\nUs", b"er", b": more"]);
        assert_eq!(out.concat(), "yes");
        assert!(stopped);
    }

    #[test]
    fn a_stop_text_counts_only_after_the_tokens_that_must_come() {
        let mut assembler = TextAssembler::new(vec!["ab".into()], false);
        assert_eq!(assembler.push_unstoppable(b"ab"), "ab");
        assert_eq!(assembler.push_unstoppable(b"a"), "a");
        assert_eq!(assembler.push(b"b, "), "b, ");
        assert_eq!(assembler.push(b"ab"), "");
        assert!(assembler.stopped());
    }

    #[test]
    fn a_stop_text_that_is_wanted_ends_the_answer_and_nothing_follows_it() {
        let mut assembler = TextAssembler::new(vec!["STOP".into()], true);
        assert_eq!(assembler.push(b"go ST"), "go ");
        assert_eq!(assembler.push(b"OP on"), "STOP");
        assert_eq!((assembler.characters(), assembler.stopped()), (10, true));
        assert_eq!(assembler.finish(), (String::new(), true));
    }

    #[test]
    fn what_only_looked_like_a_stop_text_is_sent() {
        let (out, stopped) = run(&["STOP"], &[b"ST", b"EP", b"ST"]);
        assert_eq!(out, ["", "STEP", "", "ST"]);
        assert!(!stopped);
    }

    #[test]
    fn a_stop_text_that_overlaps_itself_is_found() {
        let (out, stopped) = run(&["aab"], &[b"a", b"a", b"a", b"b"]);
        assert_eq!(out.concat(), "a");
        assert!(stopped);
    }

    #[test]
    fn the_stop_text_that_is_complete_first_wins() {
        assert_eq!(run(&["bc", "abcd"], &[b"xabcd"]).0.concat(), "xa");
        assert_eq!(run(&["c", "abc"], &[b"xabcd"]).0.concat(), "x");
    }

    #[test]
    fn a_stop_text_of_many_bytes_per_character_is_held_back() {
        let (out, stopped) = run(&["日本"], &["日".as_bytes(), b"\xE6\x9C", b"\xAC!"]);
        assert_eq!(out.concat(), "");
        assert!(stopped);
    }

    /// Small alphabet, so that stop texts and their beginnings really occur.
    fn text() -> impl Strategy<Value = String> {
        proptest::collection::vec(prop_oneof![Just("a"), Just("b"), Just("é"), Just("😀")], 0..40)
            .prop_map(|parts| parts.concat())
    }

    fn stops() -> impl Strategy<Value = Vec<String>> {
        let stop = proptest::collection::vec(prop_oneof![Just("a"), Just("b"), Just("é"), Just("😀")], 1..5);
        proptest::collection::vec(stop.prop_map(|parts| parts.concat()), 0..4)
    }

    /// The twin: looks at every beginning of the whole text, character by character.
    fn expected(text: &str, stops: &[String]) -> (String, bool) {
        let ends = (0..=text.len()).filter(|&end| text.is_char_boundary(end));
        for end in ends {
            let ending = stops
                .iter()
                .filter(|stop| text[..end].ends_with(stop.as_str()))
                .map(String::len)
                .max();
            if let Some(len) = ending {
                return (text[..end - len].to_owned(), true);
            }
        }
        (text.to_owned(), false)
    }

    proptest! {
        #[test]
        fn the_text_does_not_depend_on_token_boundaries(
            text in text(), stops in stops(), cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..12),
        ) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let mut assembler = TextAssembler::new(stops.clone(), false);
            let mut out = String::new();
            for pair in cuts.windows(2) {
                out += &assembler.push(&text.as_bytes()[pair[0]..pair[1]]);
                prop_assert!(text.starts_with(&out), "sent something that is not in the text");
            }
            let (rest, stopped) = assembler.finish();
            out += &rest;
            prop_assert_eq!((out, stopped), expected(&text, &stops));
        }

        #[test]
        fn any_bytes_come_out_as_std_decodes_them(bytes in proptest::collection::vec(any::<u8>(), 0..60), size in 1usize..8) {
            let mut assembler = TextAssembler::new(Vec::new(), false);
            let mut out: String = bytes.chunks(size).map(|chunk| assembler.push(chunk)).collect();
            out += &assembler.finish().0;
            prop_assert_eq!(out, String::from_utf8_lossy(&bytes).into_owned());
        }
    }
}
