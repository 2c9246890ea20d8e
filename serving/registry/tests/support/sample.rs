//! Builds a small well-formed GGUF file, or one with a chosen flaw.

pub struct Sample {
    pub version: u32,
    pub license: String,
    pub file_type: Option<u32>,
    /// Of the large tensor; its data has the size that 64 x 32 needs, whatever stands here.
    pub extents: [u64; 2],
    /// Bytes behind the last tensor, to make a file as long as a test needs.
    pub padding: usize,
}

impl Default for Sample {
    fn default() -> Sample {
        Sample {
            version: 3,
            license: "apache-2.0".into(),
            file_type: Some(3),
            extents: [64, 32],
            padding: 0,
        }
    }
}

impl Sample {
    pub fn bytes(&self) -> Vec<u8> {
        let mut keys: Vec<Vec<u8>> = vec![
            pair("general.architecture", 8, &text("llama")),
            pair("general.license", 8, &text(&self.license)),
            pair(
                "tokenizer.ggml.tokens",
                9,
                &[&8_u32.to_le_bytes()[..], &2_u64.to_le_bytes(), &text("a"), &text("b")].concat(),
            ),
            pair("llama.context_length", 4, &2048_u32.to_le_bytes()),
        ];
        keys.extend(
            self.file_type
                .map(|number| pair("general.file_type", 4, &number.to_le_bytes())),
        );
        let embedding_bytes: u64 = 64 * 32 / 32 * 20; // Q4_1: 20 bytes for 32 weights
        let mut bytes = [&b"GGUF"[..], &self.version.to_le_bytes(), &2_u64.to_le_bytes()].concat();
        bytes.extend((keys.len() as u64).to_le_bytes());
        bytes.extend(keys.concat());
        bytes.extend(tensor("token_embd.weight", &self.extents, 3, 0));
        bytes.extend(tensor("output_norm.weight", &[64], 0, embedding_bytes));
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        // Not constant, so that swapped or repeated pieces change the digest.
        let data = embedding_bytes as usize + 64 * 4 + self.padding;
        bytes.extend((0..data).map(|index| (index * 31 % 251) as u8));
        bytes
    }
}

fn text(value: &str) -> Vec<u8> {
    [&(value.len() as u64).to_le_bytes()[..], value.as_bytes()].concat()
}

fn pair(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [&text(key)[..], &kind.to_le_bytes(), value].concat()
}

fn tensor(name: &str, extents: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    let mut bytes = text(name);
    bytes.extend((extents.len() as u32).to_le_bytes());
    bytes.extend(extents.iter().flat_map(|extent| extent.to_le_bytes()));
    bytes.extend(kind.to_le_bytes());
    bytes.extend(offset.to_le_bytes());
    bytes
}
