//! The hub's API, as much as fetches need: which commit a revision is, and which files a repository has.
use reqwest::Url;
use serde_json::Value;

use crate::commit::Commit;
use crate::connection::{Connection, Document, NoAnswer};
use crate::digest::Digest;
use crate::failure::FetchFailed;
use crate::patience::Patience;
use crate::progress::Progress;
use crate::repository::choice::Listed;
use crate::source::Place;

/// Bytes of one document of the API; a thousand files take about 300 KiB.
const LARGEST_DOCUMENT: usize = 16 << 20;
/// Files of a repository before patterns choose from them.
const MOST_LISTED: usize = 100_000;
/// Pages of a tree; the hub puts a thousand files on each.
const MOST_PAGES: usize = 1_000;

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

/// All files of the repository: from its tree, or where the hub has none, from the names in its description.
pub async fn list(
    connection: &Connection<'_>,
    place: &Place,
    patience: &Patience,
    progress: &Progress,
) -> Result<Vec<Listed>, FetchFailed> {
    let mut url = place.api("tree");
    url.set_query(Some("recursive=true"));
    let mut files = Vec::new();
    for page in 0..MOST_PAGES {
        let document = match ask(connection, &url, patience, progress).await {
            // No tree: a mirror that knows only descriptions, or a repository that does not exist.
            Err(FetchFailed::NotFound { .. }) if page == 0 => {
                return siblings(connection, place, patience, progress).await;
            }
            other => other?,
        };
        let found = tree_of(&document.body).ok_or_else(|| strange(&document, "tree"))?;
        files.extend(found);
        if files.len() > MOST_LISTED {
            break;
        }
        match next_page(&document) {
            Some(next) => url = next,
            None => return Ok(files),
        }
    }
    Err(FetchFailed::TooManyFiles {
        what: format!("{} at the hub", place.repository),
        most: MOST_LISTED,
    })
}

async fn siblings(
    connection: &Connection<'_>,
    place: &Place,
    patience: &Patience,
    progress: &Progress,
) -> Result<Vec<Listed>, FetchFailed> {
    let document = ask(connection, &place.api("revision"), patience, progress).await?;
    siblings_of(&document.body).ok_or_else(|| strange(&document, "description"))
}

/// Asks until there is an answer, something final happens, or patience ends.
async fn ask(
    connection: &Connection<'_>,
    url: &Url,
    patience: &Patience,
    progress: &Progress,
) -> Result<Document, FetchFailed> {
    let mut failed = 0;
    loop {
        let interruption = match connection.document(url, LARGEST_DOCUMENT).await {
            Ok(document) => return Ok(document),
            Err(NoAnswer::Failed(failed)) => return Err(failed),
            Err(NoAnswer::Interrupted(interruption)) => interruption,
        };
        failed += 1;
        if failed >= patience.attempts {
            return Err(FetchFailed::SourceUnavailable {
                host: interruption.host,
                attempts: failed,
                last: interruption.what,
            });
        }
        progress.troubled(&interruption.host, &interruption.what);
        let wait = patience.wait(failed, interruption.retry_after);
        tracing::warn!(
            "{}: {}; asked again in {wait:.1?}",
            interruption.host,
            interruption.what
        );
        tokio::time::sleep(wait).await;
    }
}

fn strange(document: &Document, what: &str) -> FetchFailed {
    FetchFailed::SourceUnavailable {
        host: document.host.clone(),
        attempts: 1,
        last: format!("a {what} of the repository that cannot be read; is --hub-url the address of a hub?"),
    }
}

fn commit_of(body: &[u8]) -> Option<Commit> {
    let revision: Value = serde_json::from_slice(body).ok()?;
    Commit::from_hex(revision["sha"].as_str()?)
}

fn tree_of(body: &[u8]) -> Option<Vec<Listed>> {
    let entries: Vec<Value> = serde_json::from_slice(body).ok()?;
    let files = entries.iter().filter(|entry| entry["type"] == "file");
    let listed = files.map(|entry| {
        Some(Listed {
            path: entry["path"].as_str()?.to_owned(),
            size: entry["lfs"]["size"].as_u64().or_else(|| entry["size"].as_u64()),
            digest: entry["lfs"]["oid"].as_str().and_then(Digest::from_hex),
        })
    });
    listed.collect()
}

fn siblings_of(body: &[u8]) -> Option<Vec<Listed>> {
    let revision: Value = serde_json::from_slice(body).ok()?;
    let names = revision["siblings"].as_array()?.iter();
    let listed = names.map(|sibling| {
        Some(Listed {
            path: sibling["rfilename"].as_str()?.to_owned(),
            size: None,
            digest: None,
        })
    });
    listed.collect()
}

/// The address with `rel="next"` of a `Link` header.
fn next_page(document: &Document) -> Option<Url> {
    let links = document.link.as_deref()?.split(',');
    let next = links
        .filter_map(|link| link.split_once(';'))
        .find(|(_, relation)| relation.contains("rel=\"next\""));
    let address = next?.0.trim().strip_prefix('<')?.strip_suffix('>')?;
    document.url.join(address).ok()
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

    #[test]
    fn a_tree_has_files_with_sizes_and_the_digests_of_large_ones() {
        let oid = "ab".repeat(32);
        let body = format!(
            r#"[{{"type":"directory","path":"a"}},{{"type":"file","path":"a/b","size":2,"oid":"x"}},
                {{"type":"file","path":"m","size":9,"lfs":{{"oid":"{oid}","size":9,"pointerSize":135}}}}]"#
        );
        let files = tree_of(body.as_bytes()).unwrap();
        assert_eq!(
            (files[0].path.as_str(), files[0].size, files[0].digest),
            ("a/b", Some(2), None)
        );
        assert_eq!((files[1].size, files[1].digest), (Some(9), Digest::from_hex(&oid)));
        for body in ["", "{}", r#"[{"type":"file"}]"#] {
            assert_eq!(tree_of(body.as_bytes()), None, "{body}");
        }
    }

    #[test]
    fn the_next_page_is_the_link_that_says_so() {
        let page = |link: Option<&str>| {
            let document = Document {
                url: Url::parse("https://hub/api?recursive=true").unwrap(),
                host: "hub".into(),
                body: Vec::new(),
                link: link.map(str::to_owned),
            };
            next_page(&document).map(String::from)
        };
        assert_eq!(
            page(Some("<https://hub/a?cursor=1>; rel=\"next\"")).as_deref(),
            Some("https://hub/a?cursor=1")
        );
        assert_eq!(
            page(Some("</p>; rel=\"prev\", </n>; rel=\"next\"")).as_deref(),
            Some("https://hub/n")
        );
        assert_eq!(page(Some("</p>; rel=\"prev\"")), None);
        assert_eq!(page(None), None);
    }
}
