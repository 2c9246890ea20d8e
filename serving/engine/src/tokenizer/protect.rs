//! Keeps what users write from becoming control tokens. A template only concatenates text, so the marks
//! have to travel inside it: a noncharacter pair after the first character of anything in a message that
//! could be, or begin, a control token. The tokenizer takes the marks out again after it has looked for
//! control tokens. Noncharacters that a user wrote are escaped, so nothing is lost.
use std::borrow::Cow;

use serde_json::Value;

use super::Tokenizer;

/// Begins each mark; U+FDD0 is a noncharacter, reserved by Unicode for use inside a program.
const ESCAPE: char = '\u{fdd0}';
/// After [`ESCAPE`]: nothing; it only parts what is before it from what is after it.
const BREAK: char = '\u{fdd1}';

/// A chat as the model's template renders it, with marks around what is not to be trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenderedPrompt {
    text: String,
}

impl RenderedPrompt {
    /// Takes text that a template rendered from protected values.
    pub(crate) fn new(text: String) -> Self {
        Self { text }
    }

    /// The text as the user would see it, without marks.
    pub fn text(&self) -> Cow<'_, str> {
        unprotect(&self.text)
    }

    pub(super) fn protected(&self) -> &str {
        &self.text
    }
}

/// A copy of `value` with every text in it protected, keys included.
pub fn protect_value(value: &Value, tokenizer: &Tokenizer) -> Value {
    match value {
        Value::String(text) => Value::String(protect(text, tokenizer).into_owned()),
        Value::Array(items) => items.iter().map(|item| protect_value(item, tokenizer)).collect(),
        Value::Object(entries) => Value::Object(
            entries
                .iter()
                .map(|(key, item)| (protect(key, tokenizer).into_owned(), protect_value(item, tokenizer)))
                .collect(),
        ),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}

/// Parts every control token in `text`, and what could become one when a template trims the text or
/// puts more after it.
fn protect<'a>(text: &'a str, tokenizer: &Tokenizer) -> Cow<'a, str> {
    let trimmed = text.trim_end();
    let marks = |at: usize, char: char| {
        char == ESCAPE
            || tokenizer.begins_control(&text[at..])
            || trimmed
                .get(at..)
                .is_some_and(|rest| !rest.is_empty() && tokenizer.begins_control(rest))
    };
    if !text.char_indices().any(|(at, char)| marks(at, char)) {
        return Cow::Borrowed(text);
    }
    let mut protected = String::with_capacity(text.len() + 64);
    for (at, char) in text.char_indices() {
        protected.push(char);
        if char == ESCAPE {
            protected.push(ESCAPE);
        } else if marks(at, char) {
            protected.extend([ESCAPE, BREAK]);
        }
    }
    Cow::Owned(protected)
}

/// Takes the marks out.
pub(super) fn unprotect(text: &str) -> Cow<'_, str> {
    if !text.contains(ESCAPE) {
        return Cow::Borrowed(text);
    }
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        if char != ESCAPE {
            plain.push(char);
            continue;
        }
        match chars.next() {
            None | Some(BREAK) => {}
            Some(other) => plain.push(other),
        }
    }
    Cow::Owned(plain)
}
