//! Any text through every kind of tokenizer and back: nothing is lost, and nothing that a user wrote becomes a control
//! token.
use std::path::Path;
use std::sync::{Arc, LazyLock};

use serde_json::json;
use windlass_engine::chat::{ChatTemplate, RenderOptions};
use windlass_engine::load::gguf::Gguf;
use windlass_engine::tokenizer::{TokenKind, Tokenizer};

use crate::support::gguf::{GgufBytes, byte_vocabulary, sentence_pieces};

/// Of the vocabularies below.
const CONTROL: [&str; 4] = ["<s>", "<|im_start|>", "<|im_end|>", "<|im"];
/// Renders as many control tokens as `TEMPLATE_CONTROL` says, whatever the message.
const TEMPLATE: &str =
    "{{ messages[0].content }}<|im_end|>{{ messages[0].content | trim }}<s>{{ messages[0] | tojson }}";
const TEMPLATE_CONTROL: usize = 2;

struct Case {
    tokenizer: Arc<Tokenizer>,
    /// Only where a chat comes to something else than with the case before: rendering starts a thread each time.
    template: Option<ChatTemplate>,
    sentence_pieces: bool,
}

static CASES: LazyLock<Vec<Case>> = LazyLock::new(|| {
    let files = [
        (byte_pairs("gpt-2"), false, true),
        (byte_pairs("smollm"), false, false),
        (byte_pairs("qwen2"), false, false),
        (byte_pairs("llama-bpe"), false, false),
        (pieces(), true, true),
    ];
    files
        .into_iter()
        .map(|(file, sentence_pieces, chats)| {
            let bytes = file.bytes();
            let gguf = Gguf::parse(&mut bytes.as_slice(), bytes.len() as u64, Path::new("fuzz.gguf"));
            let tokenizer = Arc::new(Tokenizer::from_gguf(&gguf.expect("a good file")).expect("a good tokenizer"));
            let template =
                chats.then(|| ChatTemplate::new(Some(TEMPLATE), Arc::clone(&tokenizer)).expect("a good template"));
            Case {
                tokenizer,
                template,
                sentence_pieces,
            }
        })
        .collect()
});

/// Takes `bytes` as text, whatever is not UTF-8 replaced.
pub fn run(bytes: &[u8]) {
    let text = &*String::from_utf8_lossy(bytes);
    for case in &*CASES {
        plain(case, text);
        if let Some(template) = &case.template {
            chat(template, &case.tokenizer, text);
        }
    }
}

fn plain(case: &Case, text: &str) {
    let tokenizer = &case.tokenizer;
    let plain = tokenizer.encode(text, false);
    assert_eq!(controls(tokenizer, &plain), 0, "{text:?} becomes a control token");
    assert_eq!(
        written(tokenizer, &plain, Tokenizer::piece),
        expected(case, text),
        "output differs from input"
    );
    // Where control tokens are recognised, SentencePiece puts its space after each of them.
    let special = tokenizer.encode(text, true);
    if !case.sentence_pieces {
        assert_eq!(
            written(tokenizer, &special, Tokenizer::piece_with_special),
            text.as_bytes()
        );
    }
}

fn chat(template: &ChatTemplate, tokenizer: &Tokenizer, text: &str) {
    let messages = json!([{ "role": "user", "content": text, text: [text] }]);
    let rendered = template.render(&messages, &RenderOptions::default());
    let prompt = rendered.expect("the template takes any text");
    let tokens = tokenizer.encode_rendered(&prompt);
    // `<s>` also comes first, where the tokenizer wants it.
    let own = controls(tokenizer, &tokens) - usize::from(tokens[0] == tokenizer.bos().unwrap_or(u32::MAX));
    assert_eq!(own, TEMPLATE_CONTROL, "{text:?} becomes a control token");
}

fn controls(tokenizer: &Tokenizer, tokens: &[u32]) -> usize {
    let control = |token: &&u32| tokenizer.token_kind(**token) == TokenKind::Control;
    tokens.iter().filter(control).count()
}

fn written<'a>(tokenizer: &'a Tokenizer, tokens: &[u32], piece: fn(&'a Tokenizer, u32) -> &'a [u8]) -> Vec<u8> {
    tokens
        .iter()
        .flat_map(|&token| piece(tokenizer, token))
        .copied()
        .collect()
}

/// What the tokens of a text write: the text, but for SentencePiece's ways with spaces.
fn expected(case: &Case, text: &str) -> Vec<u8> {
    if case.sentence_pieces && !text.is_empty() {
        return format!(" {}", text.replace('\u{2581}', " ")).into_bytes();
    }
    text.into()
}

/// Bytes, some merges, the control tokens and a token that users may write.
fn byte_pairs(pre: &str) -> GgufBytes {
    let (mut texts, mut kinds) = byte_vocabulary(&CONTROL);
    let mut merges = Vec::new();
    for (left, right) in [
        ("a", "a"),
        ("aa", "aa"),
        ("Ġ", "a"),
        ("<", "|"),
        ("i", "m"),
        ("<|", "im"),
        ("Ċ", "Ċ"),
    ] {
        merges.push(format!("{left} {right}"));
        texts.push(format!("{left}{right}"));
        kinds.push(1);
    }
    texts.push("</think>".into());
    kinds.push(4);
    let mut file = GgufBytes::new();
    file.text("tokenizer.ggml.model", "gpt2")
        .text("tokenizer.ggml.pre", pre)
        .texts("tokenizer.ggml.tokens", &texts)
        .i32s("tokenizer.ggml.token_type", &kinds)
        .texts("tokenizer.ggml.merges", &merges)
        .u32("tokenizer.ggml.bos_token_id", 256);
    file
}

fn pieces() -> GgufBytes {
    let ordinary = [
        ("▁", -9.0),
        ("a", -8.0),
        ("▁a", -3.0),
        ("aa", -1.0),
        ("<|", -2.0),
        ("im", -2.5),
        ("<|im", -1.0),
    ];
    sentence_pieces(&CONTROL, &ordinary)
}
