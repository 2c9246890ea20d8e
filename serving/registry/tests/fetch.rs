//! Fetching from origins that behave and from origins that do not.
#![allow(clippy::unwrap_used)] // a test ends at the first surprise

mod support;

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use windlass_api::fetch::FetchFailure;
use windlass_registry::download::Expected;

use support::origin::{Origin, Reply};
use support::{asked, digest_of, model, names, order, run, with_token};

const ETAG: (&str, &str) = ("ETag", "\"one\"");

/// Serves ranges of the content as a well-behaved host does.
fn rest_or_whole(content: &[u8], start: Option<usize>) -> Reply {
    match start {
        Some(start) => Reply::rest(content, start, &[ETAG]),
        None => Reply::whole(content, &[ETAG]),
    }
}

#[tokio::test]
async fn a_good_source_becomes_a_verified_file_with_its_facts() {
    let content = Arc::new(model());
    let served = content.clone();
    let origin = Origin::start(move |_, _| Reply::whole(&served, &[]));
    let folder = tempfile::tempdir().unwrap();
    let facts = run(&order(&origin.url(), &folder.path().join("new/folder")))
        .await
        .unwrap();
    assert_eq!(facts.digest, digest_of(&content).to_string());
    assert_eq!(
        (facts.size_bytes, facts.architecture.as_deref()),
        (content.len() as u64, Some("llama"))
    );
    assert_eq!(fs::read(folder.path().join("new/folder/model.gguf")).unwrap(), *content);
    assert_eq!(names(&folder.path().join("new/folder")), ["model.gguf"]);
    assert_eq!(origin.seen()[0].line, "GET /org/repo/resolve/main/model.gguf HTTP/1.1");
}

#[tokio::test]
async fn a_connection_that_breaks_is_resumed_at_the_same_byte() {
    let content = Arc::new(model());
    let served = content.clone();
    let origin = Origin::start(move |request, number| {
        let reply = rest_or_whole(&served, request.range_start());
        if number == 0 { reply.cut(1000) } else { reply }
    });
    let folder = tempfile::tempdir().unwrap();
    run(&order(&origin.url(), folder.path())).await.unwrap();
    assert_eq!(fs::read(folder.path().join("model.gguf")).unwrap(), *content);
    let second = &origin.seen()[1];
    assert_eq!(second.range_start(), Some(content.len() - 1000));
    assert_eq!(second.header("if-range"), Some("\"one\""));
}

#[tokio::test]
async fn a_restarted_fetch_goes_on_with_what_the_earlier_one_left() {
    let content = Arc::new(model());
    let served = content.clone();
    let origin = Origin::start(move |request, number| {
        let reply = rest_or_whole(&served, request.range_start());
        if number < 1 { reply.stalled(1000) } else { reply }
    });
    let folder = tempfile::tempdir().unwrap();
    let mut once = order(&origin.url(), folder.path());
    once.patience.attempts = 1;
    once.patience.stall = Duration::from_secs(1);
    assert_eq!(run(&once).await.unwrap_err().reason(), FetchFailure::SourceUnavailable);
    assert_eq!(names(folder.path()), ["model.gguf.part", "model.gguf.part.json"]);
    run(&once).await.unwrap();
    assert_eq!(origin.seen()[1].range_start(), Some(content.len() - 1000));
    assert_eq!(fs::read(folder.path().join("model.gguf")).unwrap(), *content);
}

#[tokio::test]
async fn a_source_that_stalls_is_left_and_asked_again_but_not_for_ever() {
    let content = Arc::new(model());
    let served = content.clone();
    let origin = Origin::start(move |request, _| rest_or_whole(&served, request.range_start()).stalled(500));
    let folder = tempfile::tempdir().unwrap();
    let mut impatient = order(&origin.url(), folder.path());
    impatient.patience.stall = Duration::from_millis(300);
    let failed = run(&impatient).await.unwrap_err();
    assert_eq!(failed.reason(), FetchFailure::SourceUnavailable);
    assert!(failed.to_string().contains("not a byte for 300ms"), "{failed}");
    assert!(names(folder.path()).contains(&"model.gguf.part".to_owned()));
}

