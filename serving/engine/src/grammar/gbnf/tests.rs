//! Grammars as callers of llama.cpp write them, and what an answer may be by them.
use super::super::Grammar;
use super::super::tests::{follow, grammars};
use super::*;

mod refused;

/// How much of each text a grammar allows, and whether the answer may end there.
fn check(gbnf: &str, texts: &[(&str, usize, bool)]) {
    let grammars = grammars(1);
    for &(text, allowed, may_end) in texts {
        let mut constraint = grammars.constraint(&Grammar::Gbnf(gbnf.into())).unwrap();
        let (taken, ends, _) = follow(&mut constraint, text);
        assert_eq!((taken, ends), (allowed, may_end), "{text:?} by {gbnf}");
    }
}

fn whole(gbnf: &str, texts: &[&str]) {
    let texts: Vec<_> = texts.iter().map(|text| (*text, text.len(), true)).collect();
    check(gbnf, &texts);
}

const JSON: &str = r##"
# Any JSON, without white space that never ends.
root   ::= value
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::=
  "{" ws (
    pair            # at least one
    ("," ws pair)*
  )? "}" ws
pair   ::= string ":" ws value
array  ::= "[" ws (value ("," ws value)*)? "]" ws
string ::= "\"" ([^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt/] | "u" [0-9a-fA-F]{4}))* "\"" ws
number ::= "-"? ([0-9] | [1-9] [0-9]{0,15}) ("." [0-9]+)? ([eE] [-+]? [1-9] [0-9]{,2})? ws
ws     ::= [ \t\n]{0,20}
"##;

#[test]
fn json_is_what_its_grammar_says() {
    let nested = format!("{}{}", "[{\"a\":".repeat(40) + "1", "}]".repeat(40));
    whole(
        JSON,
        &[
            r#"{"name": "Ada \"L.\" \u00e9", "born": -1.815e+3, "x": [true, {}, null , []]}"#,
            "\"é\u{1F600}\"",
            "0",
            &nested,
        ],
    );
    check(
        JSON,
        &[
            ("{\"a\": 1, }", 9, false),
            ("{a", 1, false),
            ("\"\\u12g", 5, false),
            ("\"a\nb", 2, false),
            ("[1, 2", 5, false),
            ("[1]]", 3, false),
            ("nil", 1, false),
        ],
    );
}

#[test]
fn arithmetic_nests_and_ends_where_all_brackets_are_closed() {
    let gbnf = r#"root ::= (expression "=" ws term "\n")+
expression ::= term ([-+*/] ws term)*
term ::= name | number | "(" ws expression ")" ws
name ::= [a-z] [a-z0-9_]* ws
number ::= [0-9]+ ws
ws ::= [ \t]*"#;
    whole(gbnf, &["x = 5\n", "(a_1 + 2) * (3-(b/ 4)) = 17\ny=1\n"]);
    check(
        gbnf,
        &[
            ("(1 + 2 = ", 7, false),
            ("1 ++", 3, false),
            ("1 = 2", 5, false),
            ("X", 0, false),
        ],
    );
}

