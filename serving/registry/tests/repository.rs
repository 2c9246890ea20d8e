//! Whole repositories: listings in pages, patterns, refusals, resuming, and the digest of the whole.
#![allow(clippy::unwrap_used)] // a test ends at the first surprise

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use windlass_api::fetch::{FetchFailure, ModelFacts};
use windlass_registry::digest::Digest;
use windlass_registry::download::Expected;
use windlass_registry::fetch::Order;
use windlass_registry::manifest::Manifest;
use windlass_registry::source::Source;

use support::origin::{Origin, Reply, Seen};
use support::{digest_of, order, run};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

type Files = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

fn weights(fill: u8) -> Vec<u8> {
    let size = 2 << 20;
    let head = json!({"a": {"dtype": "BF16", "shape": [size / 2], "data_offsets": [0, size]}}).to_string();
    [
        &(head.len() as u64).to_le_bytes()[..],
        head.as_bytes(),
        &vec![fill; size],
    ]
    .concat()
}

fn files() -> Files {
    let config = json!({"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 2048});
    let files = [
        ("config.json", config.to_string().into_bytes()),
        ("model-00001-of-00002.safetensors", weights(1)),
        ("model-00002-of-00002.safetensors", weights(2)),
        ("tokenizer/tokenizer.json", b"{}".to_vec()),
    ];
    let files = files.into_iter().map(|(name, content)| (name.to_owned(), content));
    Arc::new(Mutex::new(files.collect()))
}

/// What a hub lists and how.
#[derive(Clone, Copy, PartialEq)]
enum Lists {
    TreeInPages,
    Siblings,
}

/// A hub whose files of weights are in Git LFS; `instead` may answer a request for a file otherwise.
fn hub(
    files: &Files,
    lists: Lists,
    instead: impl Fn(&Seen, &str, &[u8]) -> Option<Reply> + Send + Sync + 'static,
) -> Origin {
    let files = files.clone();
    Origin::start_hub(move |request, _| {
        let files = files.lock().unwrap();
        let path = request.line.split(' ').nth(1).unwrap();
        if path == "/api/models/org/repo/revision/main" || path == format!("/api/models/org/repo/revision/{COMMIT}") {
            let siblings: Vec<Value> = files.keys().map(|name| json!({"rfilename": name})).collect();
            let description = json!({"sha": COMMIT, "siblings": siblings});
            return Reply::answer("200 OK", &[], &description.to_string());
        }
        let (address, query) = path.split_once('?').unwrap_or((path, ""));
        if address == format!("/api/models/org/repo/tree/{COMMIT}") && lists == Lists::TreeInPages {
            let at: usize = query.rsplit_once("cursor=").map_or(0, |(_, at)| at.parse().unwrap());
            let page: Vec<Value> = files.iter().skip(at).take(2).map(listed).collect();
            let next = format!("<{address}?recursive=true&cursor={}>; rel=\"next\"", at + 2);
            let heads = [("Link", next.as_str())];
            let heads = if at + 2 < files.len() { &heads[..] } else { &[] };
            return Reply::answer("200 OK", heads, &Value::from(page).to_string());
        }
        let prefix = format!("/org/repo/resolve/{COMMIT}/");
        let Some((name, content)) = path.strip_prefix(&prefix).and_then(|name| files.get_key_value(name)) else {
            return Reply::status("404 Not Found");
        };
        if let Some(reply) = instead(request, name, content) {
            return reply;
        }
        match (request.line.starts_with("HEAD "), request.range_start()) {
            (true, _) => Reply::status("200 OK"),
            (_, Some(start)) => Reply::rest(content, start, &[("ETag", "\"one\"")]),
            _ => Reply::whole(content, &[("ETag", "\"one\"")]),
        }
    })
}

fn listed((name, content): (&String, &Vec<u8>)) -> Value {
    let mut entry = json!({"type": "file", "path": name, "size": content.len(), "oid": "0"});
    if name.ends_with(".safetensors") {
        entry["lfs"] = json!({"oid": digest_of(content).hex(), "size": content.len()});
    }
    entry
}

fn plain(files: &Files, lists: Lists) -> Origin {
    hub(files, lists, |_, _, _| None)
}

fn whole(hub: &Origin, folder: &Path) -> Order {
    let mut order = order(&hub.url(), folder);
    order.source = Source::parse("hf://org/repo", "main", &hub.url()).unwrap();
    order.dest = folder.join("repo");
    order
}

fn manifest_of(files: &Files) -> Digest {
    let mut manifest = Manifest::default();
    for (name, content) in files.lock().unwrap().iter() {
        manifest.add(name, digest_of(content), content.len() as u64);
    }
    manifest.digest()
}

fn names_in(folder: &Path) -> Vec<String> {
    let paths = windlass_registry::repository::folder::paths(folder).unwrap();
    let names = paths
        .iter()
        .map(|path| path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

fn gets(hub: &Origin, name: &str) -> Vec<Seen> {
    let wanted = format!("GET /org/repo/resolve/{COMMIT}/{name} ");
    hub.seen()
        .into_iter()
        .filter(|seen| seen.line.starts_with(&wanted))
        .collect()
}

#[tokio::test]
async fn a_repository_becomes_a_folder_with_its_facts_and_the_digest_of_its_manifest() {
    for lists in [Lists::TreeInPages, Lists::Siblings] {
        let files = files();
        let hub = plain(&files, lists);
        let folder = tempfile::tempdir().unwrap();
        let facts: ModelFacts = run(&whole(&hub, folder.path())).await.unwrap();
        assert_eq!(facts.digest, manifest_of(&files).to_string());
        assert_eq!(
            (facts.format.as_str(), facts.commit.as_deref()),
            ("safetensors", Some(COMMIT))
        );
        assert_eq!(
            (facts.architecture.as_deref(), facts.context_length),
            (Some("LlamaForCausalLM"), Some(2048))
        );
        assert_eq!(
            (facts.parameters, facts.quantization.as_deref()),
            (Some(2 << 20), Some("BF16"))
        );
        for (name, content) in files.lock().unwrap().iter() {
            assert_eq!(fs::read(folder.path().join("repo").join(name)).unwrap(), *content);
        }
        assert_eq!(support::names(folder.path()), ["repo"]);
    }
}

#[tokio::test]
async fn patterns_choose_what_is_fetched_and_what_the_digest_covers() {
    let files = files();
    files
        .lock()
        .unwrap()
        .insert("pytorch_model.bin".into(), b"pickle".to_vec());
    let hub = plain(&files, Lists::TreeInPages);
    let folder = tempfile::tempdir().unwrap();
    let mut wanted = whole(&hub, folder.path());
    let failed = run(&wanted).await.unwrap_err();
    assert_eq!(failed.reason(), FetchFailure::InvalidSource);
    assert!(
        failed.to_string().contains("pytorch_model.bin, which is a pickle"),
        "{failed}"
    );
    assert!(
        gets(&hub, "config.json").is_empty(),
        "nothing is fetched of what is refused"
    );
    wanted.patterns.ignore = vec!["*.bin".into(), "tokenizer/".into()];
    let facts = run(&wanted).await.unwrap();
    files
        .lock()
        .unwrap()
        .retain(|name, _| !name.ends_with(".bin") && !name.starts_with("tokenizer"));
    assert_eq!(facts.digest, manifest_of(&files).to_string());
    assert_eq!(names_in(&folder.path().join("repo")).len(), 3);
}

#[tokio::test]
async fn a_digest_is_that_of_the_manifest_and_another_one_is_refused() {
    let files = files();
    let hub = plain(&files, Lists::TreeInPages);
    let folder = tempfile::tempdir().unwrap();
    let mut wanted = whole(&hub, folder.path());
    wanted.demand.expected = Some(Expected::Asked(digest_of(b"other")));
    let failed = run(&wanted).await.unwrap_err();
    assert_eq!(failed.reason(), FetchFailure::DigestMismatch);
    assert!(!folder.path().join("repo").exists());
    wanted.demand.expected = Some(Expected::Asked(manifest_of(&files)));
    run(&wanted).await.unwrap();
    let asked = hub.seen().len();
    run(&wanted).await.unwrap();
    assert_eq!(hub.seen().len(), asked, "the folder is there and has the digest");
}

#[tokio::test]
async fn a_restarted_fetch_keeps_the_whole_files_and_resumes_the_one_that_was_cut() {
    let files = files();
    let stalls = Arc::new(Mutex::new(true));
    let stalling = stalls.clone();
    let hub = hub(&files, Lists::TreeInPages, move |_, name, content| {
        let stall = *stalling.lock().unwrap() && name.starts_with("model-00002");
        stall.then(|| Reply::whole(content, &[("ETag", "\"one\"")]).stalled(1000))
    });
    let folder = tempfile::tempdir().unwrap();
    let mut wanted = whole(&hub, folder.path());
    wanted.patience.attempts = 1;
    wanted.patience.stall = std::time::Duration::from_millis(500);
    assert_eq!(
        run(&wanted).await.unwrap_err().reason(),
        FetchFailure::SourceUnavailable
    );
    assert_eq!(support::names(folder.path()), ["repo.part"]);
    *stalls.lock().unwrap() = false;
    let facts = run(&whole(&hub, folder.path())).await.unwrap();
    assert_eq!(facts.digest, manifest_of(&files).to_string());
    assert_eq!(
        gets(&hub, "model-00001-of-00002.safetensors").len(),
        1,
        "it was whole and is not fetched again"
    );
    let second = &gets(&hub, "model-00002-of-00002.safetensors")[1];
    assert_eq!(second.range_start(), Some(weights(2).len() - 1000));
}

#[tokio::test]
async fn a_folder_is_replaced_only_by_a_verified_one_and_its_unchanged_files_are_reused() {
    let files = files();
    let hub = plain(&files, Lists::TreeInPages);
    let folder = tempfile::tempdir().unwrap();
    run(&whole(&hub, folder.path())).await.unwrap();
    let second = "model-00002-of-00002.safetensors";
    files.lock().unwrap().insert(second.into(), b"cut".to_vec());
    assert_eq!(
        run(&whole(&hub, folder.path())).await.unwrap_err().reason(),
        FetchFailure::InvalidFile
    );
    let repo = folder.path().join("repo");
    assert_eq!(fs::read(repo.join(second)).unwrap(), weights(2));
    files.lock().unwrap().insert(second.into(), weights(3));
    files.lock().unwrap().remove("tokenizer/tokenizer.json");
    run(&whole(&hub, folder.path())).await.unwrap();
    assert_eq!(fs::read(repo.join(second)).unwrap(), weights(3));
    assert!(!repo.join("tokenizer/tokenizer.json").exists());
    assert_eq!(gets(&hub, "model-00001-of-00002.safetensors").len(), 1);
    assert_eq!(support::names(folder.path()), ["repo"]);
}

#[tokio::test]
async fn a_file_that_is_not_what_the_listing_says_is_refused() {
    let files = files();
    let hub = hub(&files, Lists::TreeInPages, |_, name, _| {
        (name == "model-00001-of-00002.safetensors").then(|| Reply::whole(&weights(9), &[]))
    });
    let folder = tempfile::tempdir().unwrap();
    let failed = run(&whole(&hub, folder.path())).await.unwrap_err();
    assert_eq!(failed.reason(), FetchFailure::InvalidFile);
    assert!(
        failed.to_string().contains(&digest_of(&weights(1)).to_string()),
        "{failed}"
    );
}

#[tokio::test]
async fn names_that_leave_the_folder_are_refused_before_anything_is_written() {
    let files = files();
    files.lock().unwrap().insert("../../escaped".into(), b"x".to_vec());
    let hub = plain(&files, Lists::TreeInPages);
    let folder = tempfile::tempdir().unwrap();
    let failed = run(&whole(&hub, folder.path())).await.unwrap_err();
    assert_eq!(failed.reason(), FetchFailure::InvalidFile);
    assert!(failed.to_string().contains("leaves its folder"), "{failed}");
    assert!(support::names(folder.path()).is_empty());
}

#[tokio::test]
async fn a_repository_larger_than_the_limit_is_refused_by_its_listing() {
    let hub = plain(&files(), Lists::TreeInPages);
    let folder = tempfile::tempdir().unwrap();
    let mut wanted = whole(&hub, folder.path());
    wanted.demand.limit = Some(3 << 20);
    assert_eq!(run(&wanted).await.unwrap_err().reason(), FetchFailure::NoSpace);
    assert!(support::names(folder.path()).is_empty());
    // Where the listing has no sizes, the limit counts the bytes as they come.
    let hub = plain(&files(), Lists::Siblings);
    let mut wanted = whole(&hub, folder.path());
    wanted.demand.limit = Some(3 << 20);
    assert_eq!(run(&wanted).await.unwrap_err().reason(), FetchFailure::NoSpace);
    assert!(!folder.path().join("repo").exists());
}

#[tokio::test]
async fn remote_code_in_the_configuration_is_refused() {
    let files = files();
    let config = json!({"auto_map": {"AutoModel": "modeling_x.Model"}}).to_string();
    files.lock().unwrap().insert("config.json".into(), config.into_bytes());
    let hub = plain(&files, Lists::TreeInPages);
    let folder = tempfile::tempdir().unwrap();
    let mut wanted = whole(&hub, folder.path());
    let failed = run(&wanted).await.unwrap_err();
    assert!(
        failed.to_string().contains("modeling_x.py") && failed.to_string().contains("`*.py`"),
        "{failed}"
    );
    wanted.patterns.ignore = vec!["*.py".into()];
    run(&wanted).await.unwrap();
}

#[tokio::test]
async fn a_page_that_leads_to_another_host_does_not_get_the_token() {
    let elsewhere = Origin::start_hub(|_, _| Reply::answer("200 OK", &[], "[]"));
    let link = format!("<{}/next>; rel=\"next\"", elsewhere.url());
    let hub = Origin::start_hub(move |request, _| match request.line.contains("/tree/") {
        true => Reply::answer("200 OK", &[("Link", link.as_str())], "[]"),
        false => Reply::status("404 Not Found"),
    });
    let folder = tempfile::tempdir().unwrap();
    let failed = run(&support::with_token(whole(&hub, folder.path()), "secret"))
        .await
        .unwrap_err();
    assert_eq!(failed.reason(), FetchFailure::SourceUnavailable);
    assert!(elsewhere.seen().is_empty());
}

#[tokio::test]
async fn an_absent_repository_is_not_found_and_one_without_weights_is_no_model() {
    let absent = Origin::start(|_, _| Reply::status("404 Not Found"));
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(
        run(&whole(&absent, folder.path())).await.unwrap_err().reason(),
        FetchFailure::NotFound
    );
    let files = files();
    files.lock().unwrap().retain(|name, _| !name.ends_with(".safetensors"));
    let hub = plain(&files, Lists::TreeInPages);
    let failed = run(&whole(&hub, folder.path())).await.unwrap_err();
    assert_eq!(failed.reason(), FetchFailure::InvalidFile);
    assert!(failed.to_string().contains("no .safetensors file"), "{failed}");
}
