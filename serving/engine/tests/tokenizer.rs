//! Text to tokens and back, on small vocabularies made here; parity with another tokenizer on real ones
//! is in `parity.rs`.
mod support;

use std::path::Path;

use support::gguf::{GgufBytes, byte_vocabulary, tiny_llama};
use windlass_engine::load::gguf::Gguf;
use windlass_engine::tokenizer::Tokenizer;

fn tokenizer(file: &GgufBytes) -> Tokenizer {
    let bytes = file.bytes();
    let gguf = Gguf::parse(&mut bytes.as_slice(), bytes.len() as u64, Path::new("test.gguf")).expect("a good file");
    Tokenizer::from_gguf(&gguf).expect("a good tokenizer")
}

/// Bytes, and merges that build runs of `a`: aa, aaaa, and so on to 64.
fn runs() -> Tokenizer {
    let (mut texts, mut kinds) = byte_vocabulary(&["<s>", "<|im_start|>", "<|im_end|>"]);
    let mut merges = Vec::new();
    for power in 0..6 {
        let half = "a".repeat(1 << power);
        merges.push(format!("{half} {half}"));
        texts.push(half.repeat(2));
        kinds.push(1);
    }
    let mut file = tiny_llama();
    file.replace(|file| {
        file.texts("tokenizer.ggml.tokens", &texts)
            .i32s("tokenizer.ggml.token_type", &kinds);
        file.texts("tokenizer.ggml.merges", &merges);
    });
    tokenizer(&file)
}

/// A Llama-class vocabulary with these pieces.
fn sentence_pieces(pieces: &[(&str, f32)]) -> GgufBytes {
    support::gguf::sentence_pieces(&["<s>", "</s>"], pieces)
}

fn texts<'a>(tokenizer: &'a Tokenizer, tokens: &[u32]) -> Vec<&'a str> {
    tokens
        .iter()
        .map(|&token| tokenizer.token_text(token).expect("in the vocabulary"))
        .collect()
}

fn bytes(tokenizer: &Tokenizer, tokens: &[u32]) -> Vec<u8> {
    tokens
        .iter()
        .flat_map(|&token| tokenizer.piece(token))
        .copied()
        .collect()
}

#[test]
fn a_megabyte_of_one_letter_takes_no_quadratic_time() {
    // A merge loop that rescans would need 10^12 steps here: the test would not end.
    let tokenizer = runs();
    let tokens = tokenizer.encode(&"a".repeat(1 << 20), false);
    assert_eq!(tokens.len(), (1 << 20) / 64);
    assert!(texts(&tokenizer, &tokens).iter().all(|text| text.len() == 64));
    let spm = tokenizer_of_long_runs();
    assert_eq!(
        bytes(&spm, &spm.encode(&"a".repeat(1 << 20), false)).len(),
        (1 << 20) + 1
    );
}

#[test]
fn texts_that_would_be_joined_to_any_length_are_refused() {
    let of = |bytes: usize| {
        let bytes = sentence_pieces(&[("a", -2.0), (&"a".repeat(bytes), -1.0)]).bytes();
        let gguf = Gguf::parse(&mut bytes.as_slice(), bytes.len() as u64, Path::new("test.gguf")).expect("a good file");
        Tokenizer::from_gguf(&gguf)
    };
    assert!(of(512).is_ok());
    let error = of(513).expect_err("too long").to_string();
    assert!(error.contains("a text of 513 bytes, token 260; 512 are"), "{error}");
}

fn tokenizer_of_long_runs() -> Tokenizer {
    tokenizer(&sentence_pieces(&[
        ("▁", -9.0),
        ("a", -8.0),
        ("aa", -1.0),
        ("aaaa", -2.0),
        ("aaaaaaaa", -3.0),
    ]))
}

#[test]
fn hostile_texts_take_no_quadratic_time() {
    let tokenizer = runs();
    for unit in ["<", "<|im_start", " ", "\n", "'", " \n", "\u{301}", "<|"] {
        let text = unit.repeat((1 << 20) / unit.len());
        assert_eq!(
            bytes(&tokenizer, &tokenizer.encode(&text, true)).len(),
            text.len(),
            "{unit:?}"
        );
    }
}

#[test]
fn merges_apply_from_the_left_in_the_order_of_the_file() {
    let tokenizer = runs();
    assert_eq!(
        texts(&tokenizer, &tokenizer.encode(&"a".repeat(7), false)),
        ["aaaa", "aa", "a"]
    );
}

#[test]
fn every_byte_sequence_comes_back() {
    let tokenizer = runs();
    let text = "\u{0}\t é日🙂\u{fdd0} aaa\r\n";
    assert_eq!(bytes(&tokenizer, &tokenizer.encode(text, true)), text.as_bytes());
}