#[tokio::test]
async fn a_source_that_always_ends_early_is_an_invalid_file() {
    let origin = Origin::start(|_, _| Reply::whole(&model(), &[]).cut(1000));
    let folder = tempfile::tempdir().unwrap();
    let failed = run(&order(&origin.url(), folder.path())).await.unwrap_err();
    assert_eq!(failed.reason(), FetchFailure::InvalidFile);
    let announced = model().len();
    assert!(
        failed.to_string().contains(&format!("{} bytes", announced - 1000)),
        "{failed}"
    );
    assert!(failed.to_string().contains(&announced.to_string()), "{failed}");
    // Without a validator each attempt began at zero, and starting over did not count as progress.
    assert_eq!(origin.seen().len(), 3);
}

#[tokio::test]
async fn a_source_without_ranges_is_read_from_the_start_again() {
    let content = Arc::new(model());
    let served = content.clone();
    let origin = Origin::start(move |_, number| {
        let reply = Reply::whole(&served, &[ETAG]);
        if number == 0 { reply.cut(1000) } else { reply }
    });
    let folder = tempfile::tempdir().unwrap();
    let facts = run(&order(&origin.url(), folder.path())).await.unwrap();
    assert_eq!(facts.digest, digest_of(&content).to_string());
}

#[tokio::test]
async fn a_file_replaced_during_the_download_is_never_mixed_with_its_successor() {
    let old = Arc::new(model());
    let new = Arc::new(
        support::sample::Sample {
            padding: (3 << 20) + 32,
            ..Default::default()
        }
        .bytes(),
    );
    let (before, after) = (old.clone(), new.clone());
    let origin = Origin::start(move |request, number| match (number, request.range_start()) {
        (0, _) => Reply::whole(&before, &[ETAG]).cut(1000),
        // Ignores If-Range, as careless hosts do.
        (_, Some(start)) => Reply::rest(&after, start, &[("ETag", "\"two\"")]),
        (_, None) => Reply::whole(&after, &[("ETag", "\"two\"")]),
    });
    let folder = tempfile::tempdir().unwrap();
    let facts = run(&order(&origin.url(), folder.path())).await.unwrap();
    assert_eq!(facts.digest, digest_of(&new).to_string());
}

#[tokio::test]
async fn pieces_that_do_not_belong_together_are_fetched_once_more_as_a_whole() {
    let content = Arc::new(model());
    let mut damaged = content.to_vec();
    damaged[2000] ^= 1;
    let served = content.clone();
    let origin = Origin::start(move |request, number| match (number, request.range_start()) {
        (0, _) => Reply::whole(&damaged, &[]).cut(1000),
        (_, Some(start)) => Reply::rest(&served, start, &[]),
        (_, None) => Reply::whole(&served, &[]),
    });
    let folder = tempfile::tempdir().unwrap();
    run(&asked(order(&origin.url(), folder.path()), digest_of(&content)))
        .await
        .unwrap();
    assert_eq!(origin.seen().len(), 3);
}

#[tokio::test]
async fn passing_trouble_of_the_server_is_waited_for() {
    let origin = Origin::start(|_, number| match number {
        0 => Reply::status("500 Internal Server Error"),
        1 => Reply::head(
            "429 Too Many Requests",
            &[("Retry-After", "0"), ("Content-Length", "0")],
        ),
        _ => Reply::whole(&model(), &[]),
    });
    let folder = tempfile::tempdir().unwrap();
    run(&order(&origin.url(), folder.path())).await.unwrap();
    assert_eq!(origin.seen().len(), 3);
}

