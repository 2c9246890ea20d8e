//! Grammars over a vocabulary of single bytes: what may come next, where it ends, and that no grammar costs
//! more than it may.
use std::sync::Arc;

use llguidance::toktrie::ApproximateTokEnv;
use serde_json::json;

use super::*;

/// The last token of the library's byte vocabulary ends an answer.
const END: u32 = 256 + 5;

/// As with a model's vocabulary, nothing is forced ahead of the tokens: the library would force without an end what a
/// grammar repeats without one.
pub(super) fn grammars(capacity: usize) -> Grammars {
    let bytes = ApproximateTokEnv::single_byte_env().tok_trie().clone();
    let vocabulary: TokEnv = Arc::new(ApproximateTokEnv::new(bytes));
    Grammars::over(&vocabulary, capacity).unwrap()
}

fn schema(schema: Value) -> Grammar {
    Grammar::JsonSchema(schema)
}

/// Follows `text` byte by byte: how many bytes were allowed, and whether it may end there, or must.
pub(super) fn follow(constraint: &mut Constraint, text: &str) -> (usize, bool, bool) {
    let mut must_end = false;
    for (at, byte) in text.bytes().enumerate() {
        if must_end || !constraint.allowed().unwrap().contains(byte.into()) {
            return (at, false, must_end);
        }
        must_end = constraint.take(byte.into()).unwrap();
    }
    (text.len(), constraint.allowed().unwrap().contains(END), must_end)
}

pub(super) fn refusal(grammar: Grammar) -> String {
    grammars(1).constraint(&grammar).unwrap_err().to_string()
}

