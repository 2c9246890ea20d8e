//! `spec.model.source` in parsed form. The CRD's CEL rules accept the same language; this parser
//! is what the operator builds from, and it refuses paths that leave the claim and addresses that carry credentials.
use std::fmt;

/// Where a model comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// One file of a repository on a model hub, `hf://org/repo/path/file.gguf`, or all of it, `hf://org/repo`.
    Hub {
        /// `org/repo`.
        repository: String,
        /// Path of the file inside the repository; `None` for the whole repository.
        path: Option<String>,
    },
    /// A file behind HTTPS; the whole URL.
    Https(String),
    /// A file or folder on a PersistentVolumeClaim: `pvc://claim/path/file.gguf`.
    Claim {
        /// Name of the claim, in the object's own namespace.
        claim: String,
        /// Path inside the volume, relative.
        path: String,
    },
}

/// Why a source was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidSource(String);

impl fmt::Display for InvalidSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for InvalidSource {}

impl Source {
    /// Parses a source.
    ///
    /// # Errors
    /// `InvalidSource` with a sentence that names the accepted forms.
    pub fn parse(text: &str) -> Result<Self, InvalidSource> {
        let refuse = |why: &str| Err(InvalidSource(format!("source {why}")));
        if text.len() > 1024 {
            return refuse("is longer than 1024 characters");
        }
        if let Some(rest) = text.strip_prefix("hf://") {
            let parts: Vec<&str> = rest.splitn(3, '/').collect();
            return match parts.as_slice() {
                [org, repo, path] if plain_segments(org) && plain_segments(repo) && plain_segments(path) => {
                    Ok(Self::Hub {
                        repository: format!("{org}/{repo}"),
                        path: Some((*path).to_owned()),
                    })
                }
                [org, repo] if plain_segments(org) && plain_segments(repo) => Ok(Self::Hub {
                    repository: format!("{org}/{repo}"),
                    path: None,
                }),
                _ => refuse(
                    "must name a file of a repository, hf://org/repo/path/file.gguf, or all of it, hf://org/repo",
                ),
            };
        }
        if let Some(rest) = text.strip_prefix("pvc://") {
            return match rest.split_once('/') {
                Some((claim, path)) if is_claim_name(claim) && plain_segments(path) => Ok(Self::Claim {
                    claim: claim.to_owned(),
                    path: path.to_owned(),
                }),
                _ => refuse("must name a file on a claim of this namespace: pvc://claim/path/file.gguf"),
            };
        }
        if let Some(rest) = text.strip_prefix("https://") {
            let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
            let host_is_plain =
                !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.:[]".contains(&b));
            if host.contains('@') {
                return refuse(
                    "must not carry credentials: put a token into a Secret and name it in credentialsSecretRef",
                );
            }
            if !host_is_plain || path.is_empty() || !path.bytes().all(|b| b.is_ascii_graphic()) || path.contains('#') {
                return refuse("must be a URL of one file: https://host/path/file.gguf");
            }
            return Ok(Self::Https(text.to_owned()));
        }
        refuse("must begin with hf://, https:// or pvc://")
    }

    /// Whether the pod needs the network to fill its volume.
    pub fn is_remote(&self) -> bool {
        !matches!(self, Self::Claim { .. })
    }
}

/// Non-empty segments of a safe alphabet, none of them `.` or `..`.
fn plain_segments(path: &str) -> bool {
    path.split('/').all(|segment| {
        !segment.is_empty()
            && segment != "."
            && segment != ".."
            && segment
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"._-+=,".contains(&b))
    })
}

/// A DNS-1123 subdomain, the name of a claim.
fn is_claim_name(name: &str) -> bool {
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    name.len() <= 253
        && edge(name.bytes().next())
        && edge(name.bytes().last())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_are_read() {
        assert_eq!(
            Source::parse("hf://org/repo/sub/m.Q4_K_M.gguf"),
            Ok(Source::Hub {
                repository: "org/repo".into(),
                path: Some("sub/m.Q4_K_M.gguf".into())
            })
        );
        assert_eq!(
            Source::parse("hf://org/repo"),
            Ok(Source::Hub {
                repository: "org/repo".into(),
                path: None
            })
        );
        assert_eq!(
            Source::parse("pvc://weights/a/m.gguf"),
            Ok(Source::Claim {
                claim: "weights".into(),
                path: "a/m.gguf".into()
            })
        );
        assert!(Source::parse("https://host:8443/a%20b/m.gguf?sig=1").is_ok());
    }

    #[test]
    fn paths_that_leave_the_volume_and_addresses_with_credentials_are_refused() {
        for text in [
            "",
            "hf://org",
            "hf://org/",
            "hf://org/repo/",
            "hf://org//m.gguf",
            "hf://org/repo/../m.gguf",
            "hf://org/repo/./m",
            "hf://o/r/a%2e%2e/m",
            "pvc://weights",
            "pvc://weights/",
            "pvc://weights//m",
            "pvc://weights/../../etc/shadow",
            "pvc://UP/m",
            "pvc://other/../m",
            "https://",
            "https://host",
            "https://host/",
            "https://user:pw@host/m",
            "https://h st/m",
            "https://host/m#x",
            "http://host/m",
            "file:///etc/passwd",
            "s3://b/k",
            "HF://org/repo/m",
        ] {
            assert!(Source::parse(text).is_err(), "{text} was accepted");
        }
    }
}
