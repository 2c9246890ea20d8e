//! Fetching by commit: the owner of a repository may replace a file, and what was recorded is still what is fetched.
#![allow(clippy::unwrap_used)] // a test ends at the first surprise

mod support;

use std::fs;
use std::sync::{Arc, Mutex};

use windlass_api::fetch::FetchFailure;
use windlass_registry::commit::Commit;
use windlass_registry::download::Expected;

use support::origin::{Origin, Reply, Seen};
use support::{digest_of, model, order, run};

const OLD: &str = "0123456789abcdef0123456789abcdef01234567";
const NEW: &str = "fedcba9876543210fedcba9876543210fedcba98";

/// The commits that a hub knows, the last of which is `main`.
type Commits = Arc<Mutex<Vec<(&'static str, Vec<u8>)>>>;

fn replaced() -> Vec<u8> {
    let mut content = model();
    *content.last_mut().unwrap() ^= 1;
    content
}

/// Where a hub says what a revision is.
#[derive(Clone, Copy, PartialEq)]
enum Says {
    InHeaders,
    InItsApi,
}

fn hub(commits: &Commits, says: Says) -> Origin {
    let commits = commits.clone();
    Origin::start_hub(move |request, _| {
        let commits = commits.lock().unwrap();
        let path = request.line.split(' ').nth(1).unwrap();
        let wanted = path
            .split('/')
            .nth(if path.starts_with("/api/") { 6 } else { 4 })
            .unwrap();
        let known = commits
            .iter()
            .rev()
            .find(|(commit, _)| wanted == "main" || wanted == *commit);
        let Some((commit, content)) = known else {
            return Reply::head(
                "404 Not Found",
                &[("X-Error-Code", "RevisionNotFound"), ("Content-Length", "0")],
            );
        };
        if path.starts_with("/api/models/org/repo/revision/") && says == Says::InItsApi {
            return Reply::answer("200 OK", &[], &format!("{{\"sha\":\"{commit}\"}}"));
        }
        if path.starts_with("/api/") {
            return Reply::status("404 Not Found");
        }
        let heads = [("X-Repo-Commit", *commit)];
        let heads = if says == Says::InHeaders { &heads[..] } else { &[] };
        match request.line.starts_with("HEAD ") {
            true => Reply::head("200 OK", heads),
            false => Reply::whole(content, heads),
        }
    })
}

fn gets(hub: &Origin) -> Vec<String> {
    let files = |request: &Seen| request.line.starts_with("GET /org/");
    hub.seen()
        .into_iter()
        .filter(files)
        .map(|request| request.line)
        .collect()
}

#[tokio::test]
async fn a_branch_is_resolved_once_and_fetched_by_its_commit() {
    for says in [Says::InHeaders, Says::InItsApi] {
        let hub = hub(&Arc::new(Mutex::new(vec![(OLD, model())])), says);
        let folder = tempfile::tempdir().unwrap();
        let facts = run(&order(&hub.url(), folder.path())).await.unwrap();
        assert_eq!(facts.commit.as_deref(), Some(OLD));
        assert_eq!(gets(&hub), [format!("GET /org/repo/resolve/{OLD}/model.gguf HTTP/1.1")]);
    }
}

#[tokio::test]
async fn a_file_replaced_at_its_source_is_still_fetched_as_it_was_recorded() {
    let commits: Commits = Arc::new(Mutex::new(vec![(OLD, model())]));
    let hub = hub(&commits, Says::InHeaders);
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let facts = run(&order(&hub.url(), first.path())).await.unwrap();
    commits.lock().unwrap().push((NEW, replaced()));
    let mut wanted = order(&hub.url(), second.path());
    wanted.commit = Commit::from_hex(facts.commit.as_deref().unwrap());
    wanted.demand.expected = Some(Expected::Recorded(facts.digest.parse().unwrap()));
    let again = run(&wanted).await.unwrap();
    assert_eq!(again, facts);
    assert_eq!(fs::read(second.path().join("model.gguf")).unwrap(), model());
}

#[tokio::test]
async fn a_commit_that_the_hub_no_longer_has_says_how_to_resolve_again() {
    let commits: Commits = Arc::new(Mutex::new(vec![(NEW, replaced())]));
    let hub = hub(&commits, Says::InHeaders);
    let folder = tempfile::tempdir().unwrap();
    let mut wanted = order(&hub.url(), folder.path());
    wanted.commit = Commit::from_hex(OLD);
    for expected in [None, Some(Expected::Recorded(digest_of(&model())))] {
        wanted.demand.expected = expected;
        let failed = run(&wanted).await.unwrap_err();
        assert_eq!(failed.reason(), FetchFailure::NotFound);
        for words in [OLD, "hf://org/repo/model.gguf", "windlass.dev/restart"] {
            assert!(failed.to_string().contains(words), "{failed}");
        }
    }
}

#[tokio::test]
async fn a_lost_commit_is_no_failure_where_the_revision_still_has_the_recorded_digest() {
    let hub = hub(&Arc::new(Mutex::new(vec![(NEW, model())])), Says::InHeaders);
    let folder = tempfile::tempdir().unwrap();
    let mut wanted = order(&hub.url(), folder.path());
    wanted.commit = Commit::from_hex(OLD);
    wanted.demand.expected = Some(Expected::Recorded(digest_of(&model())));
    assert_eq!(run(&wanted).await.unwrap().commit.as_deref(), Some(NEW));
}

#[tokio::test]
async fn a_hub_that_knows_no_commits_is_fetched_by_the_revision() {
    let hub = Origin::start(|_, _| Reply::whole(&model(), &[]));
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(run(&order(&hub.url(), folder.path())).await.unwrap().commit, None);
}

#[tokio::test]
async fn a_commit_that_only_the_file_itself_announces_is_reported() {
    let hub = Origin::start(|_, _| Reply::whole(&model(), &[("X-Repo-Commit", OLD)]));
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(
        run(&order(&hub.url(), folder.path())).await.unwrap().commit.as_deref(),
        Some(OLD)
    );
}
