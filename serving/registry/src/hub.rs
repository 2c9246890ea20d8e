//! The hub's API, as much as fetches need: which commit a revision is.
use serde_json::Value;

use crate::commit::Commit;
use crate::connection::Connection;
use crate::source::Place;

/// Bytes of one document of the API; a thousand files take about 300 KiB.
const LARGEST_DOCUMENT: usize = 16 << 20;

/// The commit of the place's revision; `None` where the hub does not know commits or cannot be asked: the download that
/// follows meets the same trouble, and retries and reports it.
pub async fn commit(connection: &Connection<'_>, place: &Place) -> Option<Commit> {
    match connection.document(&place.api("revision"), LARGEST_DOCUMENT).await {
        Ok(document) => commit_of(&document.body),
        Err(_) => {
            tracing::debug!("the hub does not say which commit the revision is");
            None
        }
    }
}

fn commit_of(body: &[u8]) -> Option<Commit> {
    let revision: Value = serde_json::from_slice(body).ok()?;
    Commit::from_hex(revision["sha"].as_str()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_is_read_from_the_description_of_a_revision() {
        let sha = "0123456789abcdef0123456789abcdef01234567";
        let found = commit_of(format!("{{\"id\":\"org/repo\",\"sha\":\"{sha}\"}}").as_bytes());
        assert_eq!(found, Commit::from_hex(sha));
        for body in ["", "[]", "{}", r#"{"sha":1}"#, r#"{"sha":"main"}"#] {
            assert_eq!(commit_of(body.as_bytes()), None, "{body}");
        }
    }
}
