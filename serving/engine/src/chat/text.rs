//! Texts made of values. minijinja counts what an operation makes when it is made; where one value becomes any number
//! of bytes (a width of a trillion, a list that holds the same list a thousand times), that is too late, and memory
//! that the system does not have ends the process.
use std::fmt::Write;
use std::io;

use minijinja::formatting::{FormatStyle, format as format_value};
use minijinja::value::{Kwargs, Rest, Value, from_args};
use minijinja::{Error, ErrorKind, Output, State, escape_formatter};

/// Digits of a width or a precision.
const MAX_DIGITS: usize = 4;
/// Bytes for a unit of fuel, as minijinja counts.
const BYTES_PER_FUEL: usize = 64;
/// Bytes that a piece counts for besides its own: a text of many small ones takes longer.
const BYTES_PER_PIECE: usize = 32;

/// A text that costs fuel while it grows.
pub struct Paid<'a, 'template, 'env> {
    state: &'a State<'template, 'env>,
    bytes: Vec<u8>,
    /// What was written and not paid yet, less than a unit of fuel.
    unpaid: usize,
    out_of_fuel: Option<Error>,
}

impl<'a, 'template, 'env> Paid<'a, 'template, 'env> {
    /// An empty one.
    pub fn new(state: &'a State<'template, 'env>) -> Self {
        Self {
            state,
            bytes: Vec::new(),
            unpaid: 0,
            out_of_fuel: None,
        }
    }

    /// The text, if `written` says that all of it is there.
    ///
    /// # Errors
    /// If the fuel ended, or else what `written` says.
    pub fn finish(self, written: Result<(), Error>) -> Result<Value, Error> {
        self.out_of_fuel.map_or(written, Err)?;
        String::from_utf8(self.bytes)
            .map(Value::from)
            .map_err(|error| refused("the text is not UTF-8").with_source(error))
    }

    fn push(&mut self, bytes: &[u8]) -> Option<()> {
        self.unpaid += bytes.len() + BYTES_PER_PIECE;
        let fuel = self.unpaid / BYTES_PER_FUEL;
        self.unpaid %= BYTES_PER_FUEL;
        if let Err(error) = self.state.consume_fuel(fuel as u64) {
            self.out_of_fuel = Some(error);
            return None;
        }
        self.bytes.extend_from_slice(bytes);
        Some(())
    }
}

impl Write for Paid<'_, '_, '_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.push(text.as_bytes()).ok_or(std::fmt::Error)
    }
}

impl io::Write for Paid<'_, '_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.push(bytes).ok_or(io::ErrorKind::FileTooLarge)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a tag prints: lists and maps by way of a text that is paid for.
pub fn print(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    if value.as_object().is_none() {
        return escape_formatter(out, state, value);
    }
    let mut text = Paid::new(state);
    let written = write!(text, "{value}").map_err(unprintable);
    let text = text.finish(written)?;
    escape_formatter(out, state, &text)
}

/// Python's `separator.join(values)`.
pub fn join(state: &State, separator: &str, args: &[Value]) -> Result<Value, Error> {
    let (values,): (&Value,) = from_args(args)?;
    let mut text = Paid::new(state);
    let mut first = true;
    let mut write = |value: Value| {
        let separator = if first { "" } else { separator };
        first = false;
        state.consume_fuel(1)?;
        write!(text, "{separator}{value}").map_err(unprintable)
    };
    let written = values.try_iter()?.checked().try_for_each(|value| write(value?));
    text.finish(written)
}

