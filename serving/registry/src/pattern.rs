//! Which files of a repository are wanted: the allow and ignore patterns of huggingface_hub, with the same meaning.
//!
//! A pattern is matched against the whole path as Python's `fnmatch` does: `*` is any text, also with `/`; `?` is one
//! character; `[abc]`, `[a-z]` and `[!a]` are sets. A pattern that ends with `/` means all below it.

/// Patterns that let files in and patterns that keep files out; without the first kind all files are let in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Patterns {
    /// One of these must match, if there are any.
    pub allow: Vec<String>,
    /// None of these may match.
    pub ignore: Vec<String>,
}

impl Patterns {
    /// Whether a file is wanted.
    pub fn admit(&self, path: &str) -> bool {
        let any = |patterns: &[String]| patterns.iter().any(|pattern| matches(pattern, path));
        (self.allow.is_empty() || any(&self.allow)) && !any(&self.ignore)
    }
}

fn matches(pattern: &str, path: &str) -> bool {
    let mut pattern: Vec<char> = pattern.chars().collect();
    if pattern.ends_with(&['/']) {
        pattern.push('*');
    }
    let path: Vec<char> = path.chars().collect();
    let (mut at, mut position) = (0, 0);
    // Where the last `*` was, and the first character that it does not cover yet: only it is ever tried again, so the
    // time is bounded by the product of both lengths.
    let mut star: Option<(usize, usize)> = None;
    while position < path.len() {
        let step = match pattern.get(at) {
            Some('*') => {
                star = Some((at + 1, position));
                at += 1;
                continue;
            }
            Some('?') => Some(1),
            Some('[') => set(&pattern[at..], path[position]),
            Some(c) if *c == path[position] => Some(1),
            _ => None,
        };
        match (step, star) {
            (Some(step), _) => (at, position) = (at + step, position + 1),
            (None, Some((after, covered))) => {
                (at, position) = (after, covered + 1);
                star = Some((after, covered + 1));
            }
            (None, None) => return false,
        }
    }
    pattern[at..].iter().all(|c| *c == '*')
}

/// The length of the set at the start of the pattern, if it has the character; a `[` without `]` is itself.
fn set(pattern: &[char], c: char) -> Option<usize> {
    let negated = pattern.get(1) == Some(&'!');
    let first = if negated { 2 } else { 1 };
    // A `]` in the first place is a member.
    let Some(end) = (first + 1..pattern.len()).find(|index| pattern[*index] == ']') else {
        return (c == '[').then_some(1);
    };
    let (members, mut index, mut found) = (&pattern[first..end], 0, false);
    while index < members.len() {
        match (members.get(index + 1), members.get(index + 2)) {
            (Some('-'), Some(last)) => {
                found |= (members[index]..=*last).contains(&c);
                index += 3;
            }
            _ => {
                found |= members[index] == c;
                index += 1;
            }
        }
    }
    (found != negated).then_some(end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Python 3's fnmatch.fnmatchcase answers.
    #[test]
    fn patterns_mean_what_fnmatch_means() {
        for (pattern, path, expected) in [
            ("*", "a/b/c", true),
            ("*.json", "config.json", true),
            ("*.json", "a/config.json", true),
            ("*.json", "config.json.bak", false),
            ("config.json", "a/config.json", false),
            ("a/", "a/b/c", true),
            ("a/", "b/a/c", false),
            ("a*b*c", "aXbYc", true),
            ("a*b*c", "aXbY", false),
            ("model-?.bin", "model-1.bin", true),
            ("model-?.bin", "model-.bin", false),
            ("[ab].txt", "b.txt", true),
            ("[!ab].txt", "b.txt", false),
            ("[!ab].txt", "c.txt", true),
            ("[0-9]*", "7/x", true),
            ("[0-9]*", "x7", false),
            ("[]]", "]", true),
            ("[a", "[a", true),
            ("", "", true),
            ("", "a", false),
            ("**", "", true),
            ("é*", "éa", true),
        ] {
            assert_eq!(matches(pattern, path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn a_file_must_be_allowed_and_not_ignored() {
        let list = |patterns: &[&str]| patterns.iter().map(|pattern| (*pattern).to_owned()).collect::<Vec<_>>();
        let all = Patterns::default();
        assert!(all.admit("a.bin"));
        let some = Patterns {
            allow: list(&["*.json", "*.safetensors"]),
            ignore: list(&["onnx/"]),
        };
        assert!(some.admit("config.json") && !some.admit("a.bin") && !some.admit("onnx/config.json"));
    }

    #[test]
    fn a_pattern_of_many_stars_takes_little_time() {
        assert!(!matches(&format!("{}b", "*a".repeat(200)), &"a".repeat(2000)));
    }
}
