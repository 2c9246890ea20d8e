//! What chat templates expect of Jinja beyond the language: they were written against Python's
//! Jinja2 with the settings of the `transformers` library.
use std::io;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value};
use minijinja::{Environment, Error, ErrorKind, State};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

use super::text::{self, Paid};

/// What a template says when it calls `raise_exception`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Raised(pub String);

/// Block tags take the white space before and the line break after them along.
pub fn syntax() -> Result<SyntaxConfig, Error> {
    SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()
}

/// Sets up an environment as templates expect it.
pub fn extend(environment: &mut Environment<'static>) -> Result<(), Error> {
    environment.set_syntax(syntax()?);
    environment.set_unknown_method_callback(|state, value, method, args| match (value.as_str(), method) {
        (Some(format), "format") => text::format(state, format, args),
        (Some(separator), "join") => text::join(state, separator, args),
        _ => unknown_method_callback(state, value, method, args),
    });
    environment.set_formatter(text::print);
    environment.add_filter("tojson", to_json);
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(Raised(message)))
    });
    Ok(())
}

/// `transformers` marks assistant text for training with `{% generation %}`, which means nothing here and
/// is no Jinja: turned into a condition that always holds, so that the tags keep their white space rules.
pub fn without_training_marks(template: &str) -> String {
    let mut plain = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        plain.push_str(before);
        let Some(end) = tag.find("%}") else {
            rest = tag;
            break;
        };
        let (tag, after) = tag.split_at(end + 2);
        match tag
            .trim_start_matches(['{', '%', '-', '+'])
            .trim_end_matches(['}', '%', '-', '+'])
            .trim()
        {
            "generation" => plain.push_str(&tag.replace("generation", "if true")),
            "endgeneration" => plain.push_str(&tag.replace("endgeneration", "endif")),
            _ => plain.push_str(tag),
        }
        rest = after;
    }
    plain.push_str(rest);
    plain
}

/// Python's `json.dumps(value, ensure_ascii=False)`: spaces after separators, nothing escaped for HTML.
fn to_json(state: &State, value: Value, options: Kwargs) -> Result<Value, Error> {
    // The only value of this option that templates pass, and how the output is anyway.
    options.get::<Option<bool>>("ensure_ascii")?;
    let indent = options.get::<Option<usize>>("indent")?;
    let sorted = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    let separators = options.get::<Option<Vec<String>>>("separators")?;
    options.assert_all_used()?;

    let fail = |error: serde_json::Error| {
        Error::new(ErrorKind::InvalidOperation, "tojson: the value has no JSON form").with_source(error)
    };
    let value = match sorted {
        false => value,
        // Through text, which is bounded where the value may not be.
        true => {
            let mut json = Paid::new(state);
            let written = value.serialize(&mut Serializer::new(&mut json)).map_err(fail);
            let json = json.finish(written)?;
            let value = serde_json::from_str(json.as_str().unwrap_or_default()).map_err(fail)?;
            Value::from(Serde(sort_keys(value)))
        }
    };
    let mut json = Paid::new(state);
    let written = match indent {
        Some(width) if width <= 16 => {
            let indent = " ".repeat(width);
            let formatter = PrettyFormatter::with_indent(indent.as_bytes());
            value.serialize(&mut Serializer::with_formatter(&mut json, formatter))
        }
        Some(width) => {
            return Err(Error::new(
                ErrorKind::InvalidOperation,
                format!("tojson: an indent of {width} is too wide"),
            ));
        }
        None => {
            let (item, key) = match separators.as_deref() {
                None => (", ".into(), ": ".into()),
                Some([item, key]) => (item.clone(), key.clone()),
                Some(_) => {
                    return Err(Error::new(
                        ErrorKind::InvalidOperation,
                        "tojson: separators are two texts",
                    ));
                }
            };
            let formatter = Spaced { item, key };
            value.serialize(&mut Serializer::with_formatter(&mut json, formatter))
        }
    };
    json.finish(written.map_err(fail))
}

fn sort_keys(value: serde_json::Value) -> serde_json::Value {
    match value {
        serde_json::Value::Array(items) => items.into_iter().map(sort_keys).collect(),
        serde_json::Value::Object(entries) => {
            let mut entries: Vec<_> = entries
                .into_iter()
                .map(|(key, value)| (key, sort_keys(value)))
                .collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            serde_json::Value::Object(entries.into_iter().collect())
        }
        other => other,
    }
}

struct Spaced {
    item: String,
    key: String,
}

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first {
            Ok(())
        } else {
            writer.write_all(self.item.as_bytes())
        }
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first {
            Ok(())
        } else {
            writer.write_all(self.item.as_bytes())
        }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(self.key.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn training_marks_become_conditions_with_the_same_white_space() {
        assert_eq!(
            without_training_marks("a{%- generation -%}b{% endgeneration %}c{% if x %}{{ generation }}{% open"),
            "a{%- if true -%}b{% endif %}c{% if x %}{{ generation }}{% open"
        );
    }
}
