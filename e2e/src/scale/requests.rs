//! The operator's requests, read from the API server's audit log as it grows. Times are the API server's, which runs
//! on the same machine as this program and its operators, so they compare with this program's clock.
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;

use anyhow::{Context, Result};
use k8s_openapi::jiff::Timestamp;

use crate::audit::{Entry, ObjectRef};

/// Begin of the user agent of what is counted.
const USER_AGENT: &str = "windlass-operator/";
/// At most this much of the log is read at once.
const MAX_READ: u64 = 64 << 20;

/// A request of an operator.
#[derive(Debug, Clone)]
pub struct Request {
    /// When the API server received it.
    pub at: Timestamp,
    /// `get`, `list`, `watch`, `create`, `patch`, …
    pub verb: String,
    /// What it was about.
    pub object: ObjectRef,
    /// What a request counts as.
    pub kind: Kind,
}

/// What a request counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Reads an object or a list.
    Read,
    /// Changes something, an Event included.
    Write,
    /// Starts a watch.
    Watch,
    /// Reads or renews the Lease.
    Lease,
}

/// All requests so far.
pub struct Requests {
    file: PathBuf,
    offset: u64,
    seen: Vec<Request>,
}

impl Requests {
    /// Reads the log from its begin on.
    pub fn new(file: PathBuf) -> Self {
        Self {
            file,
            offset: 0,
            seen: Vec::new(),
        }
    }

    /// Reads what has come since the last call. A line that is still being written is left for the next one.
    ///
    /// # Errors
    /// When the log cannot be read, or a line is not an audit event.
    pub fn refresh(&mut self) -> Result<()> {
        loop {
            let mut file = File::open(&self.file).with_context(|| format!("opening {}", self.file.display()))?;
            file.seek(SeekFrom::Start(self.offset))?;
            let mut bytes = Vec::new();
            file.take(MAX_READ).read_to_end(&mut bytes)?;
            let Some(end) = bytes.iter().rposition(|byte| *byte == b'\n') else {
                return Ok(());
            };
            for line in bytes[..end].split(|byte| *byte == b'\n') {
                let entry: Entry = serde_json::from_slice(line)
                    .with_context(|| format!("audit line {}", String::from_utf8_lossy(line)))?;
                self.seen.extend(request(entry)?);
            }
            self.offset += end as u64 + 1;
        }
    }

    /// The requests that came from `from` on and before `to`.
    pub fn between(&self, from: Timestamp, to: Timestamp) -> impl Iterator<Item = &Request> {
        self.seen
            .iter()
            .filter(move |request| from <= request.at && request.at < to)
    }

    /// When the last read or write came, at `from` or later.
    pub fn last_work(&self, from: Timestamp) -> Option<Timestamp> {
        let work = |request: &&Request| matches!(request.kind, Kind::Read | Kind::Write) && from <= request.at;
        self.seen.iter().filter(work).map(|request| request.at).max()
    }

    /// The first write at `from` or later to the object of this namespace and name, or to a child of it: children
    /// have its name, or begin with it and a dash.
    pub fn first_write(&self, from: Timestamp, namespace: &str, name: &str) -> Option<Timestamp> {
        let wanted = |request: &&Request| {
            request.kind == Kind::Write
                && from <= request.at
                && request.object.namespace == namespace
                && matches!(request.object.name.strip_prefix(name), Some(rest) if rest.is_empty() || rest.starts_with('-'))
        };
        self.seen.iter().filter(wanted).map(|request| request.at).min()
    }
}

/// How many requests there are of a kind.
pub fn count<'a>(requests: impl Iterator<Item = &'a Request>, kind: Kind) -> usize {
    requests.filter(|request| request.kind == kind).count()
}

/// How many requests there are of each verb, without those for the Lease.
pub fn by_verb<'a>(requests: impl Iterator<Item = &'a Request>) -> BTreeMap<String, usize> {
    tally(requests, |request| request.verb.clone())
}

