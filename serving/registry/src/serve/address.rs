//! Takes a hub address apart; what could climb out of the folder is no address.
use std::path::PathBuf;

use percent_encoding::percent_decode_str;

/// The parts of `/{org}/{repo}/resolve/{revision}/{path}`.
#[derive(Debug, PartialEq, Eq)]
pub struct Address {
    /// `org/repo/path`, relative, without any part that is not a plain name.
    pub path: PathBuf,
    /// A branch, a tag or a commit.
    pub revision: String,
}

impl Address {
    /// Decodes each part once; a part that then is empty, `.`, `..`, or holds a separator, is refused.
    pub fn parse(path: &str) -> Option<Address> {
        let mut parts = path.strip_prefix('/')?.split('/');
        let (org, repo) = (plain(parts.next()?)?, plain(parts.next()?)?);
        if parts.next()? != "resolve" {
            return None;
        }
        // A revision is never used as a path, so it may hold slashes (`refs%2Fpr%2F1`).
        let revision = percent_decode_str(parts.next()?).decode_utf8().ok()?.into_owned();
        let file = parts.map(plain).collect::<Option<PathBuf>>()?;
        if file.as_os_str().is_empty() {
            return None;
        }
        Some(Address {
            path: PathBuf::from(org).join(repo).join(file),
            revision,
        })
    }
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
                path: "org/repo/sub/a b.gguf".into(),
                revision: "refs/pr/1".into()
            }
        );
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
        assert_eq!(address.path, PathBuf::from("org/repo/%2e%2e/x"));
    }
}
