//! The text of a grammar in GBNF to numbered rules. Line and column of an error are the caller's.
use std::collections::HashMap;

use super::super::{GrammarError, MAX_DEPTH};
use super::cursor::Cursor;
use super::{Alternatives, Gbnf, Item, MAX_REPETITIONS, MAX_RULES, What};
use crate::shortened;

/// The rule of the whole answer.
const ROOT: &str = "root";
/// Bytes of a name that an error repeats.
const MAX_QUOTED_BYTES: usize = 60;

/// Reads all rules, each of which is defined once.
pub fn read(text: &str) -> Result<Gbnf, GrammarError> {
    let mut reader = Reader {
        cursor: Cursor::new(text),
        names: HashMap::new(),
        rules: Vec::new(),
    };
    reader.cursor.space(true);
    while reader.cursor.peek().is_some() {
        reader.rule()?;
    }
    let root = reader.names.get(ROOT).copied();
    let mut groups = vec![true; reader.rules.len()];
    reader.names.values().for_each(|&number| groups[number] = false);
    let rules = reader.rules.iter_mut().map(|rule| match rule.body.take() {
        Some(body) => Ok(body),
        None => Err(rule.first),
    });
    match rules.collect::<Result<_, usize>>() {
        Err(at) => {
            reader.cursor.at = at;
            let name = quoted(reader.cursor.word());
            Err(reader.cursor.wrong_at(at, format!("no rule is named `{name}`")))
        }
        Ok(rules) => match root {
            Some(root) => Ok(Gbnf { rules, groups, root }),
            None => Err(GrammarError::Invalid(format!("no rule is named `{ROOT}`"))),
        },
    }
}

/// A name's rule, as far as it is known.
struct Rule {
    /// Where it was named first.
    first: usize,
    body: Option<Alternatives>,
}

struct Reader<'a> {
    cursor: Cursor<'a>,
    /// Numbers of rules.
    names: HashMap<&'a str, usize>,
    rules: Vec<Rule>,
}

impl<'a> Reader<'a> {
    fn rule(&mut self) -> Result<(), GrammarError> {
        let start = self.cursor.at;
        let name = self.cursor.word();
        if name.is_empty() {
            return Err(self
                .cursor
                .wrong(format!("a rule's name is expected, not {}", self.cursor.found())));
        }
        self.cursor.space(false);
        if !self.cursor.take("::=") {
            return Err(self
                .cursor
                .wrong(format!("`::=` is expected, not {}", self.cursor.found())));
        }
        self.cursor.space(true);
        let number = self.named(name, start)?;
        if self.rules[number].body.is_some() {
            return Err(self
                .cursor
                .wrong_at(start, format!("`{}` is defined twice", quoted(name))));
        }
        let body = self.alternatives(0)?;
        if !matches!(self.cursor.peek(), None | Some('\n' | '\r')) {
            return Err(self
                .cursor
                .wrong(format!("{} is not supported here", self.cursor.found())));
        }
        self.rules[number].body = Some(body);
        self.cursor.space(true);
        Ok(())
    }

    fn alternatives(&mut self, depth: usize) -> Result<Alternatives, GrammarError> {
        let mut alternatives = vec![self.sequence(depth)?];
        loop {
            // A line may begin with `|`.
            let end = self.cursor.at;
            self.cursor.space(true);
            if !self.cursor.take("|") {
                self.cursor.at = end;
                return Ok(alternatives);
            }
            self.cursor.space(true);
            alternatives.push(self.sequence(depth)?);
        }
    }

    fn sequence(&mut self, depth: usize) -> Result<Vec<Item>, GrammarError> {
        let mut items = Vec::new();
        while let Some(what) = self.what(depth)? {
            let mut item = Item { what, times: None };
            self.cursor.space(depth > 0);
            while let Some((least, most)) = self.times()? {
                if most == Some(0) {
                    item.what = What::Text("\"\"".to_owned());
                    item.times = None;
                } else {
                    if item.times.is_some() {
                        let rule = self.add(self.cursor.at, Some(vec![vec![item]]))?;
                        item = Item::of(rule);
                    }
                    item.times = Some((least, most));
                }
                self.cursor.space(depth > 0);
            }
            items.push(item);
        }
        Ok(items)
    }

