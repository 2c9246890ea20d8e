//! Which files of a listing are fetched, and which listings are refused: names that leave the folder, files that run
//! code when they are loaded, and more files than a model has.
use std::collections::BTreeSet;

use crate::digest::Digest;
use crate::failure::FetchFailed;
use crate::pattern::Patterns;

/// More files are no model.
pub const MOST_FILES: usize = 10_000;
const LONGEST_NAME: usize = 255;
const LONGEST_PATH: usize = 1024;

/// A file as its hub lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Relative to the repository, with `/`.
    pub path: String,
    /// In bytes, if the hub says it.
    pub size: Option<u64>,
    /// The SHA-256 of a file in Git LFS.
    pub digest: Option<Digest>,
}

/// The wanted files, sorted by path; `what` is the source for people.
pub fn choose(listed: Vec<Listed>, patterns: &Patterns, what: &str) -> Result<Vec<Listed>, FetchFailed> {
    let mut files: Vec<_> = listed.into_iter().filter(|file| patterns.admit(&file.path)).collect();
    let refused = |name: &str, why| FetchFailed::UnsafeName {
        what: what.to_owned(),
        name: printable(name),
        why,
    };
    if files.is_empty() {
        return Err(FetchFailed::NothingChosen { what: what.to_owned() });
    }
    if files.len() > MOST_FILES {
        return Err(FetchFailed::TooManyFiles {
            what: what.to_owned(),
            most: MOST_FILES,
        });
    }
    let mut seen = BTreeSet::new();
    for file in &files {
        if let Some(why) = unsafe_name(&file.path) {
            return Err(refused(&file.path, why));
        }
        if !seen.insert(file.path.as_str()) {
            return Err(refused(&file.path, "is there twice"));
        }
    }
    for file in &files {
        let path = file.path.as_str();
        if let Some((kind, pattern)) = runs_code(path) {
            let (what, file) = (what.to_owned(), path.to_owned());
            return Err(FetchFailed::UnsafeFile {
                what,
                file,
                kind,
                pattern,
            });
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

/// Why a path cannot become one below our folder.
fn unsafe_name(path: &str) -> Option<&'static str> {
    if path.len() > LONGEST_PATH || path.split('/').any(|name| name.len() > LONGEST_NAME) {
        return Some("is too long");
    }
    if path
        .split('/')
        .any(|name| name.is_empty() || name == "." || name == "..")
    {
        return Some("leaves its folder or has an empty part");
    }
    if path.contains(|c: char| c.is_control() || c == '\\') {
        return Some("has a control character or a backslash");
    }
    let ends = [".part", ".part.json", ".part.json.new"];
    ends.iter()
        .any(|end| path.ends_with(end))
        .then_some("has an ending that unfinished downloads have")
}

/// What a file does when a runtime loads it, and the pattern that leaves it out.
fn runs_code(path: &str) -> Option<(&'static str, &'static str)> {
    let lower = path.to_ascii_lowercase();
    let (_, ending) = lower.rsplit_once('.')?;
    match ending {
        "bin" => Some(("a pickle, whose loading runs code", "*.bin")),
        "pt" => Some(("a pickle, whose loading runs code", "*.pt")),
        "pth" => Some(("a pickle, whose loading runs code", "*.pth")),
        "ckpt" => Some(("a pickle, whose loading runs code", "*.ckpt")),
        "pkl" => Some(("a pickle, whose loading runs code", "*.pkl")),
        "pickle" => Some(("a pickle, whose loading runs code", "*.pickle")),
        "py" => Some(("code", "*.py")),
        _ => None,
    }
}

fn printable(name: &str) -> String {
    name.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .take(80)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(paths: &[&str], allow: &[&str], ignore: &[&str]) -> Result<Vec<String>, String> {
        let list = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let listed = paths
            .iter()
            .map(|path| Listed {
                path: (*path).into(),
                size: None,
                digest: None,
            })
            .collect();
        let patterns = Patterns {
            allow: list(allow),
            ignore: list(ignore),
        };
        choose(listed, &patterns, "hf://org/repo")
            .map(|files| files.into_iter().map(|file| file.path).collect())
            .map_err(|failed| failed.to_string())
    }

    #[test]
    fn patterns_choose_and_the_order_is_that_of_the_paths() {
        let paths = ["model.safetensors", "config.json", "onnx/model.onnx"];
        assert_eq!(
            chosen(&paths, &[], &["onnx/"]).unwrap(),
            ["config.json", "model.safetensors"]
        );
        let message = chosen(&paths, &["*.gguf"], &[]).unwrap_err();
        assert!(message.contains("no file of hf://org/repo"), "{message}");
    }

    #[test]
    fn files_that_run_code_are_refused_by_name_with_the_pattern_that_leaves_them_out() {
        for (path, pattern) in [
            ("pytorch_model.bin", "*.bin"),
            ("a/training_args.BIN", "*.bin"),
            ("consolidated.00.pth", "*.pth"),
            ("optimizer.pt", "*.pt"),
            ("x.ckpt", "*.ckpt"),
            ("x.pkl", "*.pkl"),
            ("x.pickle", "*.pickle"),
            ("modeling_x.py", "*.py"),
        ] {
            let paths = ["config.json", path];
            let message = chosen(&paths, &[], &[]).unwrap_err();
            assert!(
                message.contains(path) && message.contains(&format!("`{pattern}`")),
                "{message}"
            );
            assert_eq!(chosen(&paths, &["*.json"], &[]).unwrap(), ["config.json"]);
            let ignore = if path.ends_with("BIN") { "*.BIN" } else { pattern };
            assert_eq!(chosen(&paths, &[], &[ignore]).unwrap(), ["config.json"]);
        }
    }

    #[test]
    fn names_that_leave_the_folder_are_refused() {
        for path in [
            "../x",
            "a/../../x",
            "/etc/passwd",
            "a//b",
            "./a",
            "a/",
            "a\\..\\b",
            "a\nb",
            "a\0b",
            "x.part",
            "x.part.json",
            &"x".repeat(256),
            &"x/".repeat(600),
        ] {
            assert!(chosen(&["config.json", path], &[], &[]).is_err(), "{path:?}");
        }
        assert!(chosen(&["a", "a"], &[], &[]).unwrap_err().contains("twice"));
    }

    #[test]
    fn more_files_than_a_model_has_are_refused() {
        let paths: Vec<String> = (0..=MOST_FILES).map(|number| number.to_string()).collect();
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        assert!(chosen(&paths, &[], &[]).unwrap_err().contains("more than 10000 files"));
        assert_eq!(chosen(&paths, &["1"], &[]).unwrap(), ["1"]);
    }
}
