//! Cuts text into the pieces that byte-pair merging may not cross. Each rule is the regular expression
//! of the models that use it, written out as a scanner: one pass, no backtracking.
use unicode_properties::{GeneralCategory, GeneralCategoryGroup, UnicodeGeneralCategory};

/// The rule that a model was trained with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SplitRule {
    /// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
    Gpt2,
    /// Each `\p{N}` alone, then [`SplitRule::Gpt2`] on what lies between.
    DigitsThenGpt2,
    /// `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,max_digits}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
    Words {
        /// Digits in a piece at most.
        max_digits: usize,
    },
    /// Mistral's Tekken, with `U` for `\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}` and `L` for `\p{Ll}\p{Lm}\p{Lo}\p{M}`:
    /// `[^\r\n\p{L}\p{N}]?[U]*[L]+|[^\r\n\p{L}\p{N}]?[U]+[L]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`
    Tekken,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Letter,
    Number,
    Space,
    Other,
}

impl SplitRule {
    /// Hands the pieces of `text` to `emit` in order; together they are `text`.
    pub fn split<'a>(self, text: &'a str, mut emit: impl FnMut(&'a str)) {
        match self {
            Self::Gpt2 => scan(text, next_gpt2, &mut emit),
            Self::Words { max_digits } => scan(text, |rest| next_words(rest, max_digits), &mut emit),
            Self::Tekken => scan(text, next_tekken, &mut emit),
            Self::DigitsThenGpt2 => {
                let mut from = 0;
                for (at, char) in text.char_indices() {
                    if class(char) == Class::Number {
                        scan(&text[from..at], next_gpt2, &mut emit);
                        from = at + char.len_utf8();
                        emit(&text[at..from]);
                    }
                }
                scan(&text[from..], next_gpt2, &mut emit);
            }
        }
    }
}

/// Cuts `text` by a function that says how long the first piece of a non-empty rest is (never zero).
fn scan<'a>(text: &'a str, next: impl Fn(&str) -> usize, emit: &mut impl FnMut(&'a str)) {
    let mut rest = text;
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(next(rest));
        emit(piece);
        rest = after;
    }
}

fn next_gpt2(rest: &str) -> usize {
    if let Some(length) = contraction(rest, false) {
        return length;
    }
    let space = usize::from(rest.starts_with(' '));
    if let Some(kind) = first_class(&rest[space..]).filter(|&kind| kind != Class::Space) {
        return space + run(&rest[space..], kind);
    }
    spaces(rest)
}

fn next_words(rest: &str, max_digits: usize) -> usize {
    if let Some(length) = contraction(rest, true) {
        return length;
    }
    let mut chars = rest.chars();
    let Some(first) = chars.next() else { return 0 };
    let (kind, width) = (class(first), first.len_utf8());
    if kind == Class::Letter {
        return run(rest, Class::Letter);
    }
    if kind != Class::Number && first != '\r' && first != '\n' && first_class(&rest[width..]) == Some(Class::Letter) {
        return width + run(&rest[width..], Class::Letter);
    }
    if kind == Class::Number {
        return rest
            .chars()
            .take(max_digits)
            .take_while(|&char| class(char) == Class::Number)
            .map(char::len_utf8)
            .sum();
    }
    signs_or_spaces(rest, b"\r\n")
}

fn next_tekken(rest: &str) -> usize {
    let Some(first) = rest.chars().next() else { return 0 };
    let kind = class(first);
    let may_lead = !matches!(kind, Class::Letter | Class::Number) && first != '\r' && first != '\n';
    let starts = [may_lead.then(|| first.len_utf8()), Some(0)];
    for word in [ends_small, begins_large] {
        for start in starts.into_iter().flatten() {
            if let Some(length) = word(&rest[start..]) {
                return start + length;
            }
        }
    }
    if kind == Class::Number {
        return first.len_utf8();
    }
    signs_or_spaces(rest, b"\r\n/")
}

