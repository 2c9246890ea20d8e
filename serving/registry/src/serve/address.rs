//! Takes a hub address apart; what could climb out of the folder is no address.
use std::path::PathBuf;

use percent_encoding::percent_decode_str;

/// What is asked of a repository.
#[derive(Debug, PartialEq, Eq)]
pub enum Subject {
    /// `/{org}/{repo}/resolve/{revision}/{path}`: a file, by its path in the repository.
    File(PathBuf),
    /// `/api/models/{org}/{repo}` or `…/revision/{revision}`: the commit and the names of its files.
    Revision,
    /// `/api/models/{org}/{repo}/tree/{revision}`: the files with their sizes.
    Tree,
}

/// A request of the hub's protocol.
#[derive(Debug, PartialEq, Eq)]
pub struct Address {
    /// `org/repo`, relative, without any part that is not a plain name.
    pub repository: PathBuf,
    /// A branch, a tag or a commit.
    pub revision: String,
    /// What is asked.
    pub subject: Subject,
}

impl Address {
    /// Decodes each part once; a part that then is empty, `.`, `..`, or holds a separator, is refused.
    pub fn parse(path: &str) -> Option<Address> {
        let path = path.strip_prefix('/')?;
        match path.strip_prefix("api/models/") {
            Some(path) => Address::of_api(path.split('/')),
            None => Address::of_file(path.split('/')),
        }
    }

    fn of_file<'a>(mut parts: impl Iterator<Item = &'a str>) -> Option<Address> {
        let repository = PathBuf::from(plain(parts.next()?)?).join(plain(parts.next()?)?);
        if parts.next()? != "resolve" {
            return None;
        }
        let revision = revision(parts.next()?)?;
        let file = parts.map(plain).collect::<Option<PathBuf>>()?;
        if file.as_os_str().is_empty() {
            return None;
        }
        Some(Address {
            repository,
            revision,
            subject: Subject::File(file),
        })
    }

    fn of_api<'a>(mut parts: impl Iterator<Item = &'a str>) -> Option<Address> {
        let repository = PathBuf::from(plain(parts.next()?)?).join(plain(parts.next()?)?);
        let subject = match parts.next() {
            None | Some("revision") => Subject::Revision,
            Some("tree") => Subject::Tree,
            Some(_) => return None,
        };
        let revision = match parts.next() {
            Some(part) => revision(part)?,
            None if subject == Subject::Revision => "main".to_owned(),
            None => return None,
        };
        // Folders of a tree are not listed alone.
        parts.next().is_none().then_some(Address {
            repository,
            revision,
            subject,
        })
    }
}

/// A revision is never used as a path, so it may hold slashes (`refs%2Fpr%2F1`).
fn revision(part: &str) -> Option<String> {
    Some(percent_decode_str(part).decode_utf8().ok()?.into_owned())
}

fn plain(part: &str) -> Option<String> {
    let part = percent_decode_str(part).decode_utf8().ok()?.into_owned();
    let climbs = part.is_empty() || part == "." || part == "..";
    (!climbs && !part.contains(['/', '\\', '\0'])).then_some(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_repository_a_revision_and_a_file() {
        let address = Address::parse("/org/repo/resolve/refs%2Fpr%2F1/sub/a%20b.gguf").unwrap();
        assert_eq!(
            address,
            Address {
                repository: "org/repo".into(),
                revision: "refs/pr/1".into(),
                subject: Subject::File("sub/a b.gguf".into()),
            }
        );
    }

    #[test]
    fn the_api_describes_a_revision_and_lists_its_tree() {
        for (path, revision, subject) in [
            ("/api/models/org/repo", "main", Subject::Revision),
            ("/api/models/org/repo/revision/v1", "v1", Subject::Revision),
            ("/api/models/org/repo/tree/refs%2Fpr%2F1", "refs/pr/1", Subject::Tree),
        ] {
            let address = Address::parse(path).unwrap();
            let (repository, revision) = ("org/repo".into(), revision.into());
            assert_eq!(
                address,
                Address {
                    repository,
                    revision,
                    subject
                },
                "{path}"
            );
        }
        for path in [
            "/api/models/org",
            "/api/models/../repo",
            "/api/models/org/repo/tree",
            "/api/models/org/repo/tree/main/sub",
            "/api/models/org/repo/commits/main",
            "/api/datasets/org/repo",
        ] {
            assert_eq!(Address::parse(path), None, "{path}");
        }
    }

    #[test]
    fn nothing_that_climbs_is_an_address() {
        for path in [
            "",
            "/",
            "/org/repo/resolve/main",
            "/org/repo/resolve/main/",
            "/org/repo/resolve/main/../x",
            "/org/repo/resolve/main/%2e%2e/x",
            "/org/repo/resolve/main/%2E./x",
            "/org/repo/resolve/main/..%2fx",
            "/org/repo/resolve/main/..%5cx",
            "/org/repo/resolve/main/a%00b",
            "/org/repo/resolve/main//x",
            "/org/repo/resolve/main/%ff",
            "/../repo/resolve/main/x",
            "/%2e%2e/repo/resolve/main/x",
            "//repo/resolve/main/x",
            "/org/repo/raw/main/x",
            "org/repo/resolve/main/x",
        ] {
            assert_eq!(Address::parse(path), None, "{path}");
        }
    }

    #[test]
    fn a_path_decoded_once_is_not_decoded_again() {
        let address = Address::parse("/org/repo/resolve/main/%252e%252e/x").unwrap();
        assert_eq!(address.subject, Subject::File("%2e%2e/x".into()));
    }
}
