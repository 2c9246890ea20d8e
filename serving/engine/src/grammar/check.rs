//! What is refused before anything is compiled, and the name under which a grammar is kept.
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::cache::Key;
use super::{Grammar, GrammarError};

/// Bytes of a grammar, of a schema as compact JSON.
pub const MAX_GRAMMAR_BYTES: usize = 64 << 10;
/// Levels of arrays and objects in a schema, of brackets in other grammars: compilers recurse over them.
pub const MAX_DEPTH: usize = 64;

/// The grammar's name, if its size allows to compile it.
pub fn key(grammar: &Grammar) -> Result<Key, GrammarError> {
    let (kind, text) = match grammar {
        Grammar::JsonSchema(schema) => {
            if depth(schema) > MAX_DEPTH {
                return Err(GrammarError::TooDeep);
            }
            ("schema", &schema.to_string())
        }
        Grammar::Regex(text) => ("regex", text),
        Grammar::Lark(text) => ("lark", text),
        Grammar::Gbnf(text) => ("gbnf", text),
    };
    let bytes = text.len();
    if bytes > MAX_GRAMMAR_BYTES {
        return Err(GrammarError::TooLong { bytes });
    }
    // What reads GBNF counts its brackets itself.
    if matches!(kind, "regex" | "lark") && brackets(text) > MAX_DEPTH {
        return Err(GrammarError::TooDeep);
    }
    if kind == "lark" && combines(text) {
        return Err(GrammarError::Operator);
    }
    Ok(Sha256::new()
        .chain_update(kind)
        .chain_update([0])
        .chain_update(text)
        .finalize()
        .into())
}

/// Levels of arrays and objects.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// Whether a Lark text has the operators `&` or `~`: the library multiplies the branches of their operands out,
/// beyond any limit that it knows.
fn combines(text: &str) -> bool {
    let mut rest = text.bytes().peekable();
    while let Some(byte) = rest.next() {
        let end = match byte {
            b'&' | b'~' => return true,
            b'#' => b'\n',
            b'/' if rest.peek() == Some(&b'/') => b'\n',
            b'"' | b'/' => byte,
            _ => continue,
        };
        // To the end of a comment, a text or an expression.
        while let Some(byte) = rest.next() {
            match byte {
                _ if byte == end => break,
                b'\\' if end != b'\n' => drop(rest.next()),
                _ => {}
            }
        }
    }
    false
}

/// Brackets that are open at once, at most; those in literals count too.
fn brackets(text: &str) -> usize {
    let (mut open, mut most) = (0usize, 0);
    for byte in text.bytes() {
        match byte {
            b'(' | b'[' | b'{' => open += 1,
            b')' | b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
        most = most.max(open);
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn nested(levels: usize) -> Value {
        (0..levels).fold(json!(true), |schema, _| json!({ "not": schema }))
    }

    #[test]
    fn sizes_and_depths_up_to_the_limit_pass() {
        let long = |bytes: usize| Grammar::Regex("x".repeat(bytes));
        assert!(key(&long(MAX_GRAMMAR_BYTES)).is_ok());
        let bytes = MAX_GRAMMAR_BYTES + 1;
        assert_eq!(key(&long(bytes)), Err(GrammarError::TooLong { bytes }));
        assert!(key(&Grammar::JsonSchema(nested(MAX_DEPTH))).is_ok());
        assert_eq!(
            key(&Grammar::JsonSchema(nested(MAX_DEPTH + 1))),
            Err(GrammarError::TooDeep)
        );
        for grammar in [Grammar::Regex, Grammar::Lark] {
            assert!(key(&grammar("()[]{}".repeat(100))).is_ok());
            assert_eq!(key(&grammar("(".repeat(MAX_DEPTH + 1))), Err(GrammarError::TooDeep));
        }
    }

    #[test]
    fn kinds_and_contents_have_names_of_their_own() {
        let names = [
            key(&Grammar::Regex("true".into())),
            key(&Grammar::Lark("true".into())),
            key(&Grammar::Gbnf("true".into())),
            key(&Grammar::JsonSchema(json!(true))),
            key(&Grammar::JsonSchema(json!(false))),
        ];
        for (at, name) in names.iter().enumerate() {
            assert!(name.is_ok() && !names[..at].contains(name));
        }
    }

    #[test]
    fn operators_are_seen_outside_of_texts_expressions_and_comments() {
        for text in ["A: /a/ & /b/", "A: ~/a/", "s: \"x\" // no\nA: B & C", r#"A: "\\" & B"#] {
            assert_eq!(key(&Grammar::Lark(text.into())), Err(GrammarError::Operator), "{text}");
        }
        for text in ["A: \"& ~\" /[&~\\/&]/ // & ~\n# ~", r#"A: "\"&""#, "A: /a\\/&/"] {
            assert!(key(&Grammar::Lark(text.into())).is_ok(), "{text}");
        }
    }
}