    /// What begins here, if it is a part of a sequence.
    fn what(&mut self, depth: usize) -> Result<Option<What>, GrammarError> {
        let start = self.cursor.at;
        Ok(Some(match self.cursor.peek() {
            Some('"') => What::Text(self.cursor.literal()?),
            Some('[') => What::Text(self.cursor.class()?),
            Some('.') => {
                self.cursor.bump();
                What::Text(r"/[\x{0}-\x{10FFFF}]/".to_owned())
            }
            Some('(') if depth == MAX_DEPTH => return Err(GrammarError::TooDeep),
            Some('(') => {
                self.cursor.bump();
                self.cursor.space(true);
                let group = self.alternatives(depth + 1)?;
                if !self.cursor.take(")") {
                    return Err(self
                        .cursor
                        .wrong(format!("`)` is expected, not {}", self.cursor.found())));
                }
                What::Rule(self.add(start, Some(group))?)
            }
            Some('<' | '!') => return Err(self.cursor.wrong("references to tokens are not supported")),
            Some('*' | '+' | '?' | '{') => {
                return Err(self
                    .cursor
                    .wrong(format!("nothing stands before {}", self.cursor.found())));
            }
            _ => match self.cursor.word() {
                "" => return Ok(None),
                name => What::Rule(self.named(name, start)?),
            },
        }))
    }

    /// How often the item before is wanted.
    fn times(&mut self) -> Result<Option<(u32, Option<u32>)>, GrammarError> {
        let times = match self.cursor.peek() {
            Some('*') => (0, None),
            Some('+') => (1, None),
            Some('?') => (0, Some(1)),
            Some('{') => return self.counts().map(Some),
            _ => return Ok(None),
        };
        self.cursor.bump();
        Ok(Some(times))
    }

    fn counts(&mut self) -> Result<(u32, Option<u32>), GrammarError> {
        let start = self.cursor.at;
        self.cursor.bump();
        let least = self.count()?;
        let comma = self.cursor.take(",");
        let most = if comma { self.count()? } else { least };
        if !self.cursor.take("}") || (least.is_none() && most.is_none()) {
            return Err(self
                .cursor
                .wrong_at(start, "a repetition is one of {m}, {m,}, {m,n} and {,n}"));
        }
        let least = least.unwrap_or(0);
        if most.is_some_and(|most| most < least) {
            return Err(self.cursor.wrong_at(start, "the second count is less than the first"));
        }
        Ok((least, most))
    }

    /// A count with the white space around it.
    fn count(&mut self) -> Result<Option<u32>, GrammarError> {
        self.cursor.space(false);
        let start = self.cursor.at;
        let digits = self.cursor.while_is(|c| c.is_ascii_digit());
        self.cursor.space(false);
        if digits.is_empty() {
            return Ok(None);
        }
        let count = digits.parse().ok().filter(|&count| count <= MAX_REPETITIONS);
        let message = || format!("a count is at most {MAX_REPETITIONS}");
        count.map(Some).ok_or_else(|| self.cursor.wrong_at(start, message()))
    }

    /// The number of a rule's name, which stands at `at`.
    fn named(&mut self, name: &'a str, at: usize) -> Result<usize, GrammarError> {
        if let Some(&number) = self.names.get(name) {
            return Ok(number);
        }
        let number = self.add(at, None)?;
        self.names.insert(name, number);
        Ok(number)
    }

    fn add(&mut self, first: usize, body: Option<Alternatives>) -> Result<usize, GrammarError> {
        if self.rules.len() == MAX_RULES {
            let message = format!("it has more than {MAX_RULES} rules and groups");
            return Err(self.cursor.wrong_at(first, message));
        }
        self.rules.push(Rule { first, body });
        Ok(self.rules.len() - 1)
    }
}

fn quoted(name: &str) -> String {
    shortened(name, MAX_QUOTED_BYTES)
}
