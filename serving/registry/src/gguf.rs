//! Reads the header of a GGUF file for the facts that a status shows, and proves that the tensors fit into the file.
//!
//! Trusts nothing: every count, length and offset is checked against a bound and against the size of the file before
//! it is used; nothing is allocated by a number from the file but short strings. It loads no weights.
//! Layout: the GGUF specification (github.com/ggml-org/ggml, docs/gguf.md), versions 2 and 3, little-endian.
mod cursor;
mod looks;
mod types;

use std::collections::BTreeMap;
use std::io::{Read, Seek};

use windlass_api::fetch::ModelFacts;

use crate::digest::Digest;
use cursor::{Cursor, Fault};
pub use looks::looks_like;

/// Bounds far above any real file: the largest models have a few thousand tensors and some hundred keys.
const MOST_TENSORS: u64 = 1 << 17;
const MOST_KEYS: u64 = 1 << 16;
const MOST_DIMENSIONS: u32 = 8;
const LONGEST_NAME: u64 = 1 << 16;
/// Texts that the facts need.
const TEXTS: [&str; 2] = ["general.architecture", "general.license"];
/// Numbers that the facts need; the length of the context has the architecture before it.
const NUMBERS: [&str; 2] = ["general.file_type", ALIGNMENT];
const ALIGNMENT: &str = "general.alignment";
const CONTEXT_LENGTH: &str = ".context_length";
/// A longer name of an architecture is none.
const LONGEST_KEY: usize = 128;
/// What a status may show of one string.
const LONGEST_FACT: usize = 128;

/// Why a file is not a usable GGUF file.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// It does not begin like one.
    #[error("it is not GGUF but looks like {0}")]
    OtherFormat(String),
    /// It begins like one, but what follows is wrong.
    #[error("{0}")]
    Malformed(String),
    /// The disk failed.
    #[error("reading failed")]
    Io(#[source] std::io::Error),
}

impl From<Fault> for Unreadable {
    fn from(fault: Fault) -> Unreadable {
        match fault {
            Fault::Io(error) => Unreadable::Io(error),
            other => Unreadable::Malformed(other.to_string()),
        }
    }
}

/// The facts of a file whose digest and size are known.
pub fn read(file: impl Read + Seek, digest: Digest, size: u64) -> Result<ModelFacts, Unreadable> {
    let mut cursor = Cursor::new(file, size).map_err(Unreadable::Io)?;
    let start = cursor.peek().map_err(Unreadable::Io)?;
    if !start.starts_with(b"GGUF") {
        return Err(Unreadable::OtherFormat(looks_like(start)));
    }
    cursor.skip(4)?;
    let version = cursor.u32()?;
    if matches!(version.swap_bytes(), 2 | 3) {
        return malformed("it is big-endian, made for another kind of machine");
    }
    if !matches!(version, 2 | 3) {
        return malformed(format!("it has version {version}, but versions 2 and 3 are supported"));
    }
    let tensors = bounded(cursor.u64()?, MOST_TENSORS, "tensors")?;
    let keys = bounded(cursor.u64()?, MOST_KEYS, "metadata keys")?;
    let metadata = Metadata::read(&mut cursor, keys)?;
    let weights = Weights::read(&mut cursor, tensors)?;
    weights.fit(cursor.position(), metadata.alignment()?, size)?;
    let architecture = metadata.text("general.architecture");
    let context_length = architecture
        .as_ref()
        .and_then(|name| metadata.number(&format!("{name}{CONTEXT_LENGTH}")));
    let file_type = metadata.number("general.file_type").and_then(types::file_type);
    Ok(ModelFacts {
        digest: digest.to_string(),
        commit: None,
        size_bytes: size,
        format: "GGUF".to_owned(),
        parameters: (weights.parameters > 0).then_some(weights.parameters),
        quantization: file_type.map(str::to_owned).or_else(|| weights.most_used()),
        context_length,
        license: metadata.text("general.license"),
        architecture,
    })
}

fn malformed<T>(why: impl Into<String>) -> Result<T, Unreadable> {
    Err(Unreadable::Malformed(why.into()))
}

