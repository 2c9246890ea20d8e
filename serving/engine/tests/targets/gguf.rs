//! A model file from its first byte to its first token: the reader, the tokenizer, and the engine's own checks.
use std::io::Write;
use std::path::Path;

use windlass_engine::Engine;
use windlass_engine::load::gguf::Gguf;
use windlass_engine::request::{EngineOptions, Request, RequestId};
use windlass_engine::tokenizer::Tokenizer;

/// Little more than the engine keeps in reserve: whatever a file says of itself, a run stays small.
const MEMORY: u64 = 128 << 20;

/// Reads `bytes` as a model file, and computes one step with what loads.
pub fn run(bytes: &[u8]) {
    let path = Path::new("fuzz.gguf");
    let Ok(gguf) = Gguf::parse(&mut &bytes[..], bytes.len() as u64, path) else {
        return;
    };
    for tensor in gguf.tensors() {
        let end = tensor.offset.checked_add(tensor.bytes);
        assert!(
            end.is_some_and(|end| end <= bytes.len() as u64),
            "{tensor:?} is not in the file"
        );
    }
    let Ok(tokenizer) = Tokenizer::from_gguf(&gguf) else {
        return;
    };
    let tokens = tokenizer.encode_prompt("Hi <|im_end|>\n");
    assert!(tokens.iter().all(|&token| (token as usize) < tokenizer.vocab_size()));

    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(bytes).expect("written");
    let options = EngineOptions {
        max_batch_tokens: 16,
        memory_limit: Some(MEMORY),
        block_tokens: 8,
        ..EngineOptions::default()
    };
    let Ok(mut engine) = Engine::load(file.path(), &options) else {
        return;
    };
    let request = Request {
        ignore_eos: true,
        ..Request::new(RequestId(1), vec![0; 2], 1)
    };
    // A context of two tokens has no room for this prompt.
    if engine.submit(request).is_ok() {
        let mut events = Vec::new();
        while engine.has_work() {
            engine.step(&mut events);
        }
        assert!(!events.is_empty(), "a request ended without a word");
    }
}
