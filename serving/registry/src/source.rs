//! Parses `hf://org/repo/path/file` and `https://host/path` into one address, and nothing else.
//!
//! Credentials in the text are refused: they would end in specs, logs and events. What `shown` gives has no query,
//! because queries of signed links are credentials too.
use reqwest::Url;

use crate::commit::Commit;
use crate::failure::FetchFailed;

/// The hub that `hf://` means unless the administrator names another.
pub const PUBLIC_HUB: &str = "https://huggingface.co";

const LONGEST: usize = 2048;

/// Where a model file comes from.
#[derive(Debug, Clone)]
pub struct Source {
    url: Url,
    shown: String,
    place: Option<Place>,
}

/// What a hub calls the source.
#[derive(Debug, Clone)]
pub struct Place {
    /// The hub's address.
    hub: Url,
    /// `org/repo`.
    pub repository: String,
    /// Branch, tag or commit.
    pub revision: String,
    /// The path of the file in the repository; empty for the whole repository.
    pub file: String,
}

impl Source {
    /// Understands a source; `revision` and `hub` (an `http` or `https` address) count for `hf://` alone.
    pub fn parse(text: &str, revision: &str, hub: &str) -> Result<Source, FetchFailed> {
        let refused = |why: String| FetchFailed::InvalidSource { why };
        if text.len() > LONGEST {
            return Err(refused(format!("the source has more than {LONGEST} characters")));
        }
        if text.chars().any(|c| c.is_whitespace() || c.is_control() || c == '\\') {
            return Err(refused(
                "the source contains white space, a control character or a backslash".into(),
            ));
        }
        match text.split_once("://") {
            Some(("hf", path)) => Source::of_hub(text, path, revision, hub),
            Some(("https", _)) => Source::of_https(text),
            Some(("http", _)) => Err(refused(
                "http:// has no protection against changed content; use https://".into(),
            )),
            Some(("pvc", _)) => Err(refused("a pvc:// source is mounted and verified, not fetched".into())),
            Some((scheme, _)) => Err(refused(format!(
                "the scheme `{}` is not supported; use hf:// or https://",
                excerpt(scheme)
            ))),
            None => Err(refused(format!(
                "`{}` has no scheme; use hf://org/repo/file or https://…",
                excerpt(text)
            ))),
        }
    }

    /// The address to ask first.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// The source for people: as typed, without query.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// What the hub calls it; `None` for `https://`.
    pub fn place(&self) -> Option<&Place> {
        self.place.as_ref()
    }

    /// Another file of the same repository and revision; an `https://` source has none and stays as it is.
    pub fn file(&self, path: &str) -> Source {
        let mut source = self.clone();
        if let Some(place) = &mut source.place {
            place.file = path.to_owned();
            source.url = place.resolve();
            source.shown = format!("hf://{}/{path}", place.repository);
        }
        source
    }

    /// Another file of the same folder; a query stays.
    pub fn sibling(&self, name: &str) -> Source {
        if let Some(place) = &self.place {
            return match place.file.rsplit_once('/') {
                Some((folder, _)) => self.file(&format!("{folder}/{name}")),
                None => self.file(name),
            };
        }
        let mut source = self.clone();
        // Parse has refused addresses without a path.
        if let Ok(mut segments) = source.url.path_segments_mut() {
            segments.pop().push(name);
        }
        let mut shown = source.url.clone();
        shown.set_query(None);
        source.shown = shown.into();
        source
    }

    /// The same file or repository at another revision; an `https://` source has none and stays as it is.
    pub fn at(&self, commit: &Commit) -> Source {
        let mut source = self.clone();
        if let Some(place) = &mut source.place {
            place.revision = commit.to_string();
            source.url = place.resolve();
        }
        source
    }