fn bounded(count: u64, most: u64, what: &str) -> Result<u64, Unreadable> {
    if count > most {
        return malformed(format!(
            "it claims {count} {what}, more than the {most} that are believable"
        ));
    }
    Ok(count)
}

/// The scalar values that the facts need; arrays and long texts (the tokenizer) are skipped.
#[derive(Default)]
struct Metadata {
    numbers: BTreeMap<String, u64>,
    texts: BTreeMap<String, String>,
}

impl Metadata {
    fn read<R: Read + Seek>(cursor: &mut Cursor<R>, keys: u64) -> Result<Metadata, Unreadable> {
        let mut metadata = Metadata::default();
        for _ in 0..keys {
            let key = cursor.text(LONGEST_NAME)?;
            let kind = cursor.u32()?;
            let number = NUMBERS.contains(&&*key) || (key.ends_with(CONTEXT_LENGTH) && key.len() <= LONGEST_KEY);
            // Whoever reads the other one of two would see another model.
            if metadata.texts.contains_key(&key) || metadata.numbers.contains_key(&key) {
                return malformed(format!("the metadata key `{key}` is there twice"));
            }
            match kind {
                types::STRING if TEXTS.contains(&&*key) => {
                    let text = cursor.start_of_text(4 * LONGEST_FACT as u64)?;
                    metadata.texts.insert(key, presentable(&text));
                }
                types::UINT32 if number => {
                    metadata.numbers.insert(key, cursor.u32()?.into());
                }
                types::UINT64 if number => {
                    metadata.numbers.insert(key, cursor.u64()?);
                }
                _ if key == ALIGNMENT => return malformed("its alignment is no unsigned integer"),
                _ => cursor.skip_value(kind)?,
            }
        }
        Ok(metadata)
    }

    fn text(&self, key: &str) -> Option<String> {
        self.texts.get(key).filter(|text| !text.is_empty()).cloned()
    }

    fn number(&self, key: &str) -> Option<u64> {
        self.numbers.get(key).copied()
    }

    fn alignment(&self) -> Result<u64, Unreadable> {
        let alignment = self.number(ALIGNMENT).unwrap_or(32);
        if !alignment.is_power_of_two() || alignment > 1 << 20 {
            return malformed(format!(
                "its alignment is {alignment}, not a power of two up to a mebibyte"
            ));
        }
        Ok(alignment)
    }
}

/// Sums over the tensors.
#[derive(Default)]
struct Weights {
    parameters: u64,
    /// The end of the last tensor, from the start of the data.
    end: u64,
    bytes_by_type: BTreeMap<u32, u64>,
}

impl Weights {
    fn read<R: Read + Seek>(cursor: &mut Cursor<R>, tensors: u64) -> Result<Weights, Unreadable> {
        let mut weights = Weights::default();
        for _ in 0..tensors {
            let name = cursor.text(LONGEST_NAME)?;
            let dimensions = cursor.u32()?;
            if dimensions > MOST_DIMENSIONS {
                return malformed(format!(
                    "tensor `{}` claims {dimensions} dimensions",
                    presentable(&name)
                ));
            }
            let mut elements: Option<u64> = Some(1);
            for _ in 0..dimensions {
                let extent = cursor.u64()?;
                elements = elements.and_then(|elements| elements.checked_mul(extent));
            }
            let (kind, offset) = (cursor.u32()?, cursor.u64()?);
            if weights.add(elements, kind, offset).is_none() {
                return malformed(format!("the size of tensor `{}` is absurd", presentable(&name)));
            }
        }
        Ok(weights)
    }

    /// `None` where a sum leaves 64 bits.
    fn add(&mut self, elements: Option<u64>, kind: u32, offset: u64) -> Option<()> {
        let elements = elements?;
        self.parameters = self.parameters.checked_add(elements)?;
        // A type of a later version of the format: its blocks are unknown, so only its start can be checked.
        let bytes = match types::tensor(kind) {
            Some(tensor) => elements.div_ceil(tensor.elements).checked_mul(tensor.bytes)?,
            None => 0,
        };
        self.end = self.end.max(offset.checked_add(bytes)?);
        let sum = self.bytes_by_type.entry(kind).or_default();
        *sum = sum.checked_add(bytes)?;
        Some(())
    }