#[test]
fn a_schema_allows_what_fits_and_ends_after_it() {
    let grammar = schema(json!({
        "type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": false,
    }));
    let grammars = grammars(4);
    let mut constraint = grammars.constraint(&grammar).unwrap();
    assert_eq!(follow(&mut constraint, r#"{"a": 12}"#), (9, true, true));
    for (text, allowed) in [(r#"{"b""#, 2), (r#"{"a": "x""#, 6), ("[", 0), ("{}", 1)] {
        let mut constraint = grammars.constraint(&grammar).unwrap();
        assert_eq!(follow(&mut constraint, text), (allowed, false, false), "{text}");
    }
}

#[test]
fn an_expression_may_end_where_it_matches_and_go_on_where_it_can() {
    let mut constraint = grammars(1).constraint(&Grammar::Regex("[a-c]{2,}/d?".into())).unwrap();
    assert_eq!(follow(&mut constraint, "ab"), (2, false, false));
    assert_eq!(follow(&mut constraint, "c/"), (2, true, false));
    assert_eq!(follow(&mut constraint, "d"), (1, true, true));
}

#[test]
fn an_end_that_was_taken_stops() {
    let mut constraint = grammars(1).constraint(&Grammar::Regex("a*".into())).unwrap();
    assert!(constraint.allowed().unwrap().contains(END));
    assert_eq!(constraint.take(END), Ok(true));
}

#[test]
fn a_token_that_was_not_allowed_breaks_its_own_constraint_alone() {
    let grammars = grammars(1);
    let grammar = Grammar::Lark("start: \"ab\"".into());
    let mut broken = grammars.constraint(&grammar).unwrap();
    assert_eq!(broken.take(u32::from(b'x')), Err(Broken));
    assert_eq!(broken.allowed().map(|_| ()), Err(Broken));
    let mut other = grammars.constraint(&grammar).unwrap();
    assert_eq!(follow(&mut other, "ab"), (2, true, true));
}

#[test]
fn copies_go_on_from_where_they_were_taken() {
    let mut constraint = grammars(1).constraint(&Grammar::Regex("ab|cd".into())).unwrap();
    assert_eq!(follow(&mut constraint, "a"), (1, false, false));
    let mut copy = constraint.clone();
    assert_eq!(follow(&mut constraint, "b"), (1, true, true));
    assert_eq!(follow(&mut copy, "d"), (0, false, false));
    assert_eq!(follow(&mut copy, "b"), (1, true, true));
}

#[test]
fn a_mask_makes_everything_else_impossible() {
    let allowed = grammars(1)
        .constraint(&Grammar::Regex("[ad]x".into()))
        .unwrap()
        .allowed()
        .unwrap();
    let mut logits: Vec<f32> = (0..=END).map(|token| token as f32).collect();
    allowed.apply(&mut logits);
    for (token, logit) in (0..).zip(logits) {
        let kept = token == u32::from(b'a') || token == u32::from(b'd');
        assert_eq!(logit, if kept { token as f32 } else { f32::NEG_INFINITY });
        assert_eq!(allowed.contains(token), kept);
    }
    assert!(!allowed.contains(END + 1) && !allowed.contains(u32::MAX));
}

#[test]
fn a_hundred_thousand_grammars_would_not_be_kept() {
    let grammars = grammars(4);
    for number in 0..40 {
        grammars.constraint(&schema(json!({ "const": number }))).unwrap();
        assert!(grammars.compiled.lock().unwrap().len() <= 4);
    }
    assert!(grammars.constraint(&schema(json!({"type": "nonsense"}))).is_err());
    assert_eq!(grammars.compiled.lock().unwrap().len(), 4);
}

#[test]
fn what_is_no_grammar_is_refused_in_one_sentence() {
    for (grammar, words) in [
        (schema(json!({"type": "nonsense"})), "nonsense"),
        (schema(json!("text")), "schema must be an object or boolean"),
        (schema(json!({"$ref": "https://example.com/other"})), "example.com"),
        (Grammar::Regex("a(".into()), "unclosed group"),
        (Grammar::Regex("a(?=b)".into()), "look-around"),
        (Grammar::Lark("begin: \"a\"".into()), "start"),
        (Grammar::Lark("start: nowhere".into()), "nowhere"),
        (Grammar::Lark("start: <no_such_token>".into()), "no_such_token"),
        (
            Grammar::Gbnf("root ::= nowhere".into()),
            "line 1, column 10: no rule is named `nowhere`",
        ),
    ] {
        let message = refusal(grammar);
        assert!(message.contains(words), "{words}: {message}");
        assert!(
            !message.contains("non-verbose") && !message.contains("backtrace"),
            "{message}"
        );
    }
}

#[test]
fn calls_of_a_hundred_tools_between_free_texts_are_not_too_many_ways() {
    let mut lark = String::from("start: TEXT (call TEXT)*\nTEXT: /(.|\\n)*/\ncall: <|tool|> (c0");
    lark.extend((1..128).map(|at| format!(" | c{at}")));
    lark += ") <|/tool|>\n";
    for at in 0..128 {
        let schema = json!({"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "number"}}});
        lark += &format!(
            "c{at}: \"\\n{{\\\"name\\\": \\\"tool{at}\\\", \\\"arguments\\\": \" a{at} \"}}\\n\"\na{at}: %json {schema}\n"
        );
    }
    let grammars = grammars(1);
    let mut constraint = grammars.constraint(&Grammar::Lark(lark)).unwrap();
    let (open, close) = (256, 257);
    for _ in 0..2 {
        assert_eq!(follow(&mut constraint, "Text. "), (6, true, false));
        assert!(constraint.allowed().unwrap().contains(open));
        assert_eq!(constraint.take(open), Ok(false));
        let call = "\n{\"name\": \"tool77\", \"arguments\": {\"a\": \"<>\", \"b\": 5}}\n";
        assert_eq!(follow(&mut constraint, call), (call.len(), false, false));
        assert_eq!(constraint.take(close), Ok(false));
    }
    assert_eq!(follow(&mut constraint, "\n"), (1, true, false));
}

#[test]
fn an_answer_that_can_be_read_in_too_many_ways_breaks_soon() {
    let grammars = grammars(1);
    let mut ambiguous = grammars
        .constraint(&Grammar::Lark("start: s\ns: s s | s s s | \"a\" |".into()))
        .unwrap();
    let broken = (0..200).position(|_| ambiguous.allowed().is_err() || ambiguous.take(u32::from(b'a')).is_err());
    assert!(broken.is_some_and(|tokens| tokens > 20), "{broken:?}");
}

#[test]
fn grammars_that_recurse_or_multiply_are_refused_or_compiled_and_never_break_the_process() {
    let chain = |link: &dyn Fn(String) -> Value| {
        let name = |at: usize| format!("#/$defs/{at}");
        let mut schemas: serde_json::Map<String, Value> =
            (0..1000).map(|at| (at.to_string(), link(name(at + 1)))).collect();
        schemas.insert("1000".into(), json!({"type": "object"}));
        schema(json!({"$ref": name(0), "$defs": schemas}))
    };
    let product: Vec<Value> = (0..4)
        .map(|at| {
            let options = (0..20).map(|option| json!({"required": [format!("{at}-{option}")]}));
            json!({"anyOf": options.collect::<Vec<_>>()})
        })
        .collect();
    let powers: Vec<Value> = (2..12)
        .map(|at| json!({"type": "string", "pattern": format!("^(.{{{at}}})*$")}))
        .collect();
    let rules: String = (0..2000)
        .map(|at| format!("r{at}: r{} | \"a\" r{}\n", at + 1, at + 1))
        .collect();
    let terminals: String = (0..2000).map(|at| format!("R{at}: \"a\" R{}\n", at + 1)).collect();
    let grammars = grammars(1);
    for grammar in [
        chain(&|next| json!({"properties": {"a": {"$ref": next}}})),
        chain(&|next| json!({"allOf": [{"$ref": next}, {"type": "object"}]})),
        schema(json!({ "allOf": product })),
        schema(json!({ "allOf": powers })),
        schema(
            json!({"type": "array", "minItems": 1_000_000_000, "items": {"type": "array", "minItems": 1_000_000_000}}),
        ),
        schema(json!({"type": "string", "minLength": 1_000_000_000})),
        schema(json!({"allOf": (2..14).map(|at| json!({"multipleOf": f64::from(at) + 0.7})).collect::<Vec<_>>()})),
        Grammar::Regex("((a{1,1000}b){1,1000}c){1,1000}".into()),
        Grammar::Regex("(.*a.{1000})*".into()),
        Grammar::Lark(format!("start: r0\n{rules}r2000: \"b\"")),
        Grammar::Lark(format!("start: R0\n{terminals}R2000: \"b\"")),
        Grammar::Lark("start: s\ns: s s | s s s | \"a\" |".into()),
    ] {
        match grammars.constraint(&grammar) {
            Err(error) => assert!(!error.to_string().is_empty()),
            Ok(mut constraint) => assert!(constraint.allowed().is_ok()),
        }
    }
}