    fn of_hub(text: &str, path: &str, revision: &str, hub: &str) -> Result<Source, FetchFailed> {
        let refused = |why: String| FetchFailed::InvalidSource { why };
        let segments: Vec<&str> = path.split('/').collect();
        let [org, repo, file @ ..] = &segments[..] else {
            return Err(refused(
                "expected hf://org/repo or hf://org/repo/path/to/file.gguf".into(),
            ));
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if [org, repo].iter().any(|name| !name.chars().all(plain)) {
            return Err(refused(
                "names of organisations and repositories have letters, digits, `.`, `_`, `-`".into(),
            ));
        }
        let strange = |segment: &str| segment.is_empty() || segment == "." || segment == "..";
        if segments
            .iter()
            .any(|segment| strange(segment) || segment.contains(['%', '?', '#', '@']))
        {
            return Err(refused(
                "the path has an empty part, `.`, `..`, or one of % ? # @".into(),
            ));
        }
        let revisions = |c: char| plain(c) || c == '/';
        if revision.split('/').any(strange) || !revision.chars().all(revisions) || revision.len() > 256 {
            return Err(refused(
                "the revision is not the name of a branch, a tag or a commit".into(),
            ));
        }
        let mut url = Url::parse(hub).map_err(|error| refused(format!("the hub's address is not valid: {error}")))?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() || has_credentials(&url) {
            return Err(refused(
                "the hub's address must be http(s)://host[:port][/path] without credentials".into(),
            ));
        }
        url.set_query(None);
        url.set_fragment(None);
        url.path_segments_mut()
            .map_err(|()| refused("the hub's address cannot have a path".into()))?
            .pop_if_empty();
        let place = Place {
            hub: url,
            repository: format!("{org}/{repo}"),
            revision: revision.to_owned(),
            file: file.join("/"),
        };
        Ok(Source {
            url: place.resolve(),
            shown: text.to_owned(),
            place: Some(place),
        })
    }

    fn of_https(text: &str) -> Result<Source, FetchFailed> {
        let refused = |why: String| FetchFailed::InvalidSource { why };
        let mut url = Url::parse(text).map_err(|error| refused(format!("the address is not valid: {error}")))?;
        if has_credentials(&url) {
            return Err(refused(
                "the address carries credentials; put them in the Secret of credentialsSecretRef".into(),
            ));
        }
        if url.path().trim_matches('/').is_empty() {
            return Err(refused("the address names no file".into()));
        }
        url.set_fragment(None);
        let mut shown = url.clone();
        shown.set_query(None);
        Ok(Source {
            shown: shown.into(),
            url,
            place: None,
        })
    }
}

impl Place {
    /// The address of the file: `HUB/org/repo/resolve/REVISION/path`.
    fn resolve(&self) -> Url {
        let file = self.file.split('/').filter(|part| !part.is_empty());
        let repository = self.repository.split('/');
        self.below(repository.chain(["resolve", &self.revision]).chain(file))
    }

    /// An address of the hub's API about this revision: `HUB/api/models/org/repo/WHAT/REVISION`.
    pub fn api(&self, what: &str) -> Url {
        let repository = self.repository.split('/');
        self.below(
            ["api", "models"]
                .into_iter()
                .chain(repository)
                .chain([what, &self.revision]),
        )
    }

    fn below<'a>(&self, parts: impl Iterator<Item = &'a str>) -> Url {
        let mut url = self.hub.clone();
        // Parse has refused hubs whose address cannot have a path.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.extend(parts);
        }
        url
    }
}

fn has_credentials(url: &Url) -> bool {
    !url.username().is_empty() || url.password().is_some()
}