    fn fit(&self, header_end: u64, alignment: u64, size: u64) -> Result<(), Unreadable> {
        let needed = header_end
            .checked_next_multiple_of(alignment)
            .and_then(|start| start.checked_add(self.end));
        match needed {
            // A file without tensors (a vocabulary) may end right behind its header.
            Some(needed) if needed <= size || self.end == 0 => Ok(()),
            Some(needed) => malformed(format!(
                "its tensors need {needed} bytes, but the file has {size}: it is cut"
            )),
            None => malformed("its tensors lie outside any file"),
        }
    }

    fn most_used(&self) -> Option<String> {
        let (kind, _) = self.bytes_by_type.iter().max_by_key(|(_, bytes)| **bytes)?;
        Some(types::tensor(*kind).map_or_else(|| format!("type {kind}"), |tensor| tensor.name.to_owned()))
    }
}

/// Text of the file for a status: printable, on one line, not long.
fn presentable(text: &str) -> String {
    text.chars()
        .filter(|c| !c.is_control() && *c != char::REPLACEMENT_CHARACTER)
        .take(LONGEST_FACT)
        .collect()
}

#[cfg(test)]
#[path = "../tests/support/sample.rs"]
mod sample;

#[cfg(test)]
mod tests {
    use std::io::Cursor as Bytes;

    use super::*;
    use sample::Sample;

    fn facts(bytes: &[u8]) -> Result<ModelFacts, String> {
        let digest = Digest::of(bytes, |_| {}).unwrap();
        read(Bytes::new(bytes), digest, bytes.len() as u64).map_err(|error| error.to_string())
    }

    #[test]
    fn the_facts_of_a_model_are_those_of_its_header() {
        let facts = facts(&Sample::default().bytes()).unwrap();
        assert_eq!(facts.architecture.as_deref(), Some("llama"));
        assert_eq!(facts.context_length, Some(2048));
        assert_eq!(facts.license.as_deref(), Some("apache-2.0"));
        assert_eq!(facts.quantization.as_deref(), Some("Q4_1"));
        assert_eq!(facts.parameters, Some(64 * 32 + 64));
    }

    #[test]
    fn without_a_file_type_the_most_used_tensor_type_names_the_quantization() {
        let facts = facts(
            &Sample {
                file_type: None,
                ..Sample::default()
            }
            .bytes(),
        )
        .unwrap();
        assert_eq!(facts.quantization.as_deref(), Some("Q4_1"));
    }

    #[test]
    fn a_file_cut_anywhere_is_refused_without_a_panic() {
        let bytes = Sample::default().bytes();
        for length in 0..bytes.len() {
            assert!(facts(&bytes[..length]).is_err(), "{length} of {}", bytes.len());
        }
        assert!(facts(&bytes[..bytes.len() - 1]).unwrap_err().contains("it is cut"));
    }

    #[test]
    fn any_changed_byte_gives_facts_or_an_error_but_never_a_panic() {
        let bytes = Sample::default().bytes();
        for position in 0..bytes.len() {
            for value in [0x00, 0x7f, 0x80, 0xff] {
                let mut changed = bytes.clone();
                changed[position] = value;
                if let Ok(facts) = facts(&changed) {
                    assert!(facts.size_bytes == bytes.len() as u64);
                }
            }
        }
    }

    #[test]
    fn huge_counts_are_refused_before_anything_is_read_for_them() {
        let mut bytes = Sample::default().bytes();
        bytes[8..16].fill(0xff);
        assert!(facts(&bytes).unwrap_err().contains("tensors"));
        let mut bytes = Sample::default().bytes();
        bytes[16..24].fill(0xff);
        assert!(facts(&bytes).unwrap_err().contains("metadata keys"));
    }

