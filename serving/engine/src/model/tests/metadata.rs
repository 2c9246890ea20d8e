//! What a file says of its architecture: how it is read, and the sentences that refuse what cannot be computed.
use std::io::Write;
use std::path::Path;

use super::tiny;
use crate::engine::{Engine, LoadError};
use crate::load::gguf::{Gguf, GgufError};
use crate::model::{Rotation, Shape, family};
use crate::request::EngineOptions;

/// Metadata of a file: bytes as the specification wants them.
struct Head(Vec<u8>, u64);

impl Head {
    /// A model of these layers, 64 wide, with four heads of 16.
    fn new(architecture: &str, layers: u32) -> Self {
        let mut head = Self(Vec::new(), 0).text("general.architecture", architecture);
        for (name, value) in [
            ("block_count", layers),
            ("embedding_length", 64),
            ("attention.head_count", 4),
            ("feed_forward_length", 96),
            ("context_length", 4096),
        ] {
            head = head.number(&format!("{architecture}.{name}"), value);
        }
        head.float(&format!("{architecture}.attention.layer_norm_rms_epsilon"), 1e-6)
    }

    fn entry(mut self, key: &str, kind: u32, value: &[u8]) -> Self {
        self.0.extend((key.len() as u64).to_le_bytes());
        self.0.extend(key.bytes());
        self.0.extend(kind.to_le_bytes());
        self.0.extend(value);
        self.1 += 1;
        self
    }

    fn number(self, key: &str, value: u32) -> Self {
        self.entry(key, 4, &value.to_le_bytes())
    }

    fn float(self, key: &str, value: f32) -> Self {
        self.entry(key, 6, &value.to_le_bytes())
    }

    fn text(self, key: &str, value: &str) -> Self {
        let mut bytes = (value.len() as u64).to_le_bytes().to_vec();
        bytes.extend(value.bytes());
        self.entry(key, 8, &bytes)
    }

    fn flags(self, key: &str, flags: &[u8]) -> Self {
        let mut bytes = 7u32.to_le_bytes().to_vec();
        bytes.extend((flags.len() as u64).to_le_bytes());
        bytes.extend(flags);
        self.entry(key, 9, &bytes)
    }

    fn read(self) -> Result<Shape, GgufError> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(3u32.to_le_bytes());
        bytes.extend(0u64.to_le_bytes());
        bytes.extend(self.1.to_le_bytes());
        bytes.extend(self.0);
        let size = bytes.len() as u64;
        let gguf = Gguf::parse(&mut bytes.as_slice(), size, Path::new("test.gguf"))?;
        Shape::read(&gguf, &family(&gguf)?, 100)
    }

    fn refusal(self) -> String {
        self.read().unwrap_err().to_string()
    }
}

/// For each layer, whether it has the window.
fn is_local(shape: &Shape, window: usize) -> Vec<bool> {
    let windows = shape.positions.windows.iter();
    windows
        .map(|layer| layer.is_some_and(|layer| layer.get() == window))
        .collect()
}

#[test]
fn the_last_of_six_layers_of_gemma_sees_everything_with_the_rotation_of_the_file() {
    let shape = Head::new("gemma3", 13)
        .number("gemma3.attention.sliding_window", 512)
        .float("gemma3.rope.freq_base", 1e6)
        .text("gemma3.rope.scaling.type", "linear")
        .float("gemma3.rope.scaling.factor", 8.0)
        .read()
        .unwrap();
    let global = [5, 11];
    let expected: Vec<bool> = (0..13).map(|layer| !global.contains(&layer)).collect();
    assert_eq!(is_local(&shape, 512), expected);
    assert_eq!(shape.context, 4096, "the window does not shorten the context");
    let ropes: Vec<Rotation> = shape.positions.ropes().collect();
    let rotation = |base, scale| Rotation { base, scale };
    assert_eq!(ropes, [rotation(1e6, 8.0), rotation(1e4, 1.0)]);
    assert_eq!((shape.positions.rope_of(4), shape.positions.rope_of(5)), (1, 0));
}

