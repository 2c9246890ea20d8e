//! What is no grammar, or costs too much, is refused with its place, and no text breaks what reads it.
use proptest::prelude::*;

use super::super::super::tests::{grammars, refusal};
use super::super::super::{Grammar, MAX_DEPTH};
use super::*;

#[test]
fn what_is_no_grammar_is_refused_with_its_place() {
    for (gbnf, words) in [
        ("", "no rule is named `root`"),
        ("start ::= \"a\"", "no rule is named `root`"),
        ("root ::= a\n\na ::= b-c", "line 3, column 7: no rule is named `b-c`"),
        (
            "root ::= \"a\"\nroot ::= \"b\"",
            "line 2, column 1: `root` is defined twice",
        ),
        ("root ::= \"ä\" <[12]>", "line 1, column 14: references to tokens"),
        ("root ::= !<think>", "line 1, column 10: references to tokens"),
        ("root ::= \"a\" )", "line 1, column 14: `)` is not supported here"),
        ("root ::= /a/", "line 1, column 10: `/` is not supported here"),
        ("root ::= a b ::= \"c\"", "line 1, column 14: `:` is not supported here"),
        (
            "root ::= \"a\"\n\"b\"",
            "line 2, column 1: a rule's name is expected, not `\"`",
        ),
        ("root = \"a\"", "line 1, column 6: `::=` is expected, not `=`"),
        ("root", "line 1, column 5: `::=` is expected, not the end"),
        ("root ::= (\"a\"", "line 1, column 14: `)` is expected, not the end"),
        ("root ::= *", "line 1, column 10: nothing stands before `*`"),
        ("root ::= root", "no answer fits it"),
        ("root ::= \"a\" [^\\U00000000-\\U0010FFFF]", "no answer fits it"),
        ("root ::= \"a", "line 1, column 10: this is not closed"),
        ("root ::= [a\\]", "line 1, column 10: this is not closed"),
        ("root ::= \"a\\", "line 1, column 10: this is not closed"),
        ("root ::= []", "line 1, column 10: this class of characters is empty"),
        ("root ::= [z-a]", "line 1, column 11: the range ends before it begins"),
        ("root ::= \"\\q\"", "line 1, column 11: this escape is not known"),
        ("root ::= \"\\xé0\"", "line 1, column 11: 2 hexadecimal digits"),
        ("root ::= \"\\uD800\"", "line 1, column 11: 4 hexadecimal digits"),
        ("root ::= \"\\U0011", "line 1, column 11: 8 hexadecimal digits"),
        ("root ::= \"a\"{}", "line 1, column 13: a repetition is one of"),
        ("root ::= \"a\"{,}", "line 1, column 13: a repetition is one of"),
        ("root ::= \"a\"{1;2}", "line 1, column 13: a repetition is one of"),
        ("root ::= \"a\"{2,1}", "line 1, column 13: the second count is less"),
        ("root ::= \"a\"{2001}", "line 1, column 14: a count is at most 2000"),
        (
            "root ::= \"a\"{1,99999999999999999999}",
            "line 1, column 16: a count is at most 2000",
        ),
    ] {
        let message = refusal(Grammar::Gbnf(gbnf.into()));
        assert!(message.starts_with(words), "{gbnf}: {message}");
    }
    let name = "a".repeat(5000);
    assert!(refusal(Grammar::Gbnf(format!("root ::= {name}"))).len() < 120);
}

#[test]
fn depth_and_number_of_rules_are_bounded() {
    let nested = |depth: usize| format!("root ::= {}\"a\"{}", "(".repeat(depth), ")".repeat(depth));
    whole(&nested(MAX_DEPTH), &["a"]);
    let message = refusal(Grammar::Gbnf(nested(MAX_DEPTH + 1)));
    assert_eq!(message, format!("it is nested more than {MAX_DEPTH} levels deep"));
    let groups = |count: usize| format!("root ::= {}\"a\"", "()".repeat(count));
    whole(&groups(MAX_RULES - 1), &["a"]);
    let message = refusal(Grammar::Gbnf(groups(MAX_RULES)));
    assert!(message.contains("it has more than 4096 rules and groups"), "{message}");
    // Brackets in texts are none.
    whole(&format!("root ::= \"{}\"", "(".repeat(100)), &[&"(".repeat(100)]);
}

