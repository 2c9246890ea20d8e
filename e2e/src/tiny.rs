//! A real model of 250 KB: a one-layer Llama in GGUF with random weights and a byte-level tokenizer. Its
//! answers are nonsense, and it starts at once, so that tests of the operator need not wait for weights.
//! What a model says is tested with SmolLM2 instead.

const EMBEDDING: u64 = 64;
const FEED_FORWARD: u64 = 128;
const HEADS: u32 = 2;
const KV_HEADS: u32 = 1;
const CONTEXT: u32 = 2048;
/// The 256 bytes, one merge, one end token.
const VOCABULARY: u64 = 258;
const END_TOKEN: u32 = 257;
const ALIGNMENT: usize = 32;
const F32: u32 = 0;

/// The bytes of the model. Another seed makes another file with another digest.
pub fn gguf(seed: u64) -> Vec<u8> {
    let kv_width = EMBEDDING / u64::from(HEADS) * u64::from(KV_HEADS);
    // GGUF names the fastest dimension first: (columns, rows).
    let tensors: [(&str, &[u64]); 11] = [
        ("token_embd.weight", &[EMBEDDING, VOCABULARY]),
        ("output_norm.weight", &[EMBEDDING]),
        ("blk.0.attn_norm.weight", &[EMBEDDING]),
        ("blk.0.attn_q.weight", &[EMBEDDING, EMBEDDING]),
        ("blk.0.attn_k.weight", &[EMBEDDING, kv_width]),
        ("blk.0.attn_v.weight", &[EMBEDDING, kv_width]),
        ("blk.0.attn_output.weight", &[EMBEDDING, EMBEDDING]),
        ("blk.0.ffn_norm.weight", &[EMBEDDING]),
        ("blk.0.ffn_gate.weight", &[EMBEDDING, FEED_FORWARD]),
        ("blk.0.ffn_up.weight", &[EMBEDDING, FEED_FORWARD]),
        ("blk.0.ffn_down.weight", &[FEED_FORWARD, EMBEDDING]),
    ];
    let metadata = metadata();
    let mut file = Writer(Vec::new());
    file.0.extend_from_slice(b"GGUF");
    file.u32(3);
    file.u64(tensors.len() as u64);
    file.u64(metadata.len() as u64);
    for (key, value) in &metadata {
        file.string(key);
        value.write(&mut file);
    }
    let mut offset = 0;
    for (name, shape) in tensors {
        file.string(name);
        file.u32(shape.len() as u32);
        shape.iter().for_each(|length| file.u64(*length));
        file.u32(F32);
        file.u64(offset);
        offset += (shape.iter().product::<u64>() * 4).next_multiple_of(ALIGNMENT as u64);
    }
    file.align();
    let mut random = seed.wrapping_mul(2).wrapping_add(1);
    for (name, shape) in tensors {
        let is_norm = name.contains("norm");
        for _ in 0..shape.iter().product::<u64>() {
            let weight = if is_norm { 1.0 } else { small(&mut random) };
            file.0.extend_from_slice(&weight.to_le_bytes());
        }
        file.align();
    }
    file.0
}

/// A weight between -0.1 and 0.1 (a linear congruential generator; constants of Knuth's MMIX).
fn small(state: &mut u64) -> f32 {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    ((*state >> 40) as f32 / (1 << 24) as f32 - 0.5) * 0.2
}

enum Value {
    Text(&'static str),
    U32(u32),
    F32(f32),
    Texts(Vec<String>),
    I32s(Vec<i32>),
}

fn metadata() -> Vec<(&'static str, Value)> {
    let mut tokens: Vec<String> = (0..=255).map(|byte| spelled(byte).to_string()).collect();
    tokens.push("\u{120}t".into());
    tokens.push("<|endoftext|>".into());
    let (normal, control) = (1, 3);
    let mut types = vec![normal; tokens.len()];
    types[END_TOKEN as usize] = control;
    vec![
        ("general.architecture", Value::Text("llama")),
        ("general.name", Value::Text("tiny")),
        ("general.license", Value::Text("apache-2.0")),
        ("general.file_type", Value::U32(0)),
        ("llama.context_length", Value::U32(CONTEXT)),
        ("llama.embedding_length", Value::U32(EMBEDDING as u32)),
        ("llama.block_count", Value::U32(1)),
        ("llama.feed_forward_length", Value::U32(FEED_FORWARD as u32)),
        ("llama.attention.head_count", Value::U32(HEADS)),
        ("llama.attention.head_count_kv", Value::U32(KV_HEADS)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("llama.rope.dimension_count", Value::U32(EMBEDDING as u32 / HEADS)),
        ("llama.rope.freq_base", Value::F32(10_000.0)),
        ("llama.vocab_size", Value::U32(VOCABULARY as u32)),
        ("tokenizer.ggml.model", Value::Text("gpt2")),
        ("tokenizer.ggml.pre", Value::Text("smollm")),
        ("tokenizer.ggml.tokens", Value::Texts(tokens)),
        ("tokenizer.ggml.token_type", Value::I32s(types)),
        ("tokenizer.ggml.merges", Value::Texts(vec!["\u{120} t".into()])),
        ("tokenizer.ggml.bos_token_id", Value::U32(END_TOKEN)),
        ("tokenizer.ggml.eos_token_id", Value::U32(END_TOKEN)),
        (
            "tokenizer.chat_template",
            Value::Text("{% for message in messages %}{{ message.content }}\n{% endfor %}"),
        ),
    ]
}

/// The character that stands for a byte in byte-level vocabularies: printable ones for themselves, the
/// others from U+0100 on, in order.
fn spelled(byte: u8) -> char {
    let plain = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if plain(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|other| !plain(*other)).count();
    char::from_u32(0x100 + before as u32).unwrap_or(char::REPLACEMENT_CHARACTER)
}

struct Writer(Vec<u8>);

impl Writer {
    fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn string(&mut self, text: &str) {
        self.u64(text.len() as u64);
        self.0.extend_from_slice(text.as_bytes());
    }

    fn align(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(ALIGNMENT), 0);
    }
}

impl Value {
    /// Type numbers are those of the GGUF specification.
    fn write(&self, file: &mut Writer) {
        match self {
            Self::U32(value) => {
                file.u32(4);
                file.u32(*value);
            }
            Self::F32(value) => {
                file.u32(6);
                file.u32(value.to_bits());
            }
            Self::Text(text) => {
                file.u32(8);
                file.string(text);
            }
            Self::Texts(texts) => {
                file.u32(9);
                file.u32(8);
                file.u64(texts.len() as u64);
                texts.iter().for_each(|text| file.string(text));
            }
            Self::I32s(values) => {
                file.u32(9);
                file.u32(5);
                file.u64(values.len() as u64);
                values.iter().for_each(|value| file.u32(value.cast_unsigned()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_spelled_as_byte_level_vocabularies_do() {
        assert_eq!(spelled(b'A'), 'A');
        assert_eq!(spelled(b' '), '\u{120}');
        assert_eq!(spelled(b'\n'), '\u{10a}');
        assert_eq!(spelled(0xad), '\u{143}');
    }

    #[test]
    fn a_seed_makes_one_file_and_another_seed_another() {
        assert_eq!(gguf(1), gguf(1));
        assert_ne!(gguf(1), gguf(2));
        assert_eq!(gguf(1).len(), gguf(2).len());
        assert_eq!(gguf(1).len() % ALIGNMENT, 0);
    }
}
