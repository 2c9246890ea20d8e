//! The files of one repository: their paths, sizes and times of change, and the commit that is made of them.
//!
//! Links to files count as long as they stay inside the hub's folder; links to folders are not followed, so that the
//! walk ends. What a fetch is still writing is not there yet.
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sha2::{Digest as _, Sha256};

/// More files are no repository of a model.
const MOST_FILES: usize = 10_000;
/// Deeper folders are not looked into.
const DEEPEST: usize = 16;

/// One file of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the repository, with `/`.
    pub path: String,
    /// In bytes.
    pub size: u64,
    /// The last change of its content.
    pub changed: SystemTime,
    /// Where it really is.
    pub real: PathBuf,
}

/// All files of a repository, sorted by path.
#[derive(Debug)]
pub struct Listing(pub Vec<Entry>);

impl Listing {
    /// Walks a repository; one that is not there, or has no file, is not found.
    pub fn of(root: &Path, repository: &Path) -> io::Result<Listing> {
        let mut entries = Vec::new();
        let top = root.join(repository);
        // The folders may be links: an administrator's choice as long as they stay inside.
        if !top.canonicalize()?.starts_with(root) {
            return Err(io::ErrorKind::NotFound.into());
        }
        walk(root, &top, "", 0, &mut entries)?;
        if entries.is_empty() {
            return Err(io::ErrorKind::NotFound.into());
        }
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Listing(entries))
    }

    /// 40 hex digits that stay the same as long as no file changes, comes or goes.
    pub fn commit(&self) -> String {
        let mut hash = Sha256::new();
        for entry in &self.0 {
            let changed = entry.changed.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            hash.update(format!("{}\0{}\0{}\n", entry.path, entry.size, changed.as_nanos()));
        }
        crate::digest::Digest::from(hash).hex()[..40].to_owned()
    }
}

fn walk(root: &Path, folder: &Path, prefix: &str, depth: usize, entries: &mut Vec<Entry>) -> io::Result<()> {
    for item in fs::read_dir(folder)? {
        let item = item?;
        // A name that is not UTF-8 has no address either.
        let Ok(name) = item.file_name().into_string() else {
            continue;
        };
        if name.ends_with(".part") || name.ends_with(".part.json") || name.ends_with(".part.json.new") {
            continue;
        }
        let path = format!("{prefix}{name}");
        if item.file_type()?.is_dir() {
            if depth < DEEPEST {
                walk(root, &item.path(), &format!("{path}/"), depth + 1, entries)?;
            }
            continue;
        }
        // A link to nothing, or one that leaves the folder, is no file of ours.
        let Ok(real) = item.path().canonicalize() else { continue };
        if !real.starts_with(root) || !real.is_file() {
            continue;
        }
        if entries.len() >= MOST_FILES {
            return Err(io::Error::other(format!(
                "the repository has more than {MOST_FILES} files"
            )));
        }
        let metadata = real.metadata()?;
        entries.push(Entry {
            path,
            size: metadata.len(),
            changed: metadata.modified()?,
            real,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_listing_has_the_files_that_can_be_fetched_and_no_others() {
        let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let root = folder.path().canonicalize().unwrap();
        let repository = root.join("org/repo");
        fs::create_dir_all(repository.join("a/b")).unwrap();
        fs::write(elsewhere.path().join("secret"), "x").unwrap();
        for name in ["z", "a/b/c", "model.part", "model.part.json"] {
            fs::write(repository.join(name), "12").unwrap();
        }
        symlink(elsewhere.path().join("secret"), repository.join("leaves")).unwrap();
        symlink("nowhere", repository.join("broken")).unwrap();
        symlink("a/b/c", repository.join("inside")).unwrap();
        symlink("..", repository.join("a/loop")).unwrap();
        let listing = Listing::of(&root, Path::new("org/repo")).unwrap();
        let paths: Vec<_> = listing
            .0
            .iter()
            .map(|entry| (entry.path.as_str(), entry.size))
            .collect();
        assert_eq!(paths, [("a/b/c", 2), ("inside", 2), ("z", 2)]);
        symlink(elsewhere.path(), root.join("org/other")).unwrap();
        for absent in ["org/absent", "org/other"] {
            assert!(Listing::of(&root, Path::new(absent)).is_err(), "{absent}");
        }
    }

    #[test]
    fn a_commit_changes_with_a_file_and_only_then() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("o/r")).unwrap();
        fs::write(root.join("o/r/a"), "1").unwrap();
        let commit = || Listing::of(&root, Path::new("o/r")).unwrap().commit();
        let first = commit();
        assert_eq!((first.len(), &commit()), (40, &first));
        fs::write(root.join("o/r/a"), "12").unwrap();
        let second = commit();
        fs::write(root.join("o/r/b"), "").unwrap();
        assert!(first != second && second != commit());
    }
}
