//! Keeps templates shallow. The interpreter recurses over expressions and values, in places where nothing can stop it
//! (dropping a list of lists of lists, for one), and a stack that overflows takes the whole process along. So:
//! - a tag has a bounded number of tokens, which bounds the depth of an expression;
//! - what `set` and `with` keep has a bounded depth, checked by a filter that is put around it here, and no namespace
//!   inside a namespace (a namespace is the only value that can come to hold itself);
//! - everything runs on a stack that is large enough for what then remains (`thread`).
use minijinja::machinery::{Token, tokenize};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{DynObject, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State};

/// Tokens between the marks of a tag: the longest in published templates have some 100.
const MAX_TAG_TOKENS: usize = 512;
/// `elif`s of a template: each lies inside the one before.
const MAX_ELIFS: usize = 512;
/// Depth of a value that is kept; JSON from a caller has 128 at most.
const MAX_VALUE_DEPTH: usize = 160;

/// Around what `set` and `with` keep.
const FILTER: &str = "bounded";
/// The same where a namespace keeps it.
const NAMESPACE_FILTER: &str = "bounded_in_namespace";

/// Makes the filters known.
pub fn extend(environment: &mut Environment<'static>) {
    environment.add_filter(FILTER, |state: &State, value: Value| bounded(state, value, false));
    environment.add_filter(NAMESPACE_FILTER, |state: &State, value: Value| {
        bounded(state, value, true)
    });
}

/// The template with the filters put in.
///
/// # Errors
/// If it is no template, or a tag is too long.
pub fn guarded(template: &str, syntax: SyntaxConfig) -> Result<String, Error> {
    let mut guarded = String::with_capacity(template.len() + template.len() / 8);
    let mut copied = 0;
    let mut insert = |at: usize, text: &[&str]| {
        guarded.push_str(&template[copied..at]);
        guarded.extend(text.iter().copied());
        copied = at;
    };
    let mut tag = Tag::default();
    let mut elifs = 0;
    for token in tokenize(template, false, syntax) {
        let (token, span) = token?;
        let (start, end) = (span.start_offset as usize, span.end_offset as usize);
        match token {
            Token::TemplateData(_) => continue,
            Token::VariableStart | Token::BlockStart => tag = Tag::default(),
            Token::BlockEnd => tag.end(|filter| insert(start, &[")|", filter])),
            Token::Comma if tag.keeps == Keeps::Several => tag.end(|filter| insert(start, &[")|", filter])),
            Token::Assign => tag.begin(|| insert(end, &["("])),
            Token::Dot => tag.dotted |= !tag.assigned,
            Token::BracketOpen | Token::ParenOpen | Token::BraceOpen => tag.open += 1,
            Token::BracketClose | Token::ParenClose | Token::BraceClose => tag.open = tag.open.saturating_sub(1),
            Token::Ident(name) if tag.tokens == 1 => match name {
                "set" => tag.keeps = Keeps::One,
                "with" => tag.keeps = Keeps::Several,
                "elif" => elifs += 1,
                _ => {}
            },
            _ => {}
        }
        tag.tokens += 1;
        if tag.tokens > MAX_TAG_TOKENS || elifs > MAX_ELIFS {
            let detail = format!("line {}: a tag has too many parts", span.start_line);
            return Err(Error::new(ErrorKind::SyntaxError, detail));
        }
    }
    guarded.push_str(&template[copied..]);
    Ok(guarded)
}

/// What is known of the tag so far.
#[derive(Default)]
struct Tag {
    tokens: usize,
    keeps: Keeps,
    /// Brackets that are open.
    open: usize,
    /// The target names an attribute.
    dotted: bool,
    /// Inside what is kept.
    assigned: bool,
}

#[derive(Default, PartialEq, Eq)]
enum Keeps {
    #[default]
    Nothing,
    /// `set target = value`; the value may have commas.
    One,
    /// `with target = value, target = value`
    Several,
}

impl Tag {
    /// At an equals sign.
    fn begin(&mut self, insert: impl FnOnce()) {
        if self.keeps != Keeps::Nothing && self.open == 0 && !self.assigned {
            self.assigned = true;
            insert();
        }
    }

    /// Where a value may end.
    fn end(&mut self, insert: impl FnOnce(&str)) {
        if self.assigned && self.open == 0 {
            insert(if self.dotted { NAMESPACE_FILTER } else { FILTER });
            self.assigned = false;
            self.dotted = false;
        }
    }
}

/// The value, if it is not too deep.
fn bounded(state: &State, value: Value, in_namespace: bool) -> Result<Value, Error> {
    let mut rest = vec![(value.clone(), 0)];
    let mut visited = 0;
    while let Some((value, depth)) = rest.pop() {
        visited += 1;
        if visited % 64 == 0 {
            state.consume_fuel(1)?;
        }
        if in_namespace && value.as_object().is_some_and(is_namespace) {
            return Err(refused("a namespace cannot hold a namespace"));
        }
        if depth > MAX_VALUE_DEPTH {
            return Err(refused("a value is nested too deeply"));
        }
        let map = match value.kind() {
            ValueKind::Map => true,
            ValueKind::Seq | ValueKind::Iterable => false,
            _ => continue,
        };
        for item in value.try_iter()? {
            if map {
                rest.push((value.get_item(&item)?, depth + 1));
            }
            rest.push((item, depth + 1));
        }
    }
    Ok(value)
}

fn is_namespace(object: &DynObject) -> bool {
    object.type_name().ends_with("::Namespace")
}

fn refused(detail: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(template: &str) -> String {
        guarded(template, SyntaxConfig::default()).unwrap()
    }

    #[test]
    fn what_set_and_with_keep_is_checked() {
        for (template, expected) in [
            ("a {% set x = y %} b", "a {% set x = ( y )|bounded%} b"),
            (
                "{%- set a.b = f(c=1)[2:] -%}",
                "{%- set a.b =( f(c=1)[2:] )|bounded_in_namespace-%}",
            ),
            (
                "{% set a, b = {'x': 1}, '=' %}",
                "{% set a, b =( {'x': 1}, '=' )|bounded%}",
            ),
            (
                "{% with a = 1, b = (2, 3) %}{% endwith %}",
                "{% with a =( 1)|bounded, b =( (2, 3) )|bounded%}{% endwith %}",
            ),
            (
                "{% set x %}{{ a.b == c }}{% endset %}",
                "{% set x %}{{ a.b == c }}{% endset %}",
            ),
            (
                "{{ set(x=1) }}{% if set == 1 %}{% endif %}",
                "{{ set(x=1) }}{% if set == 1 %}{% endif %}",
            ),
            (
                "{# {% set x = 1 %} #}{% raw %}{% set x = 1 %}{% endraw %}",
                "{# {% set x = 1 %} #}{% raw %}{% set x = 1 %}{% endraw %}",
            ),
        ] {
            let expected = expected.replace("= (", "=(");
            assert_eq!(rewritten(template), expected);
        }
    }

    #[test]
    fn a_tag_has_a_bounded_number_of_tokens_and_a_template_of_elifs() {
        let sum = |terms: usize| format!("{{{{ 1{} }}}}", " + 1".repeat(terms));
        assert_eq!(rewritten(&sum(200)), sum(200));
        assert!(guarded(&sum(300), SyntaxConfig::default()).is_err());
        let elifs = |count: usize| format!("{{% if a %}}{}{{% endif %}}", "{% elif b %}".repeat(count));
        assert_eq!(rewritten(&elifs(500)), elifs(500));
        assert!(guarded(&elifs(600), SyntaxConfig::default()).is_err());
    }
}
