//! Finds tool calls in an answer's text as it comes: `<tool_call>\n{"name": …, "arguments": {…}}\n</tool_call>`.
//! A call is given out once its arguments begin; what never becomes one stays text. The result depends on the
//! text alone, never on how it is cut. Knows nothing of JSON beyond where its objects end.
use crate::tools::{CLOSE, OPEN};

/// Bytes between the mark and the arguments: a name, three fields' worth of punctuation, and white space.
const MAX_HEAD_BYTES: usize = 1024;

/// What is new.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Text outside of calls.
    pub text: String,
    /// New calls and new pieces of their arguments, in order.
    pub calls: Vec<CallPart>,
}

/// A call's beginning, or the next piece of its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallPart {
    /// Number of the call, from 0.
    pub index: u32,
    /// Set in the first part.
    pub name: Option<String>,
    /// JSON text.
    pub arguments: String,
}

/// Follows one answer.
#[derive(Debug, Default)]
pub struct CallFinder {
    state: State,
    /// What is not decided yet.
    held: String,
    calls: u32,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Text,
    /// After the mark, before the arguments, with the white space before the mark.
    Head(String),
    /// Inside the arguments.
    Arguments(Nesting),
    /// After the arguments.
    Tail,
}

#[derive(Debug, Default)]
struct Nesting {
    depth: u32,
    quoted: bool,
    escaped: bool,
}

/// What the text after the mark is.
enum Head {
    Open,
    Broken,
    /// A name, and where the arguments begin.
    Call(String, usize),
}

impl CallFinder {
    /// Takes more text.
    pub fn push(&mut self, text: &str) -> Found {
        self.held += text;
        let mut found = Found::default();
        while self.step(&mut found) {}
        found
    }

    /// The end: the text that was held back, and whether there were calls, all of them complete.
    pub fn finish(self) -> (String, bool) {
        let called = self.calls > 0;
        match self.state {
            // White space after a call is not worth a text.
            State::Text if called && self.held.trim().is_empty() => (String::new(), true),
            State::Text => (self.held, called),
            State::Head(space) => (space + OPEN + &self.held, called),
            State::Arguments(_) | State::Tail => (String::new(), false),
        }
    }

    /// Decides about a part of what is held; false if more must come first.
    fn step(&mut self, found: &mut Found) -> bool {
        match &mut self.state {
            State::Text => {
                if let Some(at) = self.held.find(OPEN) {
                    let rest = self.held.split_off(at + OPEN.len());
                    let text = std::mem::replace(&mut self.held, rest);
                    let (text, space) = text[..at].split_at(text[..at].trim_end().len());
                    found.text += text;
                    self.state = State::Head(space.to_owned());
                    return true;
                }
                let keep = undecided(&self.held);
                let rest = self.held.split_off(self.held.len() - keep);
                found.text += &std::mem::replace(&mut self.held, rest);
                false
            }
            State::Head(space) => match head(&self.held) {
                Head::Open if self.held.len() <= MAX_HEAD_BYTES => false,
                Head::Call(name, at) if at <= MAX_HEAD_BYTES => {
                    self.held.drain(..at);
                    self.calls += 1;
                    self.part(found, Some(name), String::new());
                    self.state = State::Arguments(Nesting::default());
                    true
                }
                Head::Open | Head::Broken | Head::Call(..) => {
                    found.text += &(std::mem::take(space) + OPEN);
                    self.state = State::Text;
                    true
                }
            },
            State::Arguments(nesting) => {
                let end = nesting.end(&self.held);
                let rest = self.held.split_off(end.unwrap_or(self.held.len()));
                let arguments = std::mem::replace(&mut self.held, rest);
                if !arguments.is_empty() {
                    self.part(found, None, arguments);
                }
                if end.is_some() {
                    self.state = State::Tail;
                }
                end.is_some()
            }
            State::Tail => {
                let rest = self.held.trim_start();
                let rest = rest.strip_prefix('}').unwrap_or(rest).trim_start();
                if let Some(rest) = rest.strip_prefix(CLOSE) {
                    self.held = rest.to_owned();
                    self.state = State::Text;
                    return true;
                }
                if CLOSE.starts_with(rest) {
                    return false;
                }
                self.state = State::Text;
                true
            }
        }
    }

    fn part(&self, found: &mut Found, name: Option<String>, arguments: String) {
        let index = self.calls - 1;
        match found.calls.last_mut() {
            Some(part) if part.index == index && name.is_none() => part.arguments += &arguments,
            _ => found.calls.push(CallPart { index, name, arguments }),
        }
    }
}

impl Nesting {
    /// Where the outermost object ends, if it does.
    fn end(&mut self, text: &str) -> Option<usize> {
        for (at, byte) in text.bytes().enumerate() {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.quoted => self.escaped = true,
                b'"' => self.quoted = !self.quoted,
                _ if self.quoted => {}
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 {
                        return Some(at + 1);
                    }
                }
                _ => {}
            }
        }
        None
    }
}

/// Bytes at the end that may be the beginning of a mark, with the white space before it.
fn undecided(text: &str) -> usize {
    let open = (1..OPEN.len())
        .rev()
        .find(|&len| text.ends_with(&OPEN[..len]))
        .unwrap_or(0);
    let before = &text[..text.len() - open];
    text.len() - before.trim_end().len()
}

