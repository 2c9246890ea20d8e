//! Rules that end with themselves, as repetitions: `list ::= item | item "," list` is a list of any length, and each of
//! its items would be one more way to read what follows.
use super::{Alternatives, Gbnf, Item, What};

/// Alternatives of a rule, with those of the groups at its ends.
const MAX_ALTERNATIVES: usize = 64;

/// Rewrites the rules that only end with themselves and else need no recursion; whether there were such.
pub fn unroll(gbnf: &mut Gbnf, regular: &[bool]) -> bool {
    let before = gbnf.rules.len();
    for rule in (0..before).filter(|&rule| !regular[rule]) {
        let Some((again, last)) = parts(gbnf, regular, rule) else {
            continue;
        };
        let again = Item {
            times: Some((0, None)),
            ..Item::of(add(gbnf, again))
        };
        let last = Item::of(add(gbnf, last));
        gbnf.rules[rule] = vec![vec![again, last]];
    }
    gbnf.rules.len() > before
}

fn add(gbnf: &mut Gbnf, alternatives: Alternatives) -> usize {
    gbnf.rules.push(alternatives);
    gbnf.groups.push(true);
    gbnf.rules.len() - 1
}

/// What stands before the rule where it is repeated, and what it ends with where it is not.
fn parts(gbnf: &Gbnf, regular: &[bool], rule: usize) -> Option<(Alternatives, Alternatives)> {
    let (mut again, mut last) = (Vec::new(), Vec::new());
    let mut open = gbnf.rules[rule].clone();
    while let Some(mut items) = open.pop() {
        if again.len() + last.len() + open.len() >= MAX_ALTERNATIVES {
            return None;
        }
        let end = items.pop_if(|item| !item.is_regular(regular));
        if !items.iter().all(|item| item.is_regular(regular)) {
            return None;
        }
        let named = match end {
            None => {
                last.push(items);
                continue;
            }
            Some(Item {
                what: What::Rule(named),
                times,
            }) => match times {
                None => named,
                Some((0, Some(1))) => {
                    last.push(items.clone());
                    named
                }
                Some(_) => return None,
            },
            Some(_) => return None,
        };
        if named == rule {
            again.push(items);
        } else if gbnf.groups[named] {
            let group = gbnf.rules[named].iter();
            open.extend(group.map(|group| items.iter().chain(group).cloned().collect()));
        } else {
            return None;
        }
    }
    (!again.is_empty() && !last.is_empty()).then_some((again, last))
}