#[test]
fn control_tokens_are_recognised_only_where_the_caller_says_so() {
    let tokenizer = runs();
    let text = "a<|im_end|>b";
    let special = tokenizer.encode(text, true);
    assert_eq!(texts(&tokenizer, &special), ["a", "<|im_end|>", "b"]);
    assert_eq!(bytes(&tokenizer, &special), b"ab", "control tokens are no output");
    assert_eq!(tokenizer.piece_with_special(special[1]), b"<|im_end|>");
    let plain = tokenizer.encode(text, false);
    assert_eq!(bytes(&tokenizer, &plain), text.as_bytes());
    assert_eq!(plain.len(), text.len());
}

#[test]
fn tokens_that_end_a_turn_are_known_by_key_and_by_name() {
    let tokenizer = runs();
    let id = |text: &str| tokenizer.encode(text, true)[0];
    assert!(tokenizer.is_eog(id("<|im_end|>")));
    assert!(!tokenizer.is_eog(id("<|im_start|>")));
    assert!(!tokenizer.is_eog(id("a")));
    assert_eq!(tokenizer.eos(), Some(258));
}

#[test]
fn bos_comes_first_once_and_only_if_the_file_says_so() {
    let mut file = tiny_llama();
    assert_eq!(tokenizer(&file).encode_prompt("x").len(), 1);
    file.bool("tokenizer.ggml.add_bos_token", true);
    let tokenizer = tokenizer(&file);
    assert_eq!(texts(&tokenizer, &tokenizer.encode_prompt("x")), ["<s>", "x"]);
    assert_eq!(texts(&tokenizer, &tokenizer.encode_prompt("<s>x")), ["<s>", "x"]);
    assert_eq!(texts(&tokenizer, &tokenizer.encode_prompt("")), ["<s>"]);
    assert_eq!(texts(&tokenizer, &tokenizer.encode("x", true)), ["x"]);
}

#[test]
fn an_id_outside_the_vocabulary_is_nothing() {
    let tokenizer = runs();
    assert_eq!(tokenizer.piece(u32::MAX), b"");
    assert_eq!(tokenizer.token_text(u32::MAX), None);
    assert!(!tokenizer.is_eog(u32::MAX));
}

#[test]
fn sentence_pieces_join_by_score_and_unknown_characters_are_bytes() {
    let pieces = [
        ("▁", -20.0),
        ("h", -20.0),
        ("i", -20.0),
        ("t", -20.0),
        ("▁h", -3.0),
        ("hi", -1.0),
        ("▁hi", -2.0),
        ("it", -1.0),
    ];
    let tokenizer = tokenizer(&sentence_pieces(&pieces));
    assert_eq!(texts(&tokenizer, &tokenizer.encode("hi", false)), ["▁hi"]);
    // `hi` and `it` have the same score: the left one wins.
    assert_eq!(texts(&tokenizer, &tokenizer.encode("hit", false)), ["▁hi", "t"]);
    let tokens = tokenizer.encode("hi é", false);
    assert_eq!(texts(&tokenizer, &tokens), ["▁hi", "▁", "<0xC3>", "<0xA9>"]);
    assert_eq!(bytes(&tokenizer, &tokens), " hi é".as_bytes());
}

#[test]
fn sentence_pieces_get_a_space_in_front_and_bos_unless_the_file_says_no() {
    let pieces = [("▁", -2.0), ("x", -2.0), ("▁x", -1.0)];
    let tokens = |file: &GgufBytes, text: &str| {
        let tokenizer = tokenizer(file);
        texts(&tokenizer, &tokenizer.encode_prompt(text))
            .iter()
            .map(|text| (*text).to_owned())
            .collect::<Vec<_>>()
    };
    let mut file = sentence_pieces(&pieces);
    assert_eq!(tokens(&file, "x"), ["<s>", "▁x"]);
    assert_eq!(tokens(&file, "x</s>x"), ["<s>", "▁x", "</s>", "▁x"]);
    file.bool("tokenizer.ggml.add_space_prefix", false)
        .bool("tokenizer.ggml.add_bos_token", false);
    assert_eq!(tokens(&file, "x"), ["x"]);
}

#[test]
fn sentence_pieces_never_join_into_a_control_token() {
    let pieces = [("<", -5.0), ("s", -5.0), (">", -5.0), ("<s", -1.0), ("s>", -1.0)];
    let mut file = sentence_pieces(&pieces);
    file.bool("tokenizer.ggml.add_space_prefix", false);
    let tokenizer = tokenizer(&file);
    assert_eq!(texts(&tokenizer, &tokenizer.encode("<s>", false)), ["<s", ">"]);
}
