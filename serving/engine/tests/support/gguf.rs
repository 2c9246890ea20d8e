//! Writes GGUF files, right ones and wrong ones, byte by byte.
#![allow(dead_code, reason = "each test file uses its part")]

/// A file in the making; each field can be made wrong.
#[derive(Debug, Clone)]
pub struct GgufBytes {
    /// Version of the format.
    pub version: u32,
    /// Key, type number and encoded value of each entry.
    pub entries: Vec<(String, u32, Vec<u8>)>,
    /// The tensors.
    pub tensors: Vec<TensorBytes>,
    /// Written instead of the true count of entries.
    pub entry_count: Option<u64>,
    /// Written instead of the true count of tensors.
    pub tensor_count: Option<u64>,
}

/// A tensor in the making.
#[derive(Debug, Clone)]
pub struct TensorBytes {
    /// Its name.
    pub name: String,
    /// Innermost extent first.
    pub dims: Vec<u64>,
    /// Number of its type.
    pub kind: u32,
    /// Its content; padded to the alignment in the file.
    pub data: Vec<u8>,
    /// Written instead of the true offset.
    pub offset: Option<u64>,
}

const ALIGNMENT: usize = 32;
const U32: u32 = 4;
const I32: u32 = 5;
const F32: u32 = 6;
const BOOL: u32 = 7;
const TEXT: u32 = 8;
const ARRAY: u32 = 9;

impl GgufBytes {
    /// A file with nothing in it.
    pub fn new() -> Self {
        Self {
            version: 3,
            entries: Vec::new(),
            tensors: Vec::new(),
            entry_count: None,
            tensor_count: None,
        }
    }

    /// Adds an entry in its encoded form.
    pub fn entry(&mut self, key: &str, kind: u32, value: Vec<u8>) -> &mut Self {
        self.entries.push((key.into(), kind, value));
        self
    }

    /// Adds a number.
    pub fn u32(&mut self, key: &str, value: u32) -> &mut Self {
        self.entry(key, U32, value.to_le_bytes().into())
    }

    /// Adds a float.
    pub fn f32(&mut self, key: &str, value: f32) -> &mut Self {
        self.entry(key, F32, value.to_le_bytes().into())
    }

    /// Adds a flag.
    pub fn bool(&mut self, key: &str, value: bool) -> &mut Self {
        self.entry(key, BOOL, vec![value.into()])
    }

    /// Adds a text.
    pub fn text(&mut self, key: &str, value: &str) -> &mut Self {
        self.entry(key, TEXT, text(value))
    }

    /// Adds an array of texts.
    pub fn texts<T: AsRef<str>>(&mut self, key: &str, values: &[T]) -> &mut Self {
        let items = values.iter().flat_map(|value| text(value.as_ref())).collect();
        self.array(key, TEXT, values.len() as u64, items)
    }

    /// Adds an array of 32-bit integers.
    pub fn i32s(&mut self, key: &str, values: &[i32]) -> &mut Self {
        let items = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.array(key, I32, values.len() as u64, items)
    }

    /// Adds an array of floats.
    pub fn f32s(&mut self, key: &str, values: &[f32]) -> &mut Self {
        let items = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.array(key, F32, values.len() as u64, items)
    }

    /// Adds an array with any element type and count.
    pub fn array(&mut self, key: &str, element: u32, count: u64, items: Vec<u8>) -> &mut Self {
        let value = [element.to_le_bytes().as_slice(), &count.to_le_bytes(), &items].concat();
        self.entry(key, ARRAY, value)
    }

    /// Replaces an entry, or adds it.
    pub fn replace(&mut self, other: impl Fn(&mut GgufBytes)) -> &mut Self {
        let mut fresh = GgufBytes::new();
        other(&mut fresh);
        for entry in fresh.entries {
            self.entries.retain(|(key, ..)| *key != entry.0);
            self.entries.push(entry);
        }
        self
    }

    /// Adds a tensor of floats.
    pub fn tensor(&mut self, name: &str, dims: &[u64], values: &[f32]) -> &mut Self {
        let data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.tensors.push(TensorBytes {
            name: name.into(),
            dims: dims.into(),
            kind: 0,
            data,
            offset: None,
        });
        self
    }

    /// The file.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend(self.tensor_count.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        bytes.extend(self.entry_count.unwrap_or(self.entries.len() as u64).to_le_bytes());
        for (key, kind, value) in &self.entries {
            bytes.extend(text(key));
            bytes.extend(kind.to_le_bytes());
            bytes.extend(value);
        }
        let mut data = Vec::new();
        for tensor in &self.tensors {
            bytes.extend(text(&tensor.name));
            bytes.extend((tensor.dims.len() as u32).to_le_bytes());
            tensor.dims.iter().for_each(|extent| bytes.extend(extent.to_le_bytes()));
            bytes.extend(tensor.kind.to_le_bytes());
            bytes.extend(tensor.offset.unwrap_or(data.len() as u64).to_le_bytes());
            data.extend(&tensor.data);
            data.resize(data.len().next_multiple_of(ALIGNMENT), 0);
        }
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        bytes.extend(data);
        bytes
    }
}

