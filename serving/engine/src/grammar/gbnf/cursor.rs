//! A place in the text of a grammar, and what is read the same way everywhere in it.
use std::fmt::Write;

use super::super::GrammarError;

/// Reads from the front. Line and column of an error are the caller's.
pub struct Cursor<'a> {
    text: &'a str,
    /// Bytes that were read.
    pub at: usize,
}

impl<'a> Cursor<'a> {
    /// At the beginning of a text.
    pub fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// Reads a text in quotes, as Lark writes it.
    pub fn literal(&mut self) -> Result<String, GrammarError> {
        let start = self.at;
        self.bump();
        let mut text = String::new();
        while !self.take("\"") {
            text.push(self.character(start)?);
        }
        // As JSON does it, and without the one control character that JSON leaves.
        let text = serde_json::Value::from(text).to_string();
        Ok(text.replace('\u{7f}', "\\u007f"))
    }

    /// Reads a class of characters, as Lark writes it.
    pub fn class(&mut self) -> Result<String, GrammarError> {
        let start = self.at;
        self.bump();
        let mut class = String::from(if self.take("^") { "/[^" } else { "/[" });
        let empty = class.len();
        while !self.take("]") {
            let at = self.at;
            let (first, mut last) = (self.character(start)?, None);
            if self.is_before("-") && !self.is_before("-]") {
                self.bump();
                last = Some(self.character(start)?);
            }
            let last = last.unwrap_or(first);
            if last < first {
                return Err(self.wrong_at(at, "the range ends before it begins"));
            }
            let (first, last) = (u32::from(first), u32::from(last));
            write!(class, r"\x{{{first:X}}}-\x{{{last:X}}}").expect("a string takes every text");
        }
        if class.len() == empty {
            return Err(self.wrong_at(start, "this class of characters is empty"));
        }
        Ok(class + "]/")
    }

    /// One character of the text or the class that began at `start`.
    fn character(&mut self, start: usize) -> Result<char, GrammarError> {
        let at = self.at;
        let open = |reader: &Self| reader.wrong_at(start, "this is not closed");
        match self.bump().ok_or_else(|| open(self))? {
            '\\' => {}
            plain => return Ok(plain),
        }
        let digits = match self.bump().ok_or_else(|| open(self))? {
            'n' => return Ok('\n'),
            'r' => return Ok('\r'),
            't' => return Ok('\t'),
            plain @ ('\\' | '"' | '[' | ']' | '-') => return Ok(plain),
            'x' => 2,
            'u' => 4,
            'U' => 8,
            _ => return Err(self.wrong_at(at, "this escape is not known")),
        };
        let hex = self.rest().get(..digits);
        let hex = hex.filter(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let character = hex.and_then(|hex| char::from_u32(u32::from_str_radix(hex, 16).ok()?));
        let message = || format!("{digits} hexadecimal digits of a character are expected");
        let character = character.ok_or_else(|| self.wrong_at(at, message()))?;
        self.at += digits;
        Ok(character)
    }

    /// Skips white space and comments.
    pub fn space(&mut self, newlines: bool) {
        let is_space = |c: char| matches!(c, ' ' | '\t') || (newlines && matches!(c, '\n' | '\r'));
        loop {
            self.while_is(is_space);
            if !self.take("#") {
                return;
            }
            self.while_is(|c| !matches!(c, '\n' | '\r'));
        }
    }

    /// Reads a name, which is empty where none stands.
    pub fn word(&mut self) -> &'a str {
        self.while_is(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
    }

    /// Reads while the characters are wanted ones.
    pub fn while_is(&mut self, takes: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let taken = &rest[..rest.find(|c| !takes(c)).unwrap_or(rest.len())];
        self.at += taken.len();
        taken
    }

    /// Whether a text stands here.
    pub fn is_before(&self, text: &str) -> bool {
        self.rest().starts_with(text)
    }

    /// Reads a text if it stands here.
    pub fn take(&mut self, wanted: &str) -> bool {
        let takes = self.is_before(wanted);
        self.at += if takes { wanted.len() } else { 0 };
        takes
    }

    /// Reads the next character.
    pub fn bump(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.at += next.len_utf8();
        Some(next)
    }

    /// What comes next.
    pub fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    /// What stands here, for an error.
    pub fn found(&self) -> String {
        match self.peek() {
            None => "the end".to_owned(),
            Some('\n' | '\r') => "the end of the line".to_owned(),
            Some(other) => format!("`{other}`"),
        }
    }

    /// The error that something is wrong here.
    pub fn wrong(&self, what: impl std::fmt::Display) -> GrammarError {
        self.wrong_at(self.at, what)
    }

    /// The error that something is wrong at a place before.
    pub fn wrong_at(&self, at: usize, what: impl std::fmt::Display) -> GrammarError {
        let before = &self.text[..at];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        GrammarError::Invalid(format!("line {line}, column {column}: {what}"))
    }
}