#[tokio::test]
async fn lasting_trouble_of_the_server_ends_after_the_permitted_attempts() {
    let origin = Origin::start(|_, _| Reply::status("503 Service Unavailable"));
    let folder = tempfile::tempdir().unwrap();
    let failed = run(&order(&origin.url(), folder.path())).await.unwrap_err();
    assert_eq!(failed.reason(), FetchFailure::SourceUnavailable);
    assert!(
        failed.to_string().contains("3 attempts") && failed.to_string().contains("503"),
        "{failed}"
    );
    assert_eq!(origin.seen().len(), 3);
}

#[tokio::test]
async fn a_source_that_nobody_serves_is_unavailable() {
    let url = Origin::start(|_, _| Reply::status("200 OK")).url(); // dropped at once
    let folder = tempfile::tempdir().unwrap();
    let failed = run(&order(&url, folder.path())).await.unwrap_err();
    assert_eq!(failed.reason(), FetchFailure::SourceUnavailable);
}

#[tokio::test]
async fn a_missing_file_is_not_asked_for_twice() {
    let origin = Origin::start(|_, _| {
        Reply::head(
            "404 Not Found",
            &[("X-Error-Code", "RevisionNotFound"), ("Content-Length", "0")],
        )
    });
    let folder = tempfile::tempdir().unwrap();
    let failed = run(&order(&origin.url(), folder.path())).await.unwrap_err();
    assert_eq!(failed.reason(), FetchFailure::NotFound);
    assert!(
        failed
            .to_string()
            .contains("hf://org/repo/model.gguf does not exist (RevisionNotFound)"),
        "{failed}"
    );
    assert_eq!(origin.seen().len(), 1);
}

#[tokio::test]
async fn content_with_another_digest_is_refused_and_removed() {
    let origin = Origin::start(|_, _| Reply::whole(&model(), &[]));
    let folder = tempfile::tempdir().unwrap();
    let other = digest_of(b"other");
    let failed = run(&asked(order(&origin.url(), folder.path()), other))
        .await
        .unwrap_err();
    assert_eq!(failed.reason(), FetchFailure::DigestMismatch);
    for part in [
        other.to_string(),
        digest_of(&model()).to_string(),
        "spec.model.digest".to_owned(),
    ] {
        assert!(failed.to_string().contains(&part), "{failed}");
    }
    assert!(names(folder.path()).is_empty());
}

#[tokio::test]
async fn a_moved_source_is_told_apart_from_a_wrong_digest_before_its_bytes_are_fetched() {
    let announced = format!("\"{}\"", digest_of(&model()).hex());
    let origin = Origin::start(move |_, _| {
        // The body never comes: the answer's head must be enough.
        Reply::whole(&model(), &[("X-Linked-Etag", announced.as_str())]).stalled(model().len())
    });
    let folder = tempfile::tempdir().unwrap();
    let mut pinned = order(&origin.url(), folder.path());
    pinned.demand.expected = Some(Expected::Recorded(digest_of(b"as it was")));
    let failed = run(&pinned).await.unwrap_err();
    assert_eq!(failed.reason(), FetchFailure::DigestMismatch);
    assert!(failed.to_string().contains("the source moved"), "{failed}");
    assert!(failed.to_string().contains("spec.model.revision"), "{failed}");
}

#[tokio::test]
async fn a_file_that_differs_from_what_its_hub_announced_is_invalid() {
    let size = model().len();
    let wrong_digest = format!("\"{}\"", digest_of(b"other").hex());
    let (shorter, longer) = ((size - 1).to_string(), (size + 1).to_string());
    for (name, value) in [
        ("X-Linked-Size", shorter),
        ("X-Linked-Size", longer),
        ("X-Linked-Etag", wrong_digest),
    ] {
        for framed in [Reply::whole, Reply::chunked] {
            let announced = value.clone();
            let origin = Origin::start(move |_, _| framed(&model(), &[(name, announced.as_str())]));
            let folder = tempfile::tempdir().unwrap();
            let failed = run(&order(&origin.url(), folder.path())).await.unwrap_err();
            assert_eq!(failed.reason(), FetchFailure::InvalidFile, "{name}: {value}: {failed}");
            assert!(!folder.path().join("model.gguf").exists());
        }
    }
}

