//! Metadata values of a GGUF file and the typed questions the loader asks of them.

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Any unsigned integer type.
    Unsigned(u64),
    /// Any signed integer type.
    Signed(i64),
    /// Either float type.
    Float(f64),
    /// One byte, 0 or 1.
    Bool(bool),
    /// UTF-8 text.
    Text(String),
    /// An array of texts.
    Texts(Vec<String>),
    /// An array of numbers, as it lies in the file (an array of bytes stays as small as it is there).
    Numbers(Numbers),
}

/// An array of one scalar type in little-endian bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Numbers {
    kind: Scalar,
    bytes: Vec<u8>,
}

/// Scalar types of metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scalar {
    /// 8-bit unsigned.
    U8,
    /// 8-bit signed.
    I8,
    /// 16-bit unsigned.
    U16,
    /// 16-bit signed.
    I16,
    /// 32-bit unsigned.
    U32,
    /// 32-bit signed.
    I32,
    /// 32-bit float.
    F32,
    /// A byte, 0 or 1.
    Bool,
    /// 64-bit unsigned.
    U64,
    /// 64-bit signed.
    I64,
    /// 64-bit float.
    F64,
}

impl Value {
    /// The value as a count or id, whatever integer type the file chose.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Self::Unsigned(value) => Some(value),
            Self::Signed(value) => u64::try_from(value).ok(),
            _ => None,
        }
    }

    /// The value as a float.
    pub fn as_f32(&self) -> Option<f32> {
        match *self {
            Self::Float(value) => Some(value as f32),
            _ => None,
        }
    }

    /// The value as a flag.
    pub fn as_bool(&self) -> Option<bool> {
        match *self {
            Self::Bool(value) => Some(value),
            _ => None,
        }
    }

    /// The value as text.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(value) => Some(value),
            _ => None,
        }
    }

    /// The value as a list of texts.
    pub fn as_texts(&self) -> Option<&[String]> {
        match self {
            Self::Texts(values) => Some(values),
            _ => None,
        }
    }

    /// The value as a list of numbers.
    pub fn as_numbers(&self) -> Option<&Numbers> {
        match self {
            Self::Numbers(values) => Some(values),
            _ => None,
        }
    }

    /// What the value is, for error messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Unsigned(_) => "an unsigned integer",
            Self::Signed(_) => "a signed integer",
            Self::Float(_) => "a float",
            Self::Bool(_) => "a boolean",
            Self::Text(_) => "a text",
            Self::Texts(_) => "an array of texts",
            Self::Numbers(_) => "an array of numbers",
        }
    }
}

impl Numbers {
    /// Takes `bytes`, whose length the reader has made a multiple of the element size.
    pub(super) fn new(kind: Scalar, bytes: Vec<u8>) -> Self {
        Self { kind, bytes }
    }

    /// Elements.
    pub fn len(&self) -> usize {
        self.bytes.len() / self.kind.bytes()
    }

    /// Nothing in it.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// All elements as integers, if they are integers.
    pub fn to_i64s(&self) -> Option<Vec<i64>> {
        self.bytes
            .chunks_exact(self.kind.bytes())
            .map(|bytes| match self.kind.value(bytes)? {
                Value::Unsigned(value) => i64::try_from(value).ok(),
                Value::Signed(value) => Some(value),
                Value::Bool(value) => Some(i64::from(value)),
                _ => None,
            })
            .collect()
    }

    /// All elements as floats, if they are floats.
    pub fn to_f32s(&self) -> Option<Vec<f32>> {
        self.bytes
            .chunks_exact(self.kind.bytes())
            .map(|bytes| self.kind.value(bytes)?.as_f32())
            .collect()
    }
}

impl Scalar {
    /// The scalar with this number in the file; 8 (text) and 9 (array) are none.
    pub(super) fn by_id(id: u32) -> Option<Self> {
        Some(match id {
            0 => Self::U8,
            1 => Self::I8,
            2 => Self::U16,
            3 => Self::I16,
            4 => Self::U32,
            5 => Self::I32,
            6 => Self::F32,
            7 => Self::Bool,
            10 => Self::U64,
            11 => Self::I64,
            12 => Self::F64,
            _ => return None,
        })
    }

    /// Size of one.
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }

    /// Reads one from exactly `self.bytes()` bytes; `None` for a boolean that is neither 0 nor 1.
    pub(super) fn value(self, bytes: &[u8]) -> Option<Value> {
        let mut word = [0u8; 8];
        word.get_mut(..bytes.len())?.copy_from_slice(bytes);
        let unsigned = u64::from_le_bytes(word);
        Some(match self {
            Self::U8 | Self::U16 | Self::U32 | Self::U64 => Value::Unsigned(unsigned),
            Self::I8 => Value::Signed(i64::from(unsigned as u8 as i8)),
            Self::I16 => Value::Signed(i64::from(unsigned as u16 as i16)),
            Self::I32 => Value::Signed(i64::from(unsigned as u32 as i32)),
            Self::I64 => Value::Signed(unsigned as i64),
            Self::F32 => Value::Float(f64::from(f32::from_bits(unsigned as u32))),
            Self::F64 => Value::Float(f64::from_bits(unsigned)),
            Self::Bool => match unsigned {
                0 => Value::Bool(false),
                1 => Value::Bool(true),
                _ => return None,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_of_every_width_are_the_same_number() {
        for (kind, bytes) in [
            (Scalar::U8, vec![7]),
            (Scalar::I16, vec![7, 0]),
            (Scalar::U64, vec![7, 0, 0, 0, 0, 0, 0, 0]),
        ] {
            assert_eq!(kind.value(&bytes).unwrap().as_u64(), Some(7));
        }
        assert_eq!(Scalar::I32.value(&[0xff; 4]).unwrap(), Value::Signed(-1));
        assert_eq!(Scalar::I8.value(&[0x80]).unwrap(), Value::Signed(-128));
    }

    #[test]
    fn a_negative_number_is_not_a_count() {
        assert_eq!(Value::Signed(-1).as_u64(), None);
    }

    #[test]
    fn an_array_of_floats_is_not_an_array_of_integers() {
        let floats = Numbers::new(Scalar::F32, 1.5f32.to_le_bytes().to_vec());
        assert_eq!(floats.to_i64s(), None);
        assert_eq!(floats.to_f32s(), Some(vec![1.5]));
    }

    #[test]
    fn a_boolean_is_zero_or_one() {
        assert_eq!(Scalar::Bool.value(&[2]), None);
    }
}