    #[test]
    fn a_tensor_with_an_absurd_size_is_refused_by_name() {
        let sample = Sample {
            extents: [u64::MAX, 2],
            ..Sample::default()
        };
        assert!(facts(&sample.bytes()).unwrap_err().contains("token_embd.weight"));
    }

    /// The corpus of the engine's reader has each shape of the public advisories.
    #[test]
    fn of_the_malformed_files_that_are_known_only_what_does_not_concern_the_facts_passes() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/gguf");
        let mut passed = Vec::new();
        for file in std::fs::read_dir(folder).unwrap() {
            let path = file.unwrap().path();
            if facts(&std::fs::read(&path).unwrap()).is_ok() {
                passed.push(path.file_name().unwrap().to_str().unwrap().to_owned());
            }
        }
        passed.sort();
        let no_concern = [
            "array-of-arrays",
            "boolean-2",
            "duplicate-key",
            "duplicate-tensor",
            "empty-head",
            "sentence-pieces",
            "tensor-dimensions-5",
            "tensor-extent-0",
            "tensor-offset-odd",
            "tensor-type-negative",
            "tensor-type-removed",
            "tensor-without-dimensions",
            "text-not-utf8",
            "tiny-llama",
        ];
        assert_eq!(passed, no_concern);
    }

    #[test]
    fn a_fact_that_is_there_twice_or_an_alignment_of_another_type_is_refused() {
        let pair = |key: &str, kind: u32, value: &[u8]| {
            [
                &(key.len() as u64).to_le_bytes()[..],
                key.as_bytes(),
                &kind.to_le_bytes(),
                value,
            ]
            .concat()
        };
        for (metadata, words) in [
            (
                pair("llama.context_length", types::UINT32, &[1, 0, 0, 0]).repeat(2),
                "is there twice",
            ),
            (pair(ALIGNMENT, 5, &[1, 0, 0, 0]), "no unsigned integer"),
        ] {
            let mut cursor = Cursor::new(Bytes::new(&metadata), metadata.len() as u64).unwrap();
            let Err(error) = Metadata::read(&mut cursor, 2) else {
                panic!("accepted")
            };
            assert!(error.to_string().contains(words), "{error}");
        }
    }

    #[test]
    fn names_of_metadata_take_little_memory_however_many_there_are() {
        // As many and as long as the format allows, all of which once were kept: 64 GB in a file of that size.
        let long = "x".repeat(LONGEST_NAME as usize - 40);
        let mut metadata = Vec::new();
        for index in 0..200 {
            for key in [
                format!("general.{long}{index}"),
                format!("{long}{index}.context_length"),
            ] {
                metadata.extend((key.len() as u64).to_le_bytes());
                metadata.extend(key.as_bytes());
                metadata.extend([types::UINT32.to_le_bytes(), 1_u32.to_le_bytes()].concat());
            }
        }
        let mut cursor = Cursor::new(Bytes::new(&metadata), metadata.len() as u64).unwrap();
        let kept = Metadata::read(&mut cursor, 400).unwrap_or_default();
        assert_eq!((kept.numbers.len(), kept.texts.len()), (0, 0));
        assert_eq!(cursor.position(), metadata.len() as u64);
    }

    #[test]
    fn old_new_and_big_endian_versions_are_told_apart() {
        for (version, words) in [(1, "version 1"), (9, "version 9"), (3_u32.swap_bytes(), "big-endian")] {
            let sample = Sample {
                version,
                ..Sample::default()
            };
            let message = facts(&sample.bytes()).unwrap_err();
            assert!(message.contains(words), "{message}");
        }
    }

    #[test]
    fn texts_of_the_header_are_made_presentable() {
        let license = format!("line\nbreak\u{7}{}", "x".repeat(1000));
        let facts = facts(
            &Sample {
                license,
                ..Sample::default()
            }
            .bytes(),
        )
        .unwrap();
        let shown = facts.license.unwrap();
        assert!(
            shown.starts_with("linebreakx") && shown.chars().count() == LONGEST_FACT,
            "{shown}"
        );
    }
}
