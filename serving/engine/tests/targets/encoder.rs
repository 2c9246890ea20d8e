//! The folder of an encoder from its files to a vector: configuration, tokenizer, safetensors reader, and what computes.
use std::fs;

use windlass_engine::embed::{Embedder, EmbedderOptions, Precision};

use crate::support::encoder::{
    CONFIG, FILES, MODULES, POOLING, SENTENCE, SEPARATOR, TOKENIZER, safetensors, tiny_tensors,
};

/// Whatever a folder says of itself, a run stays small.
const MEMORY: u64 = 64 << 20;
const TEXT: &str = "Unaffable caf\u{e9}!! a東[SEP]a";

/// Takes `bytes` as the files of a folder and a text, and makes the text's vector if they load.
pub fn run(bytes: &[u8]) {
    loads(bytes);
}

/// As `run`; whether they load.
pub fn loads(bytes: &[u8]) -> bool {
    let weights = safetensors(&tiny_tensors());
    let tiny = [
        &weights,
        CONFIG.as_bytes(),
        TOKENIZER.as_bytes(),
        MODULES.as_bytes(),
        POOLING.as_bytes(),
        SENTENCE.as_bytes(),
    ];
    let folder = tempfile::tempdir().expect("a folder");
    fs::create_dir(folder.path().join("1_Pooling")).expect("a folder");
    let mut rest = Some(bytes);
    for (file, tiny) in FILES.iter().zip(tiny) {
        let part = next(&mut rest).unwrap_or(tiny);
        fs::write(folder.path().join(file), part).expect("written");
    }
    let text = String::from_utf8_lossy(rest.unwrap_or(TEXT.as_bytes()));

    let mut encoded = None;
    for precision in [Precision::F32, Precision::Int8] {
        let options = EmbedderOptions {
            threads: 1,
            precision,
            max_length: None,
            memory_limit: Some(MEMORY),
        };
        let Ok(mut embedder) = Embedder::load(folder.path(), &options) else {
            return false;
        };
        let (tokenizer, info) = (embedder.tokenizer(), embedder.info().clone());
        let tokens: &mut Vec<u32> = encoded.get_or_insert_with(|| tokenizer.encode(&text));
        assert!(tokens.iter().all(|&token| (token as usize) < info.vocab_size));
        tokenizer.truncate(tokens, info.max_length);
        let fits = (1..=info.max_length).contains(&tokens.len());
        assert_eq!(info.check(tokens).is_ok(), fits);
        let vectors = embedder.embed(&[tokens, &[0], &[]]);
        assert_eq!(vectors.len(), 3);
        assert!(vectors[2].is_err(), "a vector of nothing");
        for vector in vectors.into_iter().flatten() {
            assert_eq!(vector.len(), info.dimensions);
            assert!(vector.iter().all(|x| x.is_finite()));
        }
    }
    true
}

/// The bytes up to the next separator; `None` if there are none.
fn next<'a>(rest: &mut Option<&'a [u8]>) -> Option<&'a [u8]> {
    let bytes = rest.take()?;
    let end = bytes.windows(SEPARATOR.len()).position(|window| window == SEPARATOR);
    *rest = end.map(|end| &bytes[end + SEPARATOR.len()..]);
    Some(&bytes[..end.unwrap_or(bytes.len())]).filter(|part| !part.is_empty())
}
