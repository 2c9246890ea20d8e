//! Reads little-endian values from a file of known size and never past its end.
use std::io::{self, BufRead, BufReader, Read, Seek};

use super::types;

/// Arrays in arrays are rare; deeper ones are an attack.
const DEEPEST: u32 = 4;
/// Vocabularies have some hundred thousand entries.
const MOST_ELEMENTS: u64 = 1 << 24;

/// Why a value could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("the file ends in the middle of its header: it is cut")]
    Cut,
    #[error("a text of {0} bytes stands where a name is expected")]
    LongName(u64),
    #[error("a metadata value has the unknown type {0}")]
    UnknownType(u32),
    #[error("an array claims {0} elements, more than is believable")]
    LongArray(u64),
    #[error("arrays are nested too deeply")]
    Deep,
    #[error("reading failed: {0}")]
    Io(io::Error),
}

/// A position in a file.
pub struct Cursor<R> {
    reader: BufReader<R>,
    position: u64,
    size: u64,
}

impl<R: Read + Seek> Cursor<R> {
    /// Begins at the start of the file, which has `size` bytes.
    pub fn new(mut file: R, size: u64) -> io::Result<Cursor<R>> {
        file.rewind()?;
        Ok(Cursor {
            reader: BufReader::with_capacity(1 << 16, file),
            position: 0,
            size,
        })
    }

    /// The first bytes, without moving.
    pub fn peek(&mut self) -> io::Result<&[u8]> {
        self.reader.fill_buf()
    }

    pub fn position(&self) -> u64 {
        self.position
    }

    pub fn u32(&mut self) -> Result<u32, Fault> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, Fault> {
        self.array().map(u64::from_le_bytes)
    }

    /// A text with its length before it, which may have at most `longest` bytes. What is not UTF-8 is replaced.
    pub fn text(&mut self, longest: u64) -> Result<String, Fault> {
        let length = self.u64()?;
        if length > longest {
            return Err(Fault::LongName(length));
        }
        self.bytes_as_text(length)
    }

    /// The first bytes of a text of any length; the rest is skipped.
    pub fn start_of_text(&mut self, kept: u64) -> Result<String, Fault> {
        let length = self.u64()?;
        let text = self.bytes_as_text(length.min(kept))?;
        self.skip(length.saturating_sub(kept))?;
        Ok(text)
    }

    /// Moves on without reading.
    pub fn skip(&mut self, bytes: u64) -> Result<(), Fault> {
        self.advance(bytes)?;
        let step = i64::try_from(bytes).map_err(|_| Fault::Cut)?;
        self.reader.seek_relative(step).map_err(Fault::Io)
    }

    /// Moves over one metadata value.
    pub fn skip_value(&mut self, kind: u32) -> Result<(), Fault> {
        self.skip_nested(kind, DEEPEST)
    }

    fn skip_nested(&mut self, kind: u32, depth: u32) -> Result<(), Fault> {
        if let Some(width) = types::scalar_width(kind) {
            return self.skip(width);
        }
        match kind {
            types::STRING => {
                let length = self.u64()?;
                self.skip(length)
            }
            types::ARRAY => {
                let depth = depth.checked_sub(1).ok_or(Fault::Deep)?;
                let (inner, count) = (self.u32()?, self.u64()?);
                if count > MOST_ELEMENTS {
                    return Err(Fault::LongArray(count));
                }
                if let Some(width) = types::scalar_width(inner) {
                    return self.skip(count.checked_mul(width).ok_or(Fault::Cut)?);
                }
                (0..count).try_for_each(|_| self.skip_nested(inner, depth))
            }
            unknown => Err(Fault::UnknownType(unknown)),
        }
    }

    fn bytes_as_text(&mut self, length: u64) -> Result<String, Fault> {
        self.advance(length)?;
        let mut bytes = vec![0; usize::try_from(length).map_err(|_| Fault::Cut)?];
        self.reader.read_exact(&mut bytes).map_err(ended)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        self.advance(N as u64)?;
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes).map_err(ended)?;
        Ok(bytes)
    }

    fn advance(&mut self, bytes: u64) -> Result<(), Fault> {
        let position = self
            .position
            .checked_add(bytes)
            .filter(|position| *position <= self.size)
            .ok_or(Fault::Cut)?;
        self.position = position;
        Ok(())
    }
}

fn ended(error: io::Error) -> Fault {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Fault::Cut,
        _ => Fault::Io(error),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor as Bytes;

    use super::*;

    fn skipped(kind: u32, bytes: &[u8]) -> Result<u64, Fault> {
        let mut cursor = Cursor::new(Bytes::new(bytes), bytes.len() as u64).unwrap();
        cursor.skip_value(kind).map(|()| cursor.position())
    }

    fn array_of(inner: u32, count: u64) -> Vec<u8> {
        [&inner.to_le_bytes()[..], &count.to_le_bytes()].concat()
    }

    #[test]
    fn values_of_every_kind_are_skipped_by_their_size() {
        assert_eq!(skipped(types::UINT32, &[0; 9]).unwrap(), 4);
        assert_eq!(
            skipped(types::STRING, &[2, 0, 0, 0, 0, 0, 0, 0, b'a', b'b', 9]).unwrap(),
            10
        );
        let numbers = [array_of(types::UINT64, 2), vec![0; 16]].concat();
        assert_eq!(skipped(types::ARRAY, &numbers).unwrap(), 28);
    }

    #[test]
    fn long_deep_unknown_and_cut_values_are_refused() {
        assert!(matches!(
            skipped(types::ARRAY, &array_of(0, u64::MAX)),
            Err(Fault::LongArray(_))
        ));
        assert!(matches!(
            skipped(types::ARRAY, &array_of(types::STRING, 1)),
            Err(Fault::Cut)
        ));
        assert!(matches!(
            skipped(types::ARRAY, &array_of(types::ARRAY, 1).repeat(9)),
            Err(Fault::Deep)
        ));
        assert!(matches!(skipped(77, &[0; 8]), Err(Fault::UnknownType(77))));
        assert!(matches!(skipped(types::STRING, &[0xff; 16]), Err(Fault::Cut)));
    }
}
