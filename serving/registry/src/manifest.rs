//! The digest of several files: the SHA-256 of their canonical manifest, whose lines
//! `sha256:<64 hex digits>  <size in bytes>  <path>\n` are sorted by their bytes.
use sha2::{Digest as _, Sha256};

use crate::digest::Digest;

/// The files that make a model, with what each of them is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Manifest {
    entries: Vec<(String, Digest, u64)>,
}

impl Manifest {
    /// Adds a file; paths are relative, with `/`, and have been checked to be different and free of newlines.
    pub fn add(&mut self, path: &str, digest: Digest, size: u64) {
        self.entries.push((path.to_owned(), digest, size));
    }

    /// Bytes of all files together.
    pub fn size(&self) -> u64 {
        self.entries
            .iter()
            .fold(0, |sum, (_, _, size)| sum.saturating_add(*size))
    }

    /// Whether a path is one of its files.
    pub fn has(&self, path: &str) -> bool {
        self.entries.iter().any(|(known, _, _)| known == path)
    }

    /// The paths, in the order in which they were added.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|(path, _, _)| path.as_str())
    }

    /// The canonical text.
    pub fn text(&self) -> String {
        let entries = self.entries.iter();
        let mut lines: Vec<_> = entries
            .map(|(path, digest, size)| format!("{digest}  {size}  {path}\n"))
            .collect();
        lines.sort();
        lines.concat()
    }

    /// The digest of the whole.
    pub fn digest(&self) -> Digest {
        Digest::from(Sha256::new_with_prefix(self.text()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_does_not_depend_on_the_order_of_the_files() {
        let (one, two) = (
            Digest::of(&b"1"[..], |_| {}).unwrap(),
            Digest::of(&b"22"[..], |_| {}).unwrap(),
        );
        let (mut forth, mut back) = (Manifest::default(), Manifest::default());
        forth.add("a", one, 1);
        forth.add("b/c", two, 2);
        back.add("b/c", two, 2);
        back.add("a", one, 1);
        assert_eq!(forth.digest(), back.digest());
        assert_eq!((forth.size(), forth.has("b/c"), forth.has("c")), (3, true, false));
        let lines: Vec<_> = forth.text().lines().map(str::to_owned).collect();
        // Sorted as `LC_ALL=C sort` sorts them: by the digests.
        assert_eq!(lines, [format!("{one}  1  a"), format!("{two}  2  b/c")]);
        let moved = {
            let mut moved = Manifest::default();
            moved.add("a", two, 2);
            moved.add("b/c", one, 1);
            moved
        };
        assert_ne!(moved.digest(), forth.digest());
    }
}
