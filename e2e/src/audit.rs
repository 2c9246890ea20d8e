//! The API server's audit log: who wrote what, and when. It shows that an operator at rest writes nothing,
//! that an old leader is silent, and that the granted rights are the used ones.
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Deserialize;

/// A reader of the log; each reads from the place where it was made.
pub struct AuditLog {
    file: PathBuf,
    from: u64,
}

/// One completed request.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Unique for a request.
    #[serde(rename = "auditID")]
    pub id: String,
    /// `ResponseComplete` for the entries that this reader returns.
    pub stage: String,
    /// `get`, `patch`, …; a server-side apply that creates is a `patch` with status 201.
    pub verb: String,
    /// Whose credentials came.
    pub user: User,
    /// As whom the request acted.
    pub impersonated_user: Option<User>,
    /// What it was about; absent for non-resource paths.
    pub object_ref: Option<ObjectRef>,
    /// The answer.
    pub response_status: Option<ResponseStatus>,
    /// When it came, RFC 3339 with microseconds: comparable as text.
    pub request_received_timestamp: String,
    /// The client program.
    #[serde(default)]
    pub user_agent: String,
}

/// An identity.
#[derive(Debug, Clone, Deserialize)]
pub struct User {
    /// `system:serviceaccount:…` for pods.
    #[serde(default)]
    pub username: String,
}

/// The object of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectRef {
    /// Plural name of the kind.
    pub resource: String,
    /// Empty for objects without one.
    pub namespace: String,
    /// Empty for collections.
    pub name: String,
    /// Empty for the core group.
    pub api_group: String,
    /// `status`, `scale`, …
    pub subresource: String,
}

/// The answer's status.
#[derive(Debug, Clone, Deserialize)]
pub struct ResponseStatus {
    /// HTTP status.
    pub code: u16,
}

impl Entry {
    /// The user as whom the request acted.
    pub fn actor(&self) -> &str {
        &self.impersonated_user.as_ref().unwrap_or(&self.user).username
    }

    /// True for requests that may change objects; leases do not count.
    pub fn is_write(&self) -> bool {
        let changes = matches!(
            self.verb.as_str(),
            "create" | "update" | "patch" | "delete" | "deletecollection"
        );
        let group = self.object_ref.as_ref().map_or("", |object| object.api_group.as_str());
        changes && group != "coordination.k8s.io" && group != "authorization.k8s.io"
    }

    /// `patch deployments/chat 200`, for messages.
    pub fn line(&self) -> String {
        let object = self.object_ref.clone().unwrap_or_default();
        let slash = if object.subresource.is_empty() { "" } else { "/" };
        let code = self.response_status.as_ref().map_or(0, |status| status.code);
        format!(
            "{} {} {}{slash}{}/{} {code}",
            self.request_received_timestamp, self.verb, object.resource, object.subresource, object.name
        )
    }
}

impl AuditLog {
    /// Reads from the log's present end on.
    pub fn from_now(file: impl Into<PathBuf>) -> Result<Self> {
        let file = file.into();
        let from = fs::metadata(&file)
            .with_context(|| format!("the audit log {}", file.display()))?
            .len();
        Ok(Self { file, from })
    }

    /// Reads all of the log.
    pub fn from_start(file: impl Into<PathBuf>) -> Self {
        Self {
            file: file.into(),
            from: 0,
        }
    }

    /// The completed requests since this reader was made that `wanted` says true of. A line that is still
    /// being written is left for the next call.
    pub fn entries(&self, wanted: impl Fn(&Entry) -> bool) -> Result<Vec<Entry>> {
        use std::io::{Read, Seek, SeekFrom};
        let mut file = fs::File::open(&self.file).with_context(|| format!("opening {}", self.file.display()))?;
        file.seek(SeekFrom::Start(self.from))?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let mut found = Vec::new();
        for line in whole.lines() {
            let entry: Entry = serde_json::from_str(line).with_context(|| format!("audit line {line}"))?;
            // A watch is logged when it starts and when it ends; all else completes once.
            let done = entry.stage == "ResponseComplete" || (entry.verb == "watch" && entry.stage == "ResponseStarted");
            if done && wanted(&entry) {
                found.push(entry);
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"kind":"Event","auditID":"1","stage":"ResponseComplete","verb":"patch","user":{"username":"admin"},"impersonatedUser":{"username":"windlass-a"},"objectRef":{"resource":"deployments","namespace":"a","name":"chat","apiGroup":"apps"},"responseStatus":{"code":201},"requestReceivedTimestamp":"2026-01-01T00:00:00.000001Z"}"#;

    #[test]
    fn a_reader_sees_whole_lines_since_it_was_made() {
        let file = std::env::temp_dir().join(format!("windlass-audit-{}", std::process::id()));
        fs::write(&file, format!("{LINE}\n")).unwrap();
        let log = AuditLog::from_now(&file).unwrap();
        assert_eq!(log.entries(|_| true).unwrap().len(), 0);
        fs::write(&file, format!("{LINE}\n{LINE}\n{}", &LINE[..40])).unwrap();
        let entries = log.entries(Entry::is_write).unwrap();
        fs::remove_file(&file).unwrap();
        assert_eq!(entries.len(), 1);
        assert_eq!(entries[0].actor(), "windlass-a");
        assert!(
            entries[0].line().ends_with("patch deployments/chat 201"),
            "{}",
            entries[0].line()
        );
    }

    #[test]
    fn a_lease_is_no_write_of_ours() {
        let lease = LINE.replace("\"apps\"", "\"coordination.k8s.io\"");
        assert!(!serde_json::from_str::<Entry>(&lease).unwrap().is_write());
    }
}
