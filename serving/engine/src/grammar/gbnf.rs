//! GBNF, llama.cpp's notation of grammars, as `llguidance`'s Lark. Whatever needs no recursion becomes one terminal,
//! which is matched exactly and costs little, and so does a rule that only ends with itself; others that contain themselves
//! stay rules. Between the terminals of such a rule the longest reading counts, as everywhere in Lark: after `[a-z]+` in
//! one, a letter always belongs to it.
use super::GrammarError;

mod cursor;
mod read;
mod unroll;

/// Rules and groups in brackets of one grammar.
pub const MAX_RULES: usize = 4096;
/// The count of a repetition: llama.cpp's own limit.
pub const MAX_REPETITIONS: u32 = 2000;

/// Rules in each other that only end with themselves and become repetitions.
const MAX_UNROLLED: usize = 16;

/// A grammar whose names are numbers.
struct Gbnf {
    /// What each rule, and each group in brackets, may be.
    rules: Vec<Alternatives>,
    /// Which of them are groups.
    groups: Vec<bool>,
    /// The rule of the whole answer.
    root: usize,
}

type Alternatives = Vec<Vec<Item>>;

/// A part of a sequence.
#[derive(Clone)]
struct Item {
    what: What,
    /// How often at least and, if that is bounded, at most; above 0.
    times: Option<(u32, Option<u32>)>,
}

#[derive(Clone)]
enum What {
    /// A text or a class of characters, as Lark writes it.
    Text(String),
    /// What the rule of this number is.
    Rule(usize),
}

impl Item {
    fn of(rule: usize) -> Self {
        Self {
            what: What::Rule(rule),
            times: None,
        }
    }

    fn is_regular(&self, regular: &[bool]) -> bool {
        match self.what {
            What::Text(_) => true,
            What::Rule(rule) => regular[rule],
        }
    }
}

/// The grammar in Lark, or what is wrong with it and where.
pub fn lark(text: &str) -> Result<String, GrammarError> {
    let mut gbnf = read::read(text)?;
    let mut regular = regular(&gbnf.rules);
    for _ in 0..MAX_UNROLLED {
        if !unroll::unroll(&mut gbnf, &regular) {
            break;
        }
        regular = self::regular(&gbnf.rules);
    }
    let Gbnf { rules, root, .. } = gbnf;
    let mut lark = Lark {
        regular,
        text: String::new(),
        pieces: 0,
    };
    let start = lark.name(root);
    lark.define("start", &start);
    for (number, alternatives) in rules.iter().enumerate() {
        let body = match lark.regular[number] {
            true => lark.alternatives(alternatives),
            false => lark.recursive(alternatives),
        };
        lark.define(&lark.name(number), &body);
    }
    Ok(lark.text)
}

/// Which rules do without recursion: those that name only such.
fn regular(rules: &[Alternatives]) -> Vec<bool> {
    let mut named_in = vec![Vec::new(); rules.len()];
    let mut open = vec![0usize; rules.len()];
    for (number, alternatives) in rules.iter().enumerate() {
        for item in alternatives.iter().flatten() {
            if let What::Rule(named) = item.what {
                named_in[named].push(number);
                open[number] += 1;
            }
        }
    }
    let mut ready: Vec<usize> = (0..rules.len()).filter(|&number| open[number] == 0).collect();
    while let Some(number) = ready.pop() {
        for &user in &named_in[number] {
            open[user] -= 1;
            if open[user] == 0 {
                ready.push(user);
            }
        }
    }
    open.iter().map(|&open| open == 0).collect()
}

/// Writes definitions.
struct Lark {
    /// Which rules become terminals.
    regular: Vec<bool>,
    text: String,
    /// Terminals made of parts of rules.
    pieces: usize,
}

impl Lark {
    fn name(&self, rule: usize) -> String {
        format!("{}{rule}", if self.regular[rule] { 'T' } else { 'r' })
    }

    fn define(&mut self, name: &str, body: &str) {
        self.text.extend([name, ": ", body, "\n"]);
    }

    fn alternatives(&self, alternatives: &[Vec<Item>]) -> String {
        let alternatives: Vec<String> = alternatives.iter().map(|items| self.sequence(items)).collect();
        alternatives.join(" | ")
    }

    fn sequence(&self, items: &[Item]) -> String {
        let items: Vec<String> = items.iter().map(|item| self.item(item)).collect();
        match items.is_empty() {
            true => "\"\"".to_owned(),
            false => items.join(" "),
        }
    }

    fn item(&self, item: &Item) -> String {
        let mut text = match &item.what {
            What::Text(text) => text.clone(),
            What::Rule(rule) => self.name(*rule),
        };
        match item.times {
            None => {}
            Some((0, None)) => text.push('*'),
            Some((1, None)) => text.push('+'),
            Some((0, Some(1))) => text.push('?'),
            Some((least, None)) => text += &format!("{{{least},}}"),
            Some((least, Some(most))) => text += &format!("{{{least},{most}}}"),
        }
        text
    }

    /// A rule's body, of which as much as possible becomes terminals.
    fn recursive(&mut self, alternatives: &[Vec<Item>]) -> String {
        let mut options = Vec::new();
        let mut flat = Vec::new();
        for items in alternatives {
            if items.iter().all(|item| item.is_regular(&self.regular)) {
                flat.push(self.sequence(items));
            } else {
                let parts = items.chunk_by(|a, b| a.is_regular(&self.regular) && b.is_regular(&self.regular));
                let parts: Vec<(bool, String)> = parts
                    .map(|part| (part[0].is_regular(&self.regular), self.sequence(part)))
                    .collect();
                let parts = parts.into_iter().map(|(flat, part)| match flat {
                    true => self.terminal(&part),
                    false => part,
                });
                options.push(parts.collect::<Vec<_>>().join(" "));
            }
        }
        if !flat.is_empty() {
            options.push(self.terminal(&flat.join(" | ")));
        }
        options.join(" | ")
    }

    fn terminal(&mut self, body: &str) -> String {
        let name = format!("P{}", self.pieces);
        self.pieces += 1;
        self.define(&name, body);
        name
    }
}

#[cfg(test)]
mod tests;