#[test]
fn grammars_that_multiply_are_refused_or_compiled_and_never_break_the_process() {
    let chain_of = |count: usize, link: &dyn Fn(usize) -> String, last: &str| {
        let rules: Vec<String> = (0..count).map(|at| format!("r{at} ::= {}", link(at + 1))).collect();
        format!("root ::= r0\n{}\nr{count} ::= {last}", rules.join("\n"))
    };
    let chain = |link: &dyn Fn(usize) -> String, last: &str| chain_of(2000, link, last);
    for gbnf in [
        chain(&|next| format!("r{next}"), "\"a\""),
        chain(&|next| format!("\"a\" r{next} | \"b\" r{next}"), "\"c\""),
        chain(
            &|next| format!("\"a\" r{next} | r{next} \"b\""),
            "\"c\" | \"(\" root \")\"",
        ),
        chain(&|next| format!("\"a\" r{} | r{next}", next - 1), "\"b\""),
        chain_of(60, &|next| format!("r{next} r{next}"), "\"a\""),
        chain_of(60, &|next| format!("r{next} r{next}"), "[ab]"),
        chain(&|next| format!("r{next} r{next}"), "\"a\" | \"(\" root \")\""),
        chain(&|next| format!("r{next}{{2000}}"), "\"a\""),
        chain(&|next| format!("r{next}{{1,2000}}"), "\"a\" | \"(\" root \")\""),
        chain(&|next| format!("(r{next}?)*"), "\"a\"?"),
        "root ::= root root | \"a\" |".into(),
        "root ::= \"a\" root".into(),
        format!("root ::= {}\"a\" root?", "[^a]".repeat(10_000)),
    ] {
        match grammars(1).constraint(&Grammar::Gbnf(gbnf)) {
            Err(error) => assert!(!error.to_string().is_empty()),
            Ok(mut constraint) => drop(constraint.allowed()),
        }
    }
}

const FRAGMENTS: [&str; 24] = [
    "\"x\"",
    "\"\\x7f\\\\\"",
    "[a-c]",
    "[^\\n/]",
    ".",
    "\"\"",
    "a",
    "a",
    "b-c",
    "root",
    "(",
    "(",
    ")",
    ")",
    "|",
    "*",
    "+",
    "?",
    "{2}",
    "{,3}",
    "{0}",
    "\n",
    " ",
    "# no\n",
];

proptest! {
    #[test]
    fn whatever_is_read_is_lark_and_whatever_is_not_has_a_place(
        parts in prop::collection::vec(prop::sample::select(&FRAGMENTS[..]), 0..12),
        other in prop::collection::vec(prop::sample::select(&FRAGMENTS[..]), 0..6),
    ) {
        let text = format!("root ::= {}\na ::= {}\nb-c ::= [0-9] a | root", parts.join(" "), other.join(" "));
        match lark(&text) {
            Err(error) => prop_assert!(error.to_string().starts_with("line "), "{error}"),
            // Where it is refused for what it costs, or because no answer fits, it was understood.
            Ok(_) => if let Err(error) = grammars(1).constraint(&Grammar::Gbnf(text)) {
                let error = error.to_string();
                let understood = ["no answer fits it", "too big", "Too many items"].iter().any(|words| error.contains(words));
                prop_assert!(understood, "{error}");
            }
        }
    }

    #[test]
    fn no_text_breaks_what_reads_it(text in "(root ::= )?[ab:=|*+?.{}()\\[\\]\"^<>#,0-9xuU\\\\é\n -]{0,40}") {
        drop(lark(&text));
    }
}