/// How many requests there are of each verb and resource, without those for the Lease.
pub fn by_resource<'a>(requests: impl Iterator<Item = &'a Request>) -> BTreeMap<String, usize> {
    tally(requests, |request| {
        let object = &request.object;
        let slash = if object.subresource.is_empty() { "" } else { "/" };
        format!("{} {}{slash}{}", request.verb, object.resource, object.subresource)
    })
}

fn tally<'a>(requests: impl Iterator<Item = &'a Request>, key: impl Fn(&Request) -> String) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for request in requests.filter(|request| request.kind != Kind::Lease) {
        *counts.entry(key(request)).or_default() += 1;
    }
    counts
}

/// `None` for other clients, for what is not about an object, and for the end of a watch.
fn request(entry: Entry) -> Result<Option<Request>> {
    let counted = if entry.verb == "watch" {
        "ResponseStarted"
    } else {
        "ResponseComplete"
    };
    let (true, true, Some(object)) = (
        entry.user_agent.starts_with(USER_AGENT),
        entry.stage == counted,
        entry.object_ref.clone(),
    ) else {
        return Ok(None);
    };
    let kind = match entry.verb.as_str() {
        _ if object.api_group == "coordination.k8s.io" => Kind::Lease,
        "watch" => Kind::Watch,
        _ if entry.is_write() => Kind::Write,
        _ => Kind::Read,
    };
    let at = entry.request_received_timestamp.parse();
    Ok(Some(Request {
        at: at.with_context(|| format!("the time {}", entry.request_received_timestamp))?,
        verb: entry.verb,
        object,
        kind,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(agent: &str, stage: &str, verb: &str, group: &str, resource: &str) -> String {
        format!(
            r#"{{"auditID":"1","stage":"{stage}","verb":"{verb}","user":{{}},"userAgent":"{agent}","objectRef":{{"resource":"{resource}","namespace":"a","name":"chat","apiGroup":"{group}"}},"requestReceivedTimestamp":"2026-01-01T00:00:01.5Z"}}"#
        )
    }

    #[test]
    fn only_the_operators_requests_count_once_each_and_leases_apart() {
        let ours = "windlass-operator/0.1.0";
        let lines = [
            line(ours, "ResponseComplete", "patch", "apps", "deployments"),
            line(ours, "ResponseComplete", "get", "apps", "deployments"),
            line("kubectl/v1", "ResponseComplete", "get", "apps", "deployments"),
            line(ours, "ResponseComplete", "patch", "coordination.k8s.io", "leases"),
            line(ours, "ResponseStarted", "watch", "", "pods"),
            line(ours, "ResponseComplete", "watch", "", "pods"),
        ];
        let file = std::env::temp_dir().join(format!("windlass-requests-{}", std::process::id()));
        std::fs::write(&file, format!("{}\n{}", lines.join("\n"), &lines[0][..20])).unwrap();
        let mut requests = Requests::new(file.clone());
        requests.refresh().unwrap();
        std::fs::write(&file, format!("{}\n{}\n", lines.join("\n"), lines[0])).unwrap();
        requests.refresh().unwrap();
        std::fs::remove_file(&file).unwrap();

        let from: Timestamp = "2026-01-01T00:00:01Z".parse().unwrap();
        let to: Timestamp = "2026-01-01T00:00:02Z".parse().unwrap();
        let counts = [Kind::Write, Kind::Read, Kind::Lease, Kind::Watch];
        let counts = counts.map(|kind| count(requests.between(from, to), kind));
        assert_eq!(counts, [2, 1, 1, 1]);
        assert_eq!(by_verb(requests.between(from, to))["patch"], 2);
        assert_eq!(by_resource(requests.between(from, to))["get deployments"], 1);
        assert_eq!(count(requests.between(to, to), Kind::Write), 0);
        assert!(requests.first_write(from, "a", "chat").is_some());
        assert!(requests.first_write(from, "b", "chat").is_none());
        assert!(requests.last_work(to).is_none());
    }
}