/// `[U]*[L]+`: where the capitals end without a small letter, what ends with the last of them that is of both kinds.
fn ends_small(rest: &str) -> Option<usize> {
    let large = rest.find(|char| !is_large(char)).unwrap_or(rest.len());
    let small = rest[large..].find(|char| !is_small(char)).unwrap_or(rest.len() - large);
    if small > 0 {
        return Some(large + small);
    }
    let (at, char) = rest[..large].char_indices().rev().find(|&(_, char)| is_small(char))?;
    Some(at + char.len_utf8())
}

/// `[U]+[L]*`, where `[U]*[L]+` does not match.
fn begins_large(rest: &str) -> Option<usize> {
    let large = rest.find(|char| !is_large(char)).unwrap_or(rest.len());
    (large > 0).then_some(large)
}

/// `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`
fn is_large(char: char) -> bool {
    use GeneralCategory::{LowercaseLetter, ModifierLetter, OtherLetter, TitlecaseLetter, UppercaseLetter};
    match char.general_category() {
        UppercaseLetter | TitlecaseLetter | ModifierLetter | OtherLetter => true,
        LowercaseLetter => false,
        _ => char.general_category_group() == GeneralCategoryGroup::Mark,
    }
}

/// `[\p{Ll}\p{Lm}\p{Lo}\p{M}]`
fn is_small(char: char) -> bool {
    use GeneralCategory::{TitlecaseLetter, UppercaseLetter};
    match char.general_category() {
        UppercaseLetter | TitlecaseLetter => false,
        _ => matches!(
            char.general_category_group(),
            GeneralCategoryGroup::Letter | GeneralCategoryGroup::Mark
        ),
    }
}

/// ` ?[^\s\p{L}\p{N}]+[after]*|\s*[\r\n]+|\s+(?!\S)|\s+`
fn signs_or_spaces(rest: &str, after: &[u8]) -> usize {
    let space = usize::from(rest.starts_with(' '));
    if first_class(&rest[space..]) == Some(Class::Other) {
        let end = space + run(&rest[space..], Class::Other);
        return end + rest[end..].bytes().take_while(|byte| after.contains(byte)).count();
    }
    let whole = run(rest, Class::Space);
    match rest[..whole].rfind(['\r', '\n']) {
        Some(last_break) => last_break + 1,
        None => spaces(rest),
    }
}

/// `\s+(?!\S)|\s+` : all of a run at the end of the text, all but its last character before a word.
fn spaces(rest: &str) -> usize {
    let whole = run(rest, Class::Space);
    if whole == rest.len() {
        return whole;
    }
    let last = rest[..whole].chars().next_back().map_or(0, char::len_utf8);
    if whole > last { whole - last } else { whole }
}

fn contraction(rest: &str, any_case: bool) -> Option<usize> {
    let after = rest.as_bytes().strip_prefix(b"'")?;
    let byte = |at: usize| {
        after
            .get(at)
            .map(|&byte| if any_case { byte.to_ascii_lowercase() } else { byte })
    };
    match (byte(0)?, byte(1)) {
        (b's' | b't' | b'm' | b'd', _) => Some(2),
        (b'r' | b'v', Some(b'e')) | (b'l', Some(b'l')) => Some(3),
        _ => None,
    }
}

/// Bytes of the run of `kind` that `rest` begins with.
fn run(rest: &str, kind: Class) -> usize {
    rest.find(|char| class(char) != kind).unwrap_or(rest.len())
}

fn first_class(rest: &str) -> Option<Class> {
    rest.chars().next().map(class)
}

