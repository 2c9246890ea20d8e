//! A tiny vocabulary, and what is not supported.
use super::*;
use serde_json::{Value, json};

fn file() -> Value {
    json!({
        "added_tokens": [{"id": 1, "content": "[CLS]", "special": true}, {"id": 2, "content": "[SEP]"}],
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": null, "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
            "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [1], "tokens": ["[CLS]"]},
                "[SEP]": {"id": "[SEP]", "ids": [2], "tokens": ["[SEP]"]}}},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 8,
            "vocab": {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "un": 3, "##aff": 4, "##able": 5, "cafe": 6, "!": 7,
                "東": 8, "a": 9, "##a": 10}},
    })
}

fn read(file: &Value) -> Result<WordPiece, String> {
    WordPiece::from_json(file.to_string().as_bytes())
}

#[test]
fn words_are_cut_into_the_longest_pieces() {
    let tokenizer = read(&file()).unwrap();
    for (text, tokens) in [
        ("unaffable", &[0][..]), // too long
        ("unaff  able", &[3, 4, 0]),
        ("Caf\u{e9}!!", &[6, 7, 7]),
        ("aaa\ta\u{200b}a", &[9, 10, 10, 9, 10]),
        ("a東a", &[9, 8, 9]),
        ("unx", &[0]),
        ("a[SEP]a", &[9, 2, 9]),
        ("", &[]),
    ] {
        assert_eq!(tokenizer.encode(text), [&[1], tokens, &[2]].concat(), "{text}");
    }
    assert_eq!((tokenizer.largest_token(), tokenizer.frame()), (10, 2));
}

#[test]
fn hostile_texts_take_no_quadratic_time() {
    let tokenizer = read(&file()).unwrap();
    // Of the special tokens, some are never found: looking for them again behind each that is would take hours.
    for (unit, count) in [("[SEP]", 1), ("[CLS", 2), ("a", 0), (" \u{301}", 0)] {
        let repeated = (4 << 20) / unit.len();
        let tokens = tokenizer.encode(&unit.repeat(repeated)).len() - tokenizer.frame();
        assert!(tokens >= count * repeated, "{unit}: {tokens}");
    }
}

#[test]
fn truncation_keeps_the_tokens_around_a_text() {
    let tokenizer = read(&file()).unwrap();
    for (limit, want) in [
        (9, &[1, 9, 9, 9, 2][..]),
        (4, &[1, 9, 9, 2]),
        (2, &[1, 2]),
        (0, &[1, 2]),
    ] {
        let mut tokens = tokenizer.encode("a a a");
        tokenizer.truncate(&mut tokens, limit);
        assert_eq!(tokens, want);
    }
}

#[test]
fn what_the_file_asks_beyond_this_is_refused_by_name() {
    for (pointer, value, words) in [
        ("/model/type", json!("BPE"), "BPE"),
        ("/normalizer/type", json!("NFKC"), "NFKC"),
        ("/pre_tokenizer/type", json!("Metaspace"), "Metaspace"),
        ("/post_processor/type", json!("ByteLevel"), "ByteLevel"),
        ("/model/unk_token", json!("<unk>"), "<unk>"),
        ("/model/max_input_chars_per_word", json!(1_u64 << 40), "words of up to"),
        ("/added_tokens/1/single_word", json!(true), "[SEP]"),
        ("/added_tokens/1/content", json!(""), "0 bytes"),
        ("/added_tokens/1/content", json!("a".repeat(257)), "257 bytes"),
        (
            "/post_processor/special_tokens/[SEP]/ids",
            json!(vec![2; 64]),
            "more than 64 tokens around a text",
        ),
        ("/post_processor/single/0/SpecialToken/id", json!("[X]"), "[X]"),
        (
            "/post_processor/single/1",
            json!({"SpecialToken": {"id": "[SEP]"}}),
            "0 places",
        ),
    ] {
        let mut file = file();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        match file.pointer_mut(parent).unwrap() {
            Value::Array(items) => items[key.parse::<usize>().unwrap()] = value,
            object => object[key] = value,
        }
        let error = read(&file).unwrap_err();
        assert!(error.contains(words), "{error}");
    }
}