fn head(text: &str) -> Head {
    let mut rest = text;
    for expected in ["{", "\"name\"", ":"] {
        match skip(rest, expected) {
            Ok(after) => rest = after,
            Err(head) => return head,
        }
    }
    rest = rest.trim_start();
    if rest.is_empty() {
        return Head::Open;
    }
    let mut names = serde_json::Deserializer::from_str(rest).into_iter::<String>();
    let name = match names.next() {
        Some(Ok(name)) => name,
        Some(Err(error)) if error.is_eof() => return Head::Open,
        Some(Err(_)) | None => return Head::Broken,
    };
    rest = &rest[names.byte_offset()..];
    for expected in [",", "\"arguments\"", ":"] {
        match skip(rest, expected) {
            Ok(after) => rest = after,
            Err(head) => return head,
        }
    }
    rest = rest.trim_start();
    match rest.chars().next() {
        None => Head::Open,
        Some('{') => Head::Call(name, text.len() - rest.len()),
        Some(_) => Head::Broken,
    }
}

/// What comes after `expected` and white space before it.
fn skip<'a>(text: &'a str, expected: &str) -> Result<&'a str, Head> {
    let text = text.trim_start();
    match text.strip_prefix(expected) {
        Some(rest) => Ok(rest),
        None if expected.starts_with(text) => Err(Head::Open),
        None => Err(Head::Broken),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Text, calls and whether it is made of complete calls, whatever the pieces.
    fn run<'a>(pieces: impl IntoIterator<Item = &'a str>) -> (String, Vec<(String, String)>, bool) {
        let mut finder = CallFinder::default();
        let mut all = Vec::new();
        all.extend(pieces.into_iter().map(|piece| finder.push(piece)));
        let (last, complete) = finder.finish();
        let mut text = String::new();
        let mut calls: Vec<(String, String)> = Vec::new();
        for found in all {
            text += &found.text;
            for part in found.calls {
                calls.extend(part.name.map(|name| (name, String::new())));
                assert_eq!(part.index as usize + 1, calls.len());
                calls.last_mut().unwrap().1 += &part.arguments;
            }
        }
        text += &last;
        (text, calls, complete)
    }

    fn calls(of: &[(&str, &str)]) -> Vec<(String, String)> {
        of.iter()
            .map(|(name, arguments)| ((*name).into(), (*arguments).into()))
            .collect()
    }

    const TWO: &str = "Let me see.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"}\\\"{\", \"b\": [{}]}}\n</tool_call>\n\
        <tool_call>\n{\"name\":\"g\",\"arguments\":{}}\n</tool_call>\n";

    #[test]
    fn calls_are_found_and_text_around_them_stays() {
        let expected = calls(&[("f", r#"{"a": "}\"{", "b": [{}]}"#), ("g", "{}")]);
        assert_eq!(run([TWO]), ("Let me see.".into(), expected, true));
        let after = format!("{TWO}Done.");
        assert_eq!(run([after.as_str()]).0, "Let me see.\nDone.");
    }

    #[test]
    fn a_call_is_given_out_when_its_arguments_begin_and_they_follow_as_they_come() {
        let mut finder = CallFinder::default();
        assert_eq!(
            finder.push("<tool_call>\n{\"name\": \"f\", \"arguments\": "),
            Found::default()
        );
        let first = finder.push("{\"a\"");
        let part = |name: Option<&str>, arguments: &str| CallPart {
            index: 0,
            name: name.map(str::to_owned),
            arguments: arguments.into(),
        };
        assert_eq!(first.calls, [part(Some("f"), "{\"a\"")]);
        assert_eq!(finder.push(": 1}}\n").calls, [part(None, ": 1}")]);
        assert_eq!(finder.push("</tool_call>"), Found::default());
        assert_eq!(finder.finish(), (String::new(), true));
    }

    #[test]
    fn what_is_no_call_stays_text() {
        for text in [
            "no call",
            " \n",
            "<tool_call>",
            "<tool_call>\n{\"name\": 5, \"arguments\": {}}\n</tool_call>",
            "<tool_call>\n{\"name\": \"f\", \"arguments\": \"x\"}\n</tool_call>",
            "<tool_call>\n{\"arguments\": {}, \"name\": \"f\"}\n</tool_call>",
            "<tool_call>{\"name\": \"f\"",
            "<tool_cal",
            "so: \n<tool_call> \n",
            "a < b <tool",
        ] {
            assert_eq!(run([text]), (text.into(), Vec::new(), false));
        }
        let endless = format!("<tool_call>{{\"name\": \"{}", "x".repeat(2 * MAX_HEAD_BYTES));
        assert_eq!(run([endless.as_str()]).0, endless);
    }

    #[test]
    fn a_call_that_is_cut_off_is_not_complete() {
        let (text, found, complete) = run(["<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": "]);
        assert_eq!(
            (text.as_str(), found, complete),
            ("", calls(&[("f", "{\"a\": ")]), false)
        );
    }

    proptest! {
        #[test]
        fn nothing_depends_on_how_the_text_is_cut(
            text in prop_oneof![
                Just(TWO.to_owned()),
                "(<tool_call>|\n|\\{\"name\": \"f\"|, \"arguments\": |\\{\\}|\\}|</tool_call>|a| |<|é){0,14}",
            ],
            cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..12),
        ) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| text.floor_char_boundary(cut.index(text.len() + 1))).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces = cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]);
            prop_assert_eq!(run(pieces), run([text.as_str()]));
        }
    }
}
