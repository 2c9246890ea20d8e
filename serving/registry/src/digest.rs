//! A SHA-256 digest in the notation of the API: `sha256:` and 64 lower-case hex digits.
use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

/// What a whole file hashes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; 32]);

/// The text is not `sha256:` and 64 hex digits.
#[derive(Debug, thiserror::Error)]
#[error("a digest is `sha256:` and 64 hex digits")]
pub struct NotADigest;

impl Digest {
    /// Reads 64 hex digits without the prefix, as in the hub's `X-Linked-Etag`.
    pub fn from_hex(text: &str) -> Option<Digest> {
        let text = text.as_bytes();
        if text.len() != 64 {
            return None;
        }
        let nibble = |byte: u8| char::from(byte).to_digit(16);
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
            *byte = u8::try_from(nibble(pair[0])? * 16 + nibble(pair[1])?).ok()?;
        }
        Some(Digest(bytes))
    }

    /// The 64 hex digits without the prefix.
    pub fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Hashes all that the reader gives, and calls `seen` with the number of bytes so far.
    pub fn of(mut reader: impl Read, mut seen: impl FnMut(u64)) -> io::Result<Digest> {
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        let mut total = 0;
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => return Ok(hash.into()),
                Ok(count) => {
                    hash.update(&buffer[..count]);
                    total += count as u64;
                    seen(total);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl From<Sha256> for Digest {
    fn from(hash: Sha256) -> Digest {
        Digest(hash.finalize().into())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl FromStr for Digest {
    type Err = NotADigest;
    fn from_str(text: &str) -> Result<Digest, NotADigest> {
        text.strip_prefix("sha256:")
            .and_then(Digest::from_hex)
            .ok_or(NotADigest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OF_ABC: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn the_digest_of_abc_is_the_one_of_the_standard() {
        let mut counts = Vec::new();
        let digest = Digest::of(&b"abc"[..], |count| counts.push(count)).unwrap();
        assert_eq!(digest.to_string(), OF_ABC);
        assert_eq!(counts, [3]);
    }

    #[test]
    fn a_digest_is_read_back_from_its_text_in_either_case() {
        let digest: Digest = OF_ABC.parse().unwrap();
        assert_eq!(digest.to_string(), OF_ABC);
        assert_eq!(Digest::from_hex(&digest.hex().to_uppercase()), Some(digest));
    }

    #[test]
    fn anything_else_is_no_digest() {
        for text in [
            "",
            "sha256:",
            "sha1:00",
            &OF_ABC[7..],
            &OF_ABC[..70],
            &OF_ABC.replace('b', "g"),
            "sha256:é",
        ] {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
    }
}
