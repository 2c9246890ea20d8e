//! Everything that can end a fetch or a verification, and the reason in the API's closed list that each one is.
//!
//! Messages end in the events and conditions of an object: one sentence with the next action, no secret, no query.
use std::error::Error;
use std::io;
use std::path::PathBuf;

use windlass_api::fetch::FetchFailure;

use crate::commit::Commit;
use crate::digest::Digest;

/// Why there is no verified file.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages say what the fields are
pub enum FetchFailed {
    #[error("{why}; correct spec.model.source")]
    InvalidSource { why: String },
    #[error("{which} is not `sha256:` and 64 hex digits; correct it or leave it out")]
    InvalidDigest { which: &'static str },
    #[error("the recorded commit is not 40 hex digits; set a new value for the annotation windlass.dev/restart")]
    InvalidCommit,
    #[error(
        "the hub no longer has commit {commit} of {what}, which this deployment recorded; set a new value for the annotation windlass.dev/restart to resolve the revision again"
    )]
    CommitGone { what: String, commit: Commit },
    #[error("no file of {what} passes the allow and ignore patterns; correct them, or the source")]
    NothingChosen { what: String },
    #[error("{what} has more than {most} files; choose some of them with allow and ignore patterns")]
    TooManyFiles { what: String, most: usize },
    #[error("{what} lists {name:?}, which {why}; choose another repository, or add it to the ignore patterns")]
    UnsafeName {
        what: String,
        name: String,
        why: &'static str,
    },
    #[error(
        "{what} has {file}, which is {kind}; add `{pattern}` to the ignore patterns if the runtime does not need it, or choose a repository with safetensors"
    )]
    UnsafeFile {
        what: String,
        file: String,
        kind: &'static str,
        pattern: &'static str,
    },
    #[error(
        "{file} of {what} asks for code ({code}) in its auto_map; add `*.py` to the ignore patterns if the runtime knows the architecture and trusts no remote code, or choose another repository"
    )]
    RemoteCode { what: String, file: String, code: String },
    #[error("{what} has no .safetensors file; correct the allow and ignore patterns, or choose another repository")]
    NoWeights { what: String },
    #[error("{what} is not as it should be: {why}; get it again from its publisher")]
    Malformed { what: String, why: String },
    #[error("the CA bundle {} holds no certificate in PEM; correct it or leave it out", path.display())]
    InvalidBundle { path: PathBuf },
    #[error("{what} does not exist{detail}; correct spec.model.source or spec.model.revision")]
    NotFound { what: String, detail: String },
    #[error(
        "{host} answered {status}{detail}: the file is private or gated, or does not exist; name a Secret with a token in spec.model.credentialsSecretRef"
    )]
    CredentialsRequired { host: String, status: u16, detail: String },
    #[error(
        "{host} answered {status}{detail} to the token of spec.model.credentialsSecretRef: it is wrong, expired, or lacks access to this file"
    )]
    CredentialsRejected { host: String, status: u16, detail: String },
    #[error("the token of spec.model.credentialsSecretRef contains characters that no token has")]
    UnusableToken,
    #[error(
        "{host} gave no usable answer in {attempts} attempts, the last: {last}; what came is kept for the next try"
    )]
    SourceUnavailable { host: String, attempts: u32, last: String },
    #[error("the source has {found}, but spec.model.digest demands {expected}; correct the one or the other")]
    DigestMismatch { expected: Digest, found: Digest },
    #[error(
        "the source moved: it now has {found}, but this deployment recorded {recorded} from the same source and revision; choose the new content with spec.model.digest, or the old with spec.model.revision"
    )]
    PinMoved { recorded: Digest, found: Digest },
    #[error("the source announced {announced}, but its file has {found}; it was damaged on the way or at the source")]
    Damaged { announced: Digest, found: Digest },
    #[error(
        "the file has {received} bytes, but its source announced {announced}; it is cut or was replaced at the source"
    )]
    WrongSize { announced: u64, received: u64 },
    #[error("{what} is not a GGUF model file: it looks like {looks_like}; name a .gguf file in spec.model.source")]
    NotGguf { what: String, looks_like: String },
    #[error("{what} is not a well-formed GGUF file: {why}; get the file again from its publisher")]
    MalformedGguf { what: String, why: String },
    #[error("the file has {size} bytes, more than the limit of {limit}; raise the limit or choose a smaller model")]
    OverLimit { size: u64, limit: u64 },
    #[error("the file needs {needed} more bytes, but its volume has {available} left; give the volume more room")]
    NoRoom { needed: u64, available: u64 },
    #[error("the volume is full: {action} {} failed", path.display())]
    Full {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{action} {} failed; look at the volume", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{} {why}; name a regular file inside the volume", path.display())]
    OutsideVolume { path: PathBuf, why: &'static str },
    #[error("the HTTP client could not be set up")]
    Client(#[source] reqwest::Error),
}

impl FetchFailed {
    /// A failed file operation: a full volume is distinguished from all else.
    pub fn io(action: &'static str, path: impl Into<PathBuf>, source: io::Error) -> FetchFailed {
        let path = path.into();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                FetchFailed::Full { action, path, source }
            }
            _ => FetchFailed::Io { action, path, source },
        }
    }

    /// The reason in the API's list.
    pub fn reason(&self) -> FetchFailure {
        match self {
            FetchFailed::InvalidSource { .. } | FetchFailed::InvalidDigest { .. } => FetchFailure::InvalidSource,
            FetchFailed::OutsideVolume { .. } | FetchFailed::InvalidCommit => FetchFailure::InvalidSource,
            FetchFailed::InvalidBundle { .. } | FetchFailed::NothingChosen { .. } => FetchFailure::InvalidSource,
            FetchFailed::TooManyFiles { .. } | FetchFailed::UnsafeFile { .. } => FetchFailure::InvalidSource,
            FetchFailed::RemoteCode { .. } => FetchFailure::InvalidSource,
            FetchFailed::UnsafeName { .. } | FetchFailed::NoWeights { .. } => FetchFailure::InvalidFile,
            FetchFailed::Malformed { .. } => FetchFailure::InvalidFile,
            FetchFailed::NotFound { .. } | FetchFailed::CommitGone { .. } => FetchFailure::NotFound,
            FetchFailed::CredentialsRequired { .. } => FetchFailure::CredentialsRequired,
            FetchFailed::CredentialsRejected { .. } | FetchFailed::UnusableToken => FetchFailure::CredentialsRejected,
            FetchFailed::SourceUnavailable { .. } => FetchFailure::SourceUnavailable,
            FetchFailed::DigestMismatch { .. } | FetchFailed::PinMoved { .. } => FetchFailure::DigestMismatch,
            FetchFailed::Damaged { .. } | FetchFailed::WrongSize { .. } => FetchFailure::InvalidFile,
            FetchFailed::NotGguf { .. } | FetchFailed::MalformedGguf { .. } => FetchFailure::InvalidFile,
            FetchFailed::OverLimit { .. } | FetchFailed::NoRoom { .. } | FetchFailed::Full { .. } => {
                FetchFailure::NoSpace
            }
            FetchFailed::Io { .. } | FetchFailed::Client(_) => FetchFailure::Io,
        }
    }

    /// The message with its causes, for the report and the log.
    pub fn explained(&self) -> String {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_volume_is_no_space_and_a_broken_one_is_io() {
        for kind in [
            io::ErrorKind::StorageFull,
            io::ErrorKind::QuotaExceeded,
            io::ErrorKind::FileTooLarge,
        ] {
            assert_eq!(
                FetchFailed::io("writing", "/models/m.part", kind.into()).reason(),
                FetchFailure::NoSpace
            );
        }
        let denied = FetchFailed::io("writing", "/models/m.part", io::ErrorKind::PermissionDenied.into());
        assert_eq!(denied.reason(), FetchFailure::Io);
        assert!(
            denied.explained().ends_with("permission denied"),
            "{}",
            denied.explained()
        );
    }
}