#[test]
fn moves_of_a_game_and_lists_are_one_expression() {
    let chess = r##"root ::= ("1. " turn) ("\n" [1-9] [0-9]? ". " turn){,99}
turn  ::= move " " move
move  ::= (pawn | piece | castle) [+#]?
piece ::= [NBKQR] [a-h]? [1-8]? "x"? square
pawn  ::= ([a-h] "x")? square ("=" [NBQR])?
castle ::= "O-O" "-O"?
square ::= [a-h] [1-8]"##;
    whole(chess, &["1. e4 e5\n2. Nf3 Nc6\n3. O-O exd8=Q#", "1. Nbd7 R1xa4+"]);
    check(
        chess,
        &[("1. e9", 4, false), ("2", 0, false), ("1. O-O-O O-O\n0", 13, false)],
    );
    let list = "root ::= item+\nitem ::= \"- \" [^\\r\\n]{1,80} \"\\n\"";
    whole(list, &["- one\n- zwölf\n"]);
    check(list, &[("- \n", 2, false), ("-- a", 1, false), ("- a", 3, false)]);
    assert!(!lark(chess).unwrap().contains("\nr"), "a rule where terminals do");
}

#[test]
fn names_that_differ_in_dashes_and_case_are_different_rules() {
    whole(
        "root ::= a-b a_b A-B ab start T0 r0\na-b ::= \"1\"\na_b ::= \"2\"\nA-B ::= \"3\"\nab ::= \"4\"\n\
         start ::= \"5\" start?\nT0 ::= \"6\"\nr0 ::= \"7\" | r0 \"8\"",
        &["1234567", "12345556788"],
    );
}

#[test]
fn escapes_classes_and_counts_mean_what_they_say() {
    whole(
        r#"root ::= "\x41\u00e9\U0001F600\n\r\t\\\"\[\]\-/\x7f\x00" "ü""#,
        &["Aé\u{1F600}\n\r\t\\\"[]-/\u{7f}\0ü"],
    );
    let class = r#"root ::= [a-c\]\[\\\-^\u00e0-\u00ff/] [^a-c"'] . [-x] [x-] "i""#;
    whole(class, &["]d\n-xi", "éée--i", "^^^x-i", "/\\\u{1F600}xxi"]);
    check(class, &[("d", 0, false), ("aa", 1, false), ("ad.y", 3, false)]);
    for (count, allowed) in [
        ("{2}", vec![2]),
        ("{2,}", vec![2, 3, 4, 9]),
        ("{ 1 , 2 }", vec![1, 2]),
        ("{,2}", vec![0, 1, 2]),
        ("{0}", vec![0]),
        ("?", vec![0, 1]),
        ("+", vec![1, 2, 3, 4, 9]),
        ("*", vec![0, 1, 2, 3, 4, 9]),
        (" {2} {2}", vec![4]),
        ("{2}+?", vec![0, 2, 4]),
    ] {
        // As an expression and, behind a rule that contains itself, as a part of a rule.
        for gbnf in [
            format!("root ::= \"<\" \"ab\"{count} \">\""),
            format!("root ::= \"<\" x{count} \">\"\nx ::= \"ab\" | \"(\" x \")\""),
        ] {
            for times in [0, 1, 2, 3, 4, 9] {
                let text = format!("<{}>", "ab".repeat(times));
                let mut constraint = grammars(1).constraint(&Grammar::Gbnf(gbnf.clone())).unwrap();
                let (taken, ends, _) = follow(&mut constraint, &text);
                let is_whole = taken == text.len() && ends;
                assert_eq!(is_whole, allowed.contains(&times), "{text} by {gbnf}");
            }
        }
    }
}

#[test]
fn lines_go_on_in_brackets_and_around_bars() {
    for gbnf in [
        "root ::=\n  # the one\n \"a\" # a\n | \"b\" |\n\n \"c\"\r\n\r\n# end",
        "root ::= (\n\"a\"\n|\n\"b\"\n# or\n|\"c\"\n)",
        "root::=a|(b|c)\na::=\"a\"\nb::=\"b\"\nc::=\"c\"",
    ] {
        whole(gbnf, &["a", "b", "c"]);
        check(gbnf, &[("d", 0, false), ("ab", 1, false)]);
    }
}

#[test]
fn a_rule_may_begin_or_end_with_itself() {
    for gbnf in [
        "root ::= root \",\" [a-z] | [a-z]",
        "root ::= [a-z] (\",\" root)?",
        "root ::= sub\nsub ::= other \",\" [a-z] | [a-z]\nother ::= sub",
    ] {
        whole(gbnf, &["a", "a,b,c"]);
        check(gbnf, &[("a,,", 2, false), (",", 0, false)]);
    }
}

#[test]
fn a_rule_that_only_ends_with_itself_is_of_any_length() {
    for gbnf in [
        "root ::= item | item \",\" root\nitem ::= [a-z]",
        "root ::= item (\",\" root)?\nitem ::= [a-z]",
        "root ::= [a-z] (\",\" (root | \"-\"? root) | \"\")",
        "root ::= letter rest\nletter ::= [a-z]\nrest ::= \"\" | \",\" letter rest",
    ] {
        whole(gbnf, &["a", "a,b,c", &format!("a{}", ",b".repeat(2000))]);
        check(gbnf, &[("a,", 2, false), ("a,bc", 3, false)]);
    }
    // Even without an end.
    check("root ::= \"a\"* root", &[("aaaa", 4, false)]);
    // One that also does not only end with itself.
    whole("root ::= \"(\" root \")\" | [a-z] root | \"\"", &["ab(c(d))"]);
}

#[test]
fn within_a_rule_that_contains_itself_the_longest_reading_counts() {
    let gbnf = "root ::= word (\"x\" | \"(\" root \")\")\nword ::= [a-z]+";
    check(gbnf, &[("ab(cx)", 5, false), ("abx", 3, false)]);
}

#[test]
fn what_may_be_empty_may() {
    let brackets = "root ::= pair*\npair ::= \"(\" root \")\" | nothing\nnothing ::= \"\" | ";
    check(
        brackets,
        &[
            ("", 0, true),
            ("(()())()", 8, true),
            ("())", 2, false),
            ("((", 2, false),
        ],
    );
    check("root ::= \"\"", &[("a", 0, false)]);
    check("root ::= |\"a\"", &[("", 0, true), ("a", 1, true)]);
}
