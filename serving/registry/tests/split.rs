//! GGUF models in several files: all parts or none, one digest, and their own names.
#![allow(clippy::unwrap_used)] // a test ends at the first surprise

mod support;

use std::fs;
use std::path::Path;

use windlass_api::fetch::FetchFailure;
use windlass_registry::download::Expected;
use windlass_registry::fetch::Order;
use windlass_registry::manifest::Manifest;
use windlass_registry::pattern::Patterns;
use windlass_registry::progress::Progress;
use windlass_registry::source::Source;
use windlass_registry::verify::verify;

use support::origin::{Origin, Reply};
use support::sample::Sample;
use support::{digest_of, names, order, run};

const NAMES: [&str; 2] = ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"];

fn part(number: usize) -> Vec<u8> {
    Sample {
        padding: number * 64,
        ..Sample::default()
    }
    .bytes()
}

/// A hub with both parts in a folder; `other` stands in for the second one.
fn hub(other: Option<Vec<u8>>) -> Origin {
    Origin::start_hub(move |request, _| {
        let Some(number) = NAMES
            .iter()
            .position(|name| request.line.contains(&format!("/Q4/{name} ")))
        else {
            return Reply::status("404 Not Found");
        };
        let content = other.clone().filter(|_| number == 1).unwrap_or_else(|| part(number));
        let (size, digest) = (content.len().to_string(), format!("\"{}\"", digest_of(&content).hex()));
        let heads = [("X-Linked-Size", size.as_str()), ("X-Linked-Etag", digest.as_str())];
        match request.line.starts_with("HEAD ") {
            true => Reply::head("200 OK", &heads),
            false => Reply::whole(&content, &heads),
        }
    })
}

fn split(hub: &Origin, folder: &Path) -> Order {
    let mut order = order(&hub.url(), folder);
    let source = format!("hf://org/repo/Q4/{}", NAMES[0]);
    order.source = Source::parse(&source, "main", &hub.url()).unwrap();
    order.dest = folder.join(NAMES[0]);
    order
}

fn digest() -> String {
    let mut manifest = Manifest::default();
    for (number, name) in NAMES.iter().enumerate() {
        manifest.add(name, digest_of(&part(number)), part(number).len() as u64);
    }
    manifest.digest().to_string()
}

#[tokio::test]
async fn all_parts_are_fetched_and_verify_under_one_digest() {
    let hub = hub(None);
    let folder = tempfile::tempdir().unwrap();
    let facts = run(&split(&hub, folder.path())).await.unwrap();
    assert_eq!(names(folder.path()), NAMES);
    assert_eq!(facts.digest, digest());
    assert_eq!(facts.size_bytes, (part(0).len() + part(1).len()) as u64);
    assert_eq!(
        (facts.format.as_str(), facts.parameters),
        ("GGUF", Some(2 * (64 * 32 + 64)))
    );
    let expected = Some(Expected::Asked(facts.digest.parse().unwrap()));
    let (file, volume) = (folder.path().join(NAMES[0]), folder.path().to_owned());
    let found = verify(
        file.clone(),
        volume.clone(),
        expected,
        Patterns::default(),
        &Progress::default(),
    )
    .await;
    assert_eq!(found.unwrap(), facts);
    fs::remove_file(folder.path().join(NAMES[1])).unwrap();
    let found = verify(file, volume, expected, Patterns::default(), &Progress::default()).await;
    assert_eq!(found.unwrap_err().reason(), FetchFailure::NotFound);
}

#[tokio::test]
async fn parts_that_are_there_are_not_fetched_again() {
    let hub = hub(None);
    let folder = tempfile::tempdir().unwrap();
    let mut wanted = split(&hub, folder.path());
    run(&wanted).await.unwrap();
    fs::remove_file(folder.path().join(NAMES[1])).unwrap();
    run(&wanted).await.unwrap();
    let gets = |name: &str| {
        let wanted = |line: &str| line.starts_with("GET /org") && line.contains(name);
        hub.seen().iter().filter(|seen| wanted(&seen.line)).count()
    };
    assert_eq!((gets(NAMES[0]), gets(NAMES[1])), (1, 2));
    let asked = hub.seen().len();
    wanted.demand.expected = Some(Expected::Recorded(digest().parse().unwrap()));
    run(&wanted).await.unwrap();
    assert_eq!(hub.seen().len(), asked);
}

#[tokio::test]
async fn no_part_has_its_name_while_another_one_is_no_model_or_the_digest_is_another_one() {
    for (other, expected, reason) in [
        (Some(b"<html>".to_vec()), None, FetchFailure::InvalidFile),
        (
            None,
            Some(Expected::Asked(digest_of(b"other"))),
            FetchFailure::DigestMismatch,
        ),
    ] {
        let hub = hub(other);
        let folder = tempfile::tempdir().unwrap();
        let mut wanted = split(&hub, folder.path());
        wanted.demand.expected = expected;
        assert_eq!(run(&wanted).await.unwrap_err().reason(), reason);
        assert!(names(folder.path()).is_empty());
    }
}

#[tokio::test]
async fn parts_larger_than_the_limit_together_are_refused_before_they_are_fetched() {
    let hub = hub(None);
    let folder = tempfile::tempdir().unwrap();
    let mut wanted = split(&hub, folder.path());
    wanted.demand.limit = Some(part(0).len() as u64 + 1);
    assert_eq!(run(&wanted).await.unwrap_err().reason(), FetchFailure::NoSpace);
    assert!(hub.seen().iter().all(|seen| !seen.line.starts_with("GET /org")));
}

#[tokio::test]
async fn a_dest_with_another_name_and_a_later_part_are_refused_with_the_right_name() {
    let hub = hub(None);
    let folder = tempfile::tempdir().unwrap();
    let mut wanted = split(&hub, folder.path());
    wanted.dest = folder.path().join("model.gguf");
    let message = run(&wanted).await.unwrap_err().to_string();
    assert!(message.contains(&format!("end --dest with {}", NAMES[0])), "{message}");
    let second = format!("hf://org/repo/Q4/{}", NAMES[1]);
    wanted.source = Source::parse(&second, "main", &hub.url()).unwrap();
    let message = run(&wanted).await.unwrap_err().to_string();
    assert!(message.contains(NAMES[0]), "{message}");
}