fn class(char: char) -> Class {
    match char {
        'a'..='z' | 'A'..='Z' => Class::Letter,
        '0'..='9' => Class::Number,
        _ if char.is_whitespace() => Class::Space,
        _ if char.is_ascii() => Class::Other,
        _ => match char.general_category_group() {
            GeneralCategoryGroup::Letter => Class::Letter,
            GeneralCategoryGroup::Number => Class::Number,
            _ => Class::Other,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(rule: SplitRule, text: &str) -> Vec<&str> {
        let mut pieces = Vec::new();
        rule.split(text, |piece| pieces.push(piece));
        pieces
    }

    const QWEN: SplitRule = SplitRule::Words { max_digits: 1 };
    const LLAMA: SplitRule = SplitRule::Words { max_digits: 3 };

    #[test]
    fn gpt2_keeps_one_space_with_the_word_and_contractions_apart() {
        assert_eq!(
            pieces(SplitRule::Gpt2, "It's  10 o'clock!?"),
            ["It", "'s", " ", " 10", " o", "'", "clock", "!?"]
        );
        assert_eq!(
            pieces(SplitRule::Gpt2, "a\n\n b\t\tc"),
            ["a", "\n\n", " b", "\t", "\t", "c"]
        );
    }

    #[test]
    fn gpt2_knows_contractions_in_lower_case_only() {
        assert_eq!(pieces(SplitRule::Gpt2, "'S"), ["'", "S"]);
        assert_eq!(pieces(QWEN, "'S"), ["'S"]);
    }

    #[test]
    fn digits_stand_alone_and_end_the_text_around_them() {
        assert_eq!(
            pieces(SplitRule::DigitsThenGpt2, "x  12 y"),
            ["x", "  ", "1", "2", " y"]
        );
        assert_eq!(pieces(SplitRule::DigitsThenGpt2, "½a"), ["½", "a"]);
    }

    #[test]
    fn words_take_one_leading_character_and_digits_up_to_the_limit() {
        assert_eq!(pieces(LLAMA, "(abc) 12345"), ["(abc", ")", " ", "123", "45"]);
        assert_eq!(pieces(QWEN, "\tif 42"), ["\tif", " ", "4", "2"]);
    }

    #[test]
    fn words_keep_line_breaks_with_what_is_before_them() {
        assert_eq!(pieces(QWEN, "end.\n\n  x"), ["end", ".\n\n", " ", " x"]);
        assert_eq!(pieces(QWEN, "a  \n \n  b"), ["a", "  \n \n", " ", " b"]);
        assert_eq!(pieces(QWEN, "a   "), ["a", "   "]);
    }

    #[test]
    fn letters_of_other_scripts_are_letters_and_marks_are_not() {
        assert_eq!(pieces(SplitRule::Gpt2, "Привет мир"), ["Привет", " мир"]);
        assert_eq!(pieces(SplitRule::Gpt2, "e\u{301}x"), ["e", "\u{301}", "x"]);
    }

    #[test]
    fn tekken_cuts_words_before_capitals_and_keeps_slashes_with_signs() {
        let tekken = |text| pieces(SplitRule::Tekken, text);
        assert_eq!(
            tekken("(getHTTPCode 42) it's"),
            ["(get", "HTTPCode", " ", "4", "2", ")", " it", "'s"]
        );
        assert_eq!(tekken("//x/\n/y USA"), ["//", "x", "/\n/", "y", " USA"]);
        // Letters without case are of both kinds; so are marks, which may also lead a word.
        assert_eq!(tekken("東京Aa A東B"), ["東京Aa", " A東", "B"]);
        assert_eq!(tekken("\u{301}A \u{301}"), ["\u{301}", "A", " \u{301}"]);
        assert_eq!(tekken("a  \n \n  b "), ["a", "  \n \n", " ", " b", " "]);
    }

    #[test]
    fn every_byte_comes_back_in_order() {
        let text = "a\u{a0}\u{2003}b \r\n\u{85}\u{1f9d1}\u{200d}\u{1f680} ٣٤ 'LL ''ve\u{0}\u{fdd0}";
        for rule in [
            SplitRule::Gpt2,
            SplitRule::DigitsThenGpt2,
            SplitRule::Tekken,
            QWEN,
            LLAMA,
        ] {
            assert_eq!(pieces(rule, text).concat(), text, "{rule:?}");
            assert!(pieces(rule, text).iter().all(|piece| !piece.is_empty()));
        }
    }
}
