//! The corpus of the fuzz target `encoder`: folders of the tiny encoder in which one of the small files is hostile, or the
//! text is.
use crate::support::encoder::{CONFIG, FILES, MODULES, POOLING, SENTENCE, SEPARATOR, TOKENIZER};

/// Each with its name.
pub fn folders() -> Vec<(&'static str, Vec<u8>)> {
    [configs(), tokenizers(), texts(), modules()].concat()
}

fn configs() -> Vec<(&'static str, Vec<u8>)> {
    let huge = [
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "vocab_size",
    ];
    let all_huge = huge
        .iter()
        .fold(CONFIG.to_owned(), |config, name| set(&config, name, "1048576"));
    [
        ("config-empty", "{}".to_owned()),
        ("config-deep", "[".repeat(5000)),
        (
            "config-sizes-2-20",
            set(&all_huge, "max_position_embeddings", "1048576"),
        ),
        ("config-size-2-64", set(CONFIG, "hidden_size", "18446744073709551616")),
        ("config-size-0", set(CONFIG, "hidden_size", "0")),
        ("config-layers-2-20", set(CONFIG, "num_hidden_layers", "1048576")),
        ("config-vocabulary-2-20", set(CONFIG, "vocab_size", "1048576")),
        ("config-heads-3", set(CONFIG, "num_attention_heads", "3")),
        ("config-epsilon-beyond-f32", set(CONFIG, "layer_norm_eps", "1e99")),
        ("config-epsilon-0", set(CONFIG, "layer_norm_eps", "0")),
        ("config-twice", CONFIG.replace('{', "{\"hidden_size\":4,")),
        (
            "config-matryoshka",
            CONFIG.replace('{', "{\"matryoshka_dimensions\":[0,18446744073709551615],"),
        ),
    ]
    .map(|(name, config)| (name, folder("config.json", &config, None)))
    .into()
}

fn tokenizers() -> Vec<(&'static str, Vec<u8>)> {
    let special = r###"{"SpecialToken":{"id":"[SEP]"}}"###;
    let long = "a".repeat(5000);
    let words_of_256 = format!("{} ", &long[..256]).repeat(4);
    let words = |limit: u64, piece: &str| {
        let limited = replace(TOKENIZER, "per_word\":8", &format!("per_word\":{limit}"));
        replace(&limited, "\"cafe\"", &format!("\"{piece}b\""))
    };
    let files: [(&str, String, Option<&str>); 13] = [
        ("tokenizer-empty", "{}".to_owned(), None),
        ("tokenizer-deep", "{\"model\":".repeat(5000), None),
        (
            "tokenizer-token-max",
            replace(TOKENIZER, "\"##a\":10", "\"##a\":4294967295"),
            None,
        ),
        (
            "tokenizer-token-beyond-32-bits",
            replace(TOKENIZER, "\"##a\":10", "\"##a\":4294967296"),
            None,
        ),
        (
            "tokenizer-added-token-outside",
            replace(TOKENIZER, "\"id\":2", "\"id\":11"),
            None,
        ),
        (
            "tokenizer-added-token-empty",
            replace(TOKENIZER, "\"content\":\"[SEP]\"", "\"content\":\"\""),
            None,
        ),
        ("tokenizer-without-prefix", replace(TOKENIZER, "\"##\"", "\"\""), None),
        // Nothing is left of this piece without its prefix.
        ("tokenizer-piece-empty", replace(TOKENIZER, "\"##a\"", "\"##\""), None),
        (
            "tokenizer-template-without-text",
            replace(TOKENIZER, "{\"Sequence\":{\"id\":\"A\"}},", ""),
            None,
        ),
        // More tokens around a text than a text may have.
        (
            "tokenizer-template-long",
            replace(TOKENIZER, special, &[special; 20].join(",")),
            None,
        ),
        // The product of two lists.
        (
            "tokenizer-template-squared",
            replace(
                &replace(TOKENIZER, special, &[special; 500].join(",")),
                "\"ids\":[2]",
                &format!("\"ids\":[{}2]", "2,".repeat(5000)),
            ),
            None,
        ),
        // As long as a word may be, every beginning of what is left of it is looked up.
        ("tokenizer-words-without-limit", words(u64::MAX, &long), Some(&long)),
        ("tokenizer-words-of-256", words(256, &long[..256]), Some(&words_of_256)),
    ];
    files
        .into_iter()
        .map(|(name, tokenizer, text)| (name, folder("tokenizer.json", &tokenizer, text)))
        .collect()
}

fn texts() -> Vec<(&'static str, Vec<u8>)> {
    [
        ("text-empty", String::new()),
        (
            "text-of-control-characters",
            "\0\t\u{7f}\u{200b}\u{feff}\u{fffd}".to_owned(),
        ),
        (
            "text-of-accents",
            "e\u{301}\u{327}".to_owned() + &"\u{300}\u{323}".repeat(2000),
        ),
        ("text-of-special-tokens", "[SEP]".repeat(5000)),
        ("text-of-beginnings-of-special-tokens", "[SE[[CLS".repeat(2000)),
        ("text-of-one-word", "a".repeat(20_000)),
    ]
    .map(|(name, text)| (name, folder("config.json", CONFIG, Some(&text))))
    .into()
}

fn modules() -> Vec<(&'static str, Vec<u8>)> {
    [
        ("modules-empty", "modules.json", "[]".to_owned()),
        ("modules-deep", "modules.json", "[".repeat(5000)),
        (
            "modules-outside",
            "modules.json",
            replace(MODULES, "1_Pooling", "../../etc"),
        ),
        (
            "modules-absolute",
            "modules.json",
            replace(MODULES, "1_Pooling", "/etc"),
        ),
        (
            "modules-without-path",
            "modules.json",
            replace(MODULES, "1_Pooling", ""),
        ),
        (
            "pooling-first",
            "1_Pooling/config.json",
            replace(POOLING, "mean_tokens", "cls_token"),
        ),
        (
            "pooling-two",
            "1_Pooling/config.json",
            POOLING.replace('}', ",\"pooling_mode\":\"cls\"}"),
        ),
        (
            "pooling-of-another-width",
            "1_Pooling/config.json",
            replace(POOLING, ":4", ":18446744073709551615"),
        ),
        (
            "length-of-text-0",
            "sentence_bert_config.json",
            replace(SENTENCE, "16", "0"),
        ),
        (
            "length-of-text-max",
            "sentence_bert_config.json",
            replace(SENTENCE, "16", "18446744073709551615"),
        ),
    ]
    .map(|(name, file, content)| (name, folder(file, &content, None)))
    .into()
}

/// The tiny encoder's folder with one file that is another, and a text.
fn folder(file: &str, content: &str, text: Option<&str>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for name in FILES {
        if name == file {
            bytes.extend(content.as_bytes());
        }
        bytes.extend(SEPARATOR);
    }
    match text {
        Some(text) => bytes.extend(text.as_bytes()),
        None => bytes.truncate(bytes.len() - SEPARATOR.len()),
    }
    bytes
}

fn replace(file: &str, old: &str, new: &str) -> String {
    assert!(file.contains(old), "there is no {old} in {file}");
    file.replacen(old, new, 1)
}

/// Another number in a configuration.
fn set(config: &str, name: &str, value: &str) -> String {
    let start = config.find(name).expect("a name of the configuration") + name.len() + 2;
    let end = start + config[start..].find([',', '}']).expect("the end of its value");
    format!("{}{value}{}", &config[..start], &config[end..])
}