#[test]
fn a_file_may_say_which_layers_have_the_window() {
    let head = |name| Head::new(name, 4).number(&format!("{name}.attention.sliding_window"), 32);
    let pattern = |name| format!("{name}.attention.sliding_window_pattern");
    let flags = |head: Head| is_local(&head.read().unwrap(), 32);
    assert_eq!(
        flags(head("llama")),
        [true; 4],
        "Mistral's window is that of all layers"
    );
    let twos = [true, false, true, false];
    assert_eq!(flags(head("gemma3").number(&pattern("gemma3"), 2)), twos);
    let flagged = head("qwen3").flags(&pattern("qwen3"), &[1, 0, 0, 1]);
    assert_eq!(flags(flagged), [true, false, false, true]);
    let too_few = head("qwen3").flags(&pattern("qwen3"), &[1, 0, 0]).refusal();
    assert!(
        too_few.contains("qwen3.attention.sliding_window_pattern") && too_few.contains("4 layers"),
        "{too_few}"
    );
    let unsaid = head("qwen3").read().unwrap();
    assert_eq!((unsaid.context, is_local(&unsaid, 32)), (32, vec![false; 4]));
}

#[test]
fn only_the_largest_gemma_scales_its_queries_by_the_width() {
    let scale = |layers| {
        let shape = Head::new("gemma3", layers)
            .number("gemma3.attention.key_length", 32)
            .number("gemma3.attention.value_length", 32)
            .read()
            .unwrap();
        (crate::model::gemma3::FAMILY.attention_scale)(&shape)
    };
    assert_eq!((scale(62), scale(48)), (0.25, 1.0 / 32f32.sqrt()));
}

#[test]
fn what_cannot_be_computed_is_refused_by_name() {
    let message = Head::new("mamba", 4).refusal();
    for name in ["`mamba`", "llama", "qwen2", "qwen3", "gemma3"] {
        assert!(message.contains(name), "{message}");
    }
    for kind in ["yarn", "longrope"] {
        let message = Head::new("qwen3", 4)
            .text("qwen3.rope.scaling.type", kind)
            .float("qwen3.rope.scaling.factor", 4.0)
            .refusal();
        let named = message.contains("qwen3.rope.scaling.type") && message.contains(&format!("`{kind}`"));
        assert!(named && message.contains("linear"), "{message}");
    }
    for factor in [-1.0, f32::NAN] {
        let message = Head::new("llama", 4)
            .float("llama.rope.scaling.factor", factor)
            .refusal();
        assert!(message.contains("llama.rope.scaling.factor"), "{message}");
    }
    let capped = Head::new("gemma3", 4)
        .float("gemma3.final_logit_softcapping", 30.0)
        .refusal();
    assert!(capped.contains("gemma3.final_logit_softcapping"), "{capped}");
    let window = Head::new("llama", 4)
        .number("llama.attention.sliding_window", u32::MAX)
        .refusal();
    assert!(window.contains("llama.attention.sliding_window"), "{window}");
}

#[test]
fn a_factor_without_a_type_scales_positions_linearly() {
    let scale = |factor| {
        let head = Head::new("llama", 1).float("llama.rope.scaling.factor", factor);
        head.read().unwrap().positions.rope.scale
    };
    assert_eq!((scale(2.0), scale(0.0)), (2.0, 1.0));
}

fn refused(bytes: &[u8]) -> String {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    match Engine::load(file.path(), &EngineOptions::default()) {
        Err(LoadError::File(error)) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_norm_of_another_size_or_none_is_refused_by_name() {
    let bytes = std::fs::read(tiny("gemma3.gguf")).unwrap();
    for name in ["attn_q_norm", "attn_k_norm", "post_attention_norm", "post_ffw_norm"] {
        let name = format!("blk.3.{name}.weight");
        let at = bytes
            .windows(name.len())
            .position(|part| part == name.as_bytes())
            .unwrap();
        // After the name: the number of extents, and the only one.
        let extent = at + name.len() + 4;
        let mut smaller = bytes.clone();
        assert!([16, 32].contains(&smaller[extent]));
        smaller[extent] = 8;
        let message = refused(&smaller);
        assert!(message.contains(&name) && message.contains("[8]"), "{message}");
        let mut without = bytes.clone();
        without[at] = b'x';
        let message = refused(&without);
        assert!(message.contains(&format!("no tensor `{name}`")), "{message}");
    }
}