fn text(value: &str) -> Vec<u8> {
    [(value.len() as u64).to_le_bytes().as_slice(), value.as_bytes()].concat()
}

/// A Llama model of one layer that loads and answers: width 16, two heads of 8, a vocabulary of 256 bytes
/// and three control tokens.
pub fn tiny_llama() -> GgufBytes {
    let (width, inner) = (16u64, 24u64);
    let mut file = GgufBytes::new();
    file.text("general.architecture", "llama").text("general.name", "tiny");
    for (key, value) in [
        ("block_count", 1),
        ("context_length", 64),
        ("embedding_length", 16),
        ("feed_forward_length", 24),
    ] {
        file.u32(&format!("llama.{key}"), value);
    }
    file.u32("llama.attention.head_count", 2)
        .u32("llama.attention.head_count_kv", 1);
    file.f32("llama.attention.layer_norm_rms_epsilon", 1e-5);
    let (texts, kinds) = byte_vocabulary(&["<s>", "<|im_start|>", "<|im_end|>"]);
    let vocabulary = texts.len() as u64;
    file.text("tokenizer.ggml.model", "gpt2")
        .text("tokenizer.ggml.pre", "gpt-2");
    file.texts("tokenizer.ggml.tokens", &texts)
        .i32s("tokenizer.ggml.token_type", &kinds);
    file.texts::<&str>("tokenizer.ggml.merges", &[])
        .u32("tokenizer.ggml.eos_token_id", 258);
    file.u32("tokenizer.ggml.bos_token_id", 256);

    let mut state = 1u32;
    let mut add = |name: &str, dims: &[u64]| {
        let values: Vec<f32> = (0..dims.iter().product::<u64>())
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                if name.contains("norm") {
                    1.0
                } else {
                    (state >> 8) as f32 / (1 << 24) as f32 - 0.5
                }
            })
            .collect();
        file.tensor(name, dims, &values);
    };
    add("token_embd.weight", &[width, vocabulary]);
    add("output_norm.weight", &[width]);
    add("blk.0.attn_norm.weight", &[width]);
    add("blk.0.attn_q.weight", &[width, 16]);
    add("blk.0.attn_k.weight", &[width, 8]);
    add("blk.0.attn_v.weight", &[width, 8]);
    add("blk.0.attn_output.weight", &[16, width]);
    add("blk.0.ffn_norm.weight", &[width]);
    add("blk.0.ffn_gate.weight", &[width, inner]);
    add("blk.0.ffn_up.weight", &[width, inner]);
    add("blk.0.ffn_down.weight", &[inner, width]);
    file
}

/// One token a byte, in the byte alphabet of GPT-2's files, then `control` tokens.
pub fn byte_vocabulary(control: &[&str]) -> (Vec<String>, Vec<i32>) {
    let mut next = 0x100;
    let mut texts: Vec<String> = (0..=255u8)
        .map(|byte| {
            let printable = matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
            let code = if printable { u32::from(byte) } else { next };
            next += u32::from(!printable);
            char::from_u32(code).expect("a character").to_string()
        })
        .collect();
    let mut kinds = vec![1; 256];
    texts.extend(control.iter().map(|text| (*text).to_owned()));
    kinds.extend(control.iter().map(|_| 3));
    (texts, kinds)
}

/// A SentencePiece vocabulary: `<unk>`, control tokens (the first begins a text, the second ends one), a token for
/// each byte, then pieces with their scores.
pub fn sentence_pieces(control: &[&str], pieces: &[(&str, f32)]) -> GgufBytes {
    let (mut texts, mut kinds) = (vec!["<unk>".to_owned()], vec![2]);
    texts.extend(control.iter().map(|text| (*text).to_owned()));
    kinds.resize(texts.len(), 3);
    texts.extend((0..=255u8).map(|byte| format!("<0x{byte:02X}>")));
    kinds.resize(texts.len(), 6);
    let mut scores = vec![0.0; texts.len()];
    texts.extend(pieces.iter().map(|(text, _)| (*text).to_owned()));
    kinds.resize(texts.len(), 1);
    scores.extend(pieces.iter().map(|(_, score)| score));
    let mut file = GgufBytes::new();
    file.text("tokenizer.ggml.model", "llama")
        .texts("tokenizer.ggml.tokens", &texts)
        .i32s("tokenizer.ggml.token_type", &kinds)
        .f32s("tokenizer.ggml.scores", &scores)
        .u32("tokenizer.ggml.bos_token_id", 1)
        .u32("tokenizer.ggml.eos_token_id", 2);
    file
}