fn excerpt(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str, revision: &str, hub: &str) -> Result<String, String> {
        Source::parse(text, revision, hub)
            .map(|source| source.url().to_string())
            .map_err(|failed| failed.to_string())
    }

    #[test]
    fn a_hub_source_becomes_a_resolve_address() {
        assert_eq!(
            address(
                "hf://org/repo/sub dir/f.gguf".replace(' ', "_").as_str(),
                "main",
                PUBLIC_HUB
            )
            .unwrap(),
            "https://huggingface.co/org/repo/resolve/main/sub_dir/f.gguf"
        );
    }

    #[test]
    fn a_revision_with_slashes_stays_one_part_of_the_path() {
        let found = address("hf://org/repo/f.gguf", "refs/pr/1", "http://hub.windlass:8080/mirror/").unwrap();
        assert_eq!(
            found,
            "http://hub.windlass:8080/mirror/org/repo/resolve/refs%2Fpr%2F1/f.gguf"
        );
    }

    #[test]
    fn a_source_without_a_path_is_a_whole_repository_and_has_files() {
        let source = Source::parse("hf://org/repo", "main", PUBLIC_HUB).unwrap();
        assert_eq!(source.place().unwrap().file, "");
        let file = source.file("sub dir/a#b.json");
        assert_eq!(
            file.url().as_str(),
            "https://huggingface.co/org/repo/resolve/main/sub%20dir/a%23b.json"
        );
        assert_eq!(file.shown(), "hf://org/repo/sub dir/a#b.json");
    }

    #[test]
    fn a_sibling_is_in_the_same_folder_and_keeps_the_query() {
        let hub = Source::parse("hf://org/repo/a/1.gguf", "v1", PUBLIC_HUB).unwrap();
        assert_eq!(
            hub.sibling("2.gguf").url().as_str(),
            "https://huggingface.co/org/repo/resolve/v1/a/2.gguf"
        );
        let plain = Source::parse("https://host/a/1.gguf?signature=abc", "main", PUBLIC_HUB).unwrap();
        let second = plain.sibling("2.gguf");
        assert_eq!(
            (second.url().as_str(), second.shown()),
            ("https://host/a/2.gguf?signature=abc", "https://host/a/2.gguf")
        );
    }

    #[test]
    fn a_commit_takes_the_place_of_the_revision_and_the_api_has_its_addresses() {
        let hub = "http://hub.windlass:8080/mirror";
        let commit = Commit::from_hex(&"ab".repeat(20)).unwrap();
        let source = Source::parse("hf://org/repo/a/f.gguf", "main", hub).unwrap();
        let expected = format!("{hub}/org/repo/resolve/{commit}/a/f.gguf");
        assert_eq!(source.at(&commit).url().as_str(), expected);
        let place = source.place().unwrap();
        assert_eq!(
            place.api("tree").as_str(),
            format!("{hub}/api/models/org/repo/tree/main")
        );
        let plain = Source::parse("https://host/f.gguf", "main", hub).unwrap();
        assert_eq!(plain.at(&commit).url(), plain.url());
    }

    #[test]
    fn hub_sources_that_climb_or_hide_are_refused() {
        for text in [
            "hf://org/repo/",
            "hf://org",
            "hf:///repo/f",
            "hf://org/../f.gguf",
            "hf://org/repo/../../f.gguf",
            "hf://org/repo//f.gguf",
            "hf://org/repo/%2e%2e/f.gguf",
            "hf://org/repo/f.gguf?x=1",
            "hf://org/repo/f.gguf#x",
            "hf://user@org/repo/f.gguf",
            "hf://org/repo/a\\b",
            "hf://org/repo/a b",
            "hf://org/re:po/f",
        ] {
            assert!(address(text, "main", PUBLIC_HUB).is_err(), "{text}");
        }
        for revision in ["", "..", "a/../b", "a//b", "a?b", "a b", "%2e%2e"] {
            assert!(
                address("hf://org/repo/f.gguf", revision, PUBLIC_HUB).is_err(),
                "{revision}"
            );
        }
        for hub in ["", "hub", "ftp://hub", "https://user:secret@hub", "file:///etc"] {
            assert!(address("hf://org/repo/f.gguf", "main", hub).is_err(), "{hub}");
        }
    }

    #[test]
    fn other_schemes_are_refused_with_the_ones_that_work() {
        for text in [
            "http://host/f",
            "s3://bucket/f",
            "pvc://claim/f",
            "/models/f",
            "",
            "https://",
            "https://host/",
        ] {
            assert!(address(text, "main", PUBLIC_HUB).is_err(), "{text}");
        }
        assert!(
            address("s3://bucket/f", "main", PUBLIC_HUB)
                .unwrap_err()
                .contains("use hf:// or https://")
        );
    }

    #[test]
    fn credentials_in_an_address_are_refused_and_not_repeated() {
        let message = address("https://user:secret@host/f.gguf", "main", PUBLIC_HUB).unwrap_err();
        assert!(
            message.contains("credentialsSecretRef") && !message.contains("secret@"),
            "{message}"
        );
    }

    #[test]
    fn the_query_of_a_signed_link_is_used_but_never_shown() {
        let source = Source::parse("https://host/f.gguf?signature=abc", "main", PUBLIC_HUB).unwrap();
        assert_eq!(source.url().query(), Some("signature=abc"));
        assert_eq!(source.shown(), "https://host/f.gguf");
    }
}