/// Python's `format.format(…)`: fields are `{}`, `{0}` or `{name}`, with a path and a format behind a colon if need be.
pub fn format(state: &State, format: &str, args: &[Value]) -> Result<Value, Error> {
    let (positional, named): (Rest<Value>, Kwargs) = from_args(args)?;
    let mut text = Paid::new(state);
    let mut rest = format;
    let mut next = 0;
    let mut write = || -> Result<(), Error> {
        while let Some(at) = rest.find(['{', '}']) {
            let (before, brace) = rest.split_at(at);
            text.write_str(before).map_err(unprintable)?;
            rest = &brace[1..];
            if rest.starts_with(&brace[..1]) {
                text.write_str(&brace[..1]).map_err(unprintable)?;
                rest = &rest[1..];
                continue;
            }
            if brace.starts_with('}') {
                return Err(refused("a format has a single `}`; write `}}`"));
            }
            let field = Field::take(&mut rest)?;
            let value = field.value(&positional, &named, &mut next)?;
            field.write(&value, &mut text)?;
        }
        text.write_str(rest).map_err(unprintable)
    };
    let written = write();
    text.finish(written)
}

/// What stands between the braces.
struct Field<'a> {
    /// The argument, and the way into it.
    path: &'a str,
    /// How it is written.
    spec: &'a str,
}

impl<'a> Field<'a> {
    /// The field at the start of `rest`, behind its brace; takes it away with the closing one.
    fn take(rest: &mut &'a str) -> Result<Self, Error> {
        let unclosed = || refused("a field of a format has no closing `}`");
        let mut bracket = false;
        let end = rest.find(|c| {
            bracket = (bracket || c == '[') && c != ']';
            !bracket && matches!(c, ':' | '}')
        });
        let (path, mut spec) = rest.split_at(end.ok_or_else(unclosed)?);
        if let Some(behind) = spec.strip_prefix(':') {
            spec = behind;
        }
        let close = spec.find('}').ok_or_else(unclosed)?;
        *rest = &spec[close + 1..];
        Ok(Self {
            path,
            spec: &spec[..close],
        })
    }

    /// The value it names; `next` counts the fields without a name.
    fn value(&self, positional: &[Value], named: &Kwargs, next: &mut usize) -> Result<Value, Error> {
        let end = self.path.find(['.', '[']).unwrap_or(self.path.len());
        let (name, mut path) = self.path.split_at(end);
        let value = if name.is_empty() {
            *next += 1;
            positional.get(*next - 1).cloned()
        } else if name.bytes().all(|byte| byte.is_ascii_digit()) {
            name.parse()
                .ok()
                .and_then(|index: usize| positional.get(index).cloned())
        } else {
            named.get::<Option<Value>>(name)?
        };
        let mut value = value.ok_or_else(|| refused("a format has a field without an argument"))?;
        while !path.is_empty() {
            if let Some(key) = path.strip_prefix('[') {
                let (key, behind) = key
                    .split_once(']')
                    .ok_or_else(|| refused("a field of a format has no closing `]`"))?;
                let key = key.parse::<u32>().map_or_else(|_| Value::from(key), Value::from);
                value = value.get_item(&key)?;
                path = behind;
            } else {
                let attribute = path
                    .strip_prefix('.')
                    .ok_or_else(|| refused("a field of a format has something behind `]`"))?;
                let end = attribute.find(['.', '[']).unwrap_or(attribute.len());
                value = value.get_attr(&attribute[..end])?;
                path = &attribute[end..];
            }
        }
        Ok(value)
    }

    fn write(&self, value: &Value, text: &mut Paid) -> Result<(), Error> {
        if self.spec.is_empty() {
            return write!(text, "{value}").map_err(unprintable);
        }
        if value.as_object().is_some() {
            return Err(refused("only numbers and texts take a format"));
        }
        let mut numbers = self.spec.split(|c: char| !c.is_ascii_digit());
        if numbers.any(|number| number.len() > MAX_DIGITS) {
            return Err(refused("a width or a precision of a format has more than four digits"));
        }
        let one = format_value(
            FormatStyle::StrFormat,
            &format!("{{:{}}}", self.spec),
            std::slice::from_ref(value),
        )?;
        text.write_str(&one).map_err(unprintable)
    }
}

fn unprintable(error: std::fmt::Error) -> Error {
    refused("a value cannot be printed").with_source(error)
}

fn refused(detail: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, detail)
}
