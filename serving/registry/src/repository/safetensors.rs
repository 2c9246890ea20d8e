//! The head of a safetensors file: is the file whole, how many numbers has it, of which types?
//!
//! The head is read as a stream, one tensor at a time: what is kept does not grow with it.
use std::collections::BTreeMap;
use std::fmt;
use std::io::{BufReader, Read};

use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, de};

/// The format's own limit.
const LARGEST_HEAD: u64 = 100_000_000;
const MOST_DIMENSIONS: usize = 16;

/// Sums over the tensors of one or more files.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Tensors {
    /// Numbers of all tensors.
    pub parameters: u64,
    /// Bytes by type of number, such as `BF16`.
    pub bytes_by_type: BTreeMap<String, u64>,
}

impl Tensors {
    /// The type that takes the most bytes.
    pub fn most_used(&self) -> Option<String> {
        let by_bytes = self.bytes_by_type.iter().max_by_key(|(_, bytes)| **bytes);
        by_bytes.map(|(name, _)| name.clone())
    }
}

/// Why a file is not a whole safetensors file.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// Its content is wrong.
    #[error("{0}")]
    Malformed(String),
    /// The disk failed.
    #[error("reading failed")]
    Io(#[source] std::io::Error),
}

/// Adds the tensors of a file of `size` bytes.
pub fn read(mut file: impl Read, size: u64, sums: &mut Tensors) -> Result<(), Unreadable> {
    let malformed = |why: String| Unreadable::Malformed(why);
    let mut length = [0; 8];
    if size < 8 {
        return Err(malformed("it is shorter than the length of its head".into()));
    }
    file.read_exact(&mut length).map_err(Unreadable::Io)?;
    let length = u64::from_le_bytes(length);
    if length > LARGEST_HEAD {
        return Err(malformed(format!(
            "it claims a head of {length} bytes, which no safetensors file has"
        )));
    }
    let Some(data) = size.checked_sub(8 + length) else {
        return Err(malformed("it ends within its head: it is cut".into()));
    };
    let mut reader = serde_json::Deserializer::from_reader(BufReader::with_capacity(64 << 10, file.take(length)));
    let end = reader
        .deserialize_map(Head { sums })
        .and_then(|end| reader.end().map(|()| end))
        .map_err(|error| {
            if error.is_io() {
                Unreadable::Io(error.into())
            } else {
                malformed(format!("its head is wrong: {error}"))
            }
        })?;
    if end != data {
        return Err(malformed(format!(
            "its tensors need {end} bytes, but {data} follow its head: it is cut or damaged"
        )));
    }
    Ok(())
}

#[derive(Deserialize)]
struct Tensor {
    dtype: String,
    shape: Shape,
    data_offsets: (u64, u64),
}

/// The product of the extents.
struct Shape(u64);

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Shape, D::Error> {
        let extents = Vec::<u64>::deserialize(deserializer)?;
        let product = extents
            .iter()
            .try_fold(1_u64, |product, extent| product.checked_mul(*extent));
        match product {
            Some(product) if extents.len() <= MOST_DIMENSIONS => Ok(Shape(product)),
            _ => Err(de::Error::custom("a tensor has an absurd shape")),
        }
    }
}

/// Reads the map of tensors and returns the end of the last one.
struct Head<'a> {
    sums: &'a mut Tensors,
}

impl<'de> Visitor<'de> for Head<'_> {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<u64, A::Error> {
        let mut last = 0;
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let tensor: Tensor = map.next_value()?;
            let (start, end) = tensor.data_offsets;
            if start > end || tensor.dtype.len() > 16 {
                return Err(de::Error::custom("a tensor has absurd offsets or an unknown type"));
            }
            last = last.max(end);
            let sums = &mut *self.sums;
            let parameters = sums.parameters.checked_add(tensor.shape.0);
            sums.parameters = parameters.ok_or_else(|| de::Error::custom("the sum of its tensors is absurd"))?;
            let bytes = sums.bytes_by_type.entry(tensor.dtype).or_default();
            *bytes = bytes.saturating_add(end - start);
            if sums.bytes_by_type.len() > 64 {
                return Err(de::Error::custom("it has more types of numbers than there are"));
            }
        }
        Ok(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(head: &str, data: usize) -> Vec<u8> {
        [&(head.len() as u64).to_le_bytes()[..], head.as_bytes(), &vec![0; data]].concat()
    }

    fn sums(bytes: &[u8]) -> Result<Tensors, String> {
        let mut sums = Tensors::default();
        read(bytes, bytes.len() as u64, &mut sums).map_err(|error| error.to_string())?;
        Ok(sums)
    }

    const HEAD: &str = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]},
        "b":{"dtype":"F32","shape":[],"data_offsets":[12,16]}}"#;

    #[test]
    fn numbers_and_their_types_are_summed() {
        let sums = sums(&file(HEAD, 16)).unwrap();
        assert_eq!((sums.parameters, sums.most_used().as_deref()), (7, Some("BF16")));
    }

    #[test]
    fn a_file_cut_anywhere_is_refused() {
        let whole = file(HEAD, 16);
        for length in 0..whole.len() {
            assert!(sums(&whole[..length]).is_err(), "{length}");
        }
        assert!(sums(&whole[..whole.len() - 1]).unwrap_err().contains("it is cut"));
    }

    #[test]
    fn heads_that_lie_are_refused() {
        let tensor = |shape: &str, offsets: &str| {
            file(
                &format!("{{\"a\":{{\"dtype\":\"F32\",\"shape\":{shape},\"data_offsets\":{offsets}}}}}"),
                4,
            )
        };
        assert!(sums(&tensor("[1]", "[0,4]")).is_ok());
        for (shape, offsets) in [
            ("[1]", "[4,0]"),
            ("[1]", "[0,5]"),
            ("[18446744073709551615,2]", "[0,4]"),
            ("[-1]", "[0,4]"),
            ("[1]", "[0]"),
            ("[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]", "[0,4]"),
        ] {
            assert!(sums(&tensor(shape, offsets)).is_err(), "{shape} {offsets}");
        }
        for head in ["", "[]", "{", "{}x", "{\"a\":1}"] {
            assert!(sums(&file(head, 0)).is_err(), "{head}");
        }
        let mut huge = file("{}", 0);
        huge[..8].fill(0xff);
        assert!(sums(&huge).unwrap_err().contains("no safetensors file has"));
    }
}
