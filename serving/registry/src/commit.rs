//! A commit of a repository at the hub: 40 hex digits. A branch moves; what a commit names never changes.
use std::fmt;

use crate::failure::FetchFailed;

/// The name of one state of a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commit([u8; 20]);

impl Commit {
    /// Reads exactly 40 hex digits, in either case.
    pub fn from_hex(text: &str) -> Option<Commit> {
        if text.len() != 40 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let mut bytes = [0; 20];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).ok()?;
        }
        Some(Commit(bytes))
    }

    /// The recorded commit of a deployment; an empty text is none.
    pub fn recorded(text: Option<&str>) -> Result<Option<Commit>, FetchFailed> {
        match text.map(str::trim).filter(|text| !text.is_empty()) {
            Some(text) => Commit::from_hex(text).map(Some).ok_or(FetchFailed::InvalidCommit),
            None => Ok(None),
        }
    }
}

impl fmt::Display for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_is_40_hex_digits_and_nothing_else() {
        let text = "0123456789abcdef0123456789abcdef01234567";
        assert_eq!(Commit::from_hex(text).unwrap().to_string(), text);
        assert_eq!(Commit::from_hex(&text.to_uppercase()), Commit::from_hex(text));
        for text in [
            "",
            "main",
            &text[1..],
            &format!("{text}0"),
            &text.replace('a', "g"),
            &"é".repeat(20),
        ] {
            assert_eq!(Commit::from_hex(text), None, "{text}");
            assert_eq!(Commit::recorded(Some(text)).is_err(), !text.is_empty());
        }
        assert_eq!(Commit::recorded(Some(" \n")).unwrap(), None);
    }
}