#[tokio::test]
async fn a_page_instead_of_a_model_is_described() {
    let page = b"<!DOCTYPE html><html><head><title>Please sign in</title></head></html>";
    let origin = Origin::start(move |_, _| Reply::whole(page, &[]));
    let folder = tempfile::tempdir().unwrap();
    for order in [
        order(&origin.url(), folder.path()),
        asked(order(&origin.url(), folder.path()), digest_of(b"x")),
    ] {
        let failed = run(&order).await.unwrap_err();
        assert_eq!(failed.reason(), FetchFailure::InvalidFile);
        assert!(failed.to_string().contains("Please sign in"), "{failed}");
        assert!(names(folder.path()).is_empty());
    }
}

#[tokio::test]
async fn a_file_larger_than_the_volume_or_the_limit_is_refused_before_a_byte_is_written() {
    let huge = (1_u64 << 60).to_string();
    let origin = Origin::start(move |_, _| Reply::head("200 OK", &[("Content-Length", huge.as_str())]));
    let folder = tempfile::tempdir().unwrap();
    let mut wanted = order(&origin.url(), folder.path());
    let failed = run(&wanted).await.unwrap_err();
    assert_eq!(failed.reason(), FetchFailure::NoSpace);
    assert!(failed.to_string().contains("its volume has"), "{failed}");
    wanted.demand.limit = Some(1 << 30);
    let failed = run(&wanted).await.unwrap_err();
    assert_eq!(failed.reason(), FetchFailure::NoSpace);
    assert!(failed.to_string().contains("limit of 1073741824"), "{failed}");
    assert_eq!(fs::metadata(folder.path().join("model.gguf.part")).unwrap().len(), 0);
}

#[tokio::test]
async fn a_limit_also_holds_where_no_size_is_announced() {
    let origin = Origin::start(|_, _| Reply::chunked(&model(), &[]));
    let folder = tempfile::tempdir().unwrap();
    let mut wanted = order(&origin.url(), folder.path());
    wanted.demand.limit = Some(1 << 20);
    assert_eq!(run(&wanted).await.unwrap_err().reason(), FetchFailure::NoSpace);
    assert!(names(folder.path()).is_empty());
}

#[tokio::test]
async fn a_token_stays_at_the_origin_of_the_source() {
    let cdn = Origin::start(|_, _| Reply::whole(&model(), &[]));
    let target = format!("{}/signed", cdn.url());
    let origin = Origin::start(move |_, number| match number {
        0 => Reply::redirect("/elsewhere/on/the/same/origin"),
        _ => Reply::redirect(&target),
    });
    let folder = tempfile::tempdir().unwrap();
    run(&with_token(order(&origin.url(), folder.path()), "secret"))
        .await
        .unwrap();
    let tokens: Vec<_> = origin
        .seen()
        .iter()
        .map(|seen| seen.header("authorization").map(str::to_owned))
        .collect();
    assert_eq!(
        tokens,
        [Some("Bearer secret".to_owned()), Some("Bearer secret".to_owned())]
    );
    assert_eq!(cdn.seen()[0].header("authorization"), None);
}

#[tokio::test]
async fn a_token_is_not_sent_again_after_a_detour() {
    let home = Arc::new(std::sync::Mutex::new(String::new()));
    let back = home.clone();
    let cdn = Origin::start(move |_, _| Reply::redirect(&format!("{}/back", back.lock().unwrap())));
    let target = cdn.url();
    let origin = Origin::start(move |_, number| match number {
        0 => Reply::redirect(&target),
        _ => Reply::whole(&model(), &[]),
    });
    *home.lock().unwrap() = origin.url();
    let folder = tempfile::tempdir().unwrap();
    run(&with_token(order(&origin.url(), folder.path()), "secret"))
        .await
        .unwrap();
    assert_eq!(origin.seen()[1].header("authorization"), None);
}

#[tokio::test]
async fn redirects_end() {
    let origin = Origin::start(|_, _| Reply::redirect("/again"));
    let folder = tempfile::tempdir().unwrap();
    let failed = run(&order(&origin.url(), folder.path())).await.unwrap_err();
    assert_eq!(failed.reason(), FetchFailure::SourceUnavailable);
    assert_eq!(origin.seen().len(), 11);
}

#[tokio::test]
async fn missing_and_refused_credentials_are_different_reasons() {
    let origin = Origin::start(|_, number| Reply::status(["401 Unauthorized", "403 Forbidden"][number % 2]));
    let folder = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let failed = run(&order(&origin.url(), folder.path())).await.unwrap_err();
        assert_eq!(failed.reason(), FetchFailure::CredentialsRequired);
    }
    for _ in 0..2 {
        let failed = run(&with_token(order(&origin.url(), folder.path()), "secret"))
            .await
            .unwrap_err();
        assert_eq!(failed.reason(), FetchFailure::CredentialsRejected);
        assert!(!failed.to_string().contains("secret "), "{failed}");
    }
}

#[tokio::test]
async fn an_expired_link_of_a_redirect_is_renewed_at_the_source() {
    let cdn = Origin::start(|_, number| match number {
        0 => Reply::status("403 Forbidden"),
        _ => Reply::whole(&model(), &[]),
    });
    let target = format!("{}/signed", cdn.url());
    let origin = Origin::start(move |_, _| Reply::redirect(&target));
    let folder = tempfile::tempdir().unwrap();
    run(&with_token(order(&origin.url(), folder.path()), "secret"))
        .await
        .unwrap();
    assert_eq!((origin.seen().len(), cdn.seen().len()), (2, 2));
}

#[tokio::test]
async fn a_file_that_is_there_is_checked_and_used_without_a_download() {
    let content = model();
    let announced = format!("\"{}\"", digest_of(&content).hex());
    let origin = Origin::start_hub(move |_, _| Reply::head("200 OK", &[("X-Linked-Etag", announced.as_str())]));
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("model.gguf"), &content).unwrap();
    run(&asked(order(&origin.url(), folder.path()), digest_of(&content)))
        .await
        .unwrap();
    assert!(origin.seen().is_empty(), "the digest was known");
    run(&order(&origin.url(), folder.path())).await.unwrap();
    assert!(
        origin.seen().iter().all(|seen| seen.line.starts_with("HEAD ")),
        "the source announces the digest"
    );
    assert_eq!(names(folder.path()), ["model.gguf"]);
}

#[tokio::test]
async fn a_file_with_other_content_is_replaced_only_by_a_verified_one() {
    let content = Arc::new(model());
    let served = content.clone();
    let origin = Origin::start(move |_, number| match number {
        0 => Reply::status("404 Not Found"),
        _ => Reply::whole(&served, &[]),
    });
    let folder = tempfile::tempdir().unwrap();
    let dest = folder.path().join("model.gguf");
    fs::write(&dest, "old").unwrap();
    let wanted = asked(order(&origin.url(), folder.path()), digest_of(&content));
    assert_eq!(run(&wanted).await.unwrap_err().reason(), FetchFailure::NotFound);
    assert_eq!(fs::read(&dest).unwrap(), b"old");
    run(&wanted).await.unwrap();
    assert_eq!(fs::read(&dest).unwrap(), *content);
}

#[tokio::test]
async fn a_compressed_answer_is_refused() {
    let origin = Origin::start(|_, _| Reply::whole(b"\x1f\x8b\x08", &[("Content-Encoding", "gzip")]));
    let folder = tempfile::tempdir().unwrap();
    let failed = run(&order(&origin.url(), folder.path())).await.unwrap_err();
    assert_eq!(failed.reason(), FetchFailure::SourceUnavailable);
    assert!(failed.to_string().contains("compressed"), "{failed}");
}
