//! The read-only hub on the wire, and a fetch from it.
#![allow(clippy::unwrap_used)] // a test ends at the first surprise

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::sync::oneshot;
use windlass_api::fetch::{FetchFailure, ModelFacts};
use windlass_registry::commit::Commit;
use windlass_registry::download::Expected;
use windlass_registry::pattern::Patterns;
use windlass_registry::progress::Progress;
use windlass_registry::serve::{Hub, Limits, serve};
use windlass_registry::source::Source;
use windlass_registry::verify::verify;

use support::{digest_of, model, order, run, with_token};

/// A hub over a folder with `org/repo/model.gguf`; it stops when this is dropped.
struct Served {
    folder: tempfile::TempDir,
    address: SocketAddr,
    _stop: oneshot::Sender<()>,
}

impl Served {
    async fn start(token: Option<&str>) -> Served {
        Served::with(token, Limits::default()).await
    }

    async fn with(token: Option<&str>, limits: Limits) -> Served {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("root/org/repo")).unwrap();
        fs::write(folder.path().join("root/org/repo/model.gguf"), model()).unwrap();
        fs::write(folder.path().join("secret"), "not for you").unwrap();
        let hub = Hub::open(folder.path().join("root"), token, limits).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        tokio::spawn(serve(listener, hub, async {
            stopped.await.unwrap_or_default();
        }));
        Served {
            folder,
            address,
            _stop: stop,
        }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Sends exactly these lines and returns status line with headers, in lower case, and the body.
    async fn ask(&self, method: &str, path: &str, headers: &str) -> (String, Vec<u8>) {
        let (address, request) = (
            self.address,
            format!("{method} {path} HTTP/1.1\r\nhost: hub\r\nconnection: close\r\n{headers}\r\n"),
        );
        let answer = tokio::task::spawn_blocking(move || {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).unwrap();
            answer
        });
        let answer = answer.await.unwrap();
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        (
            String::from_utf8(answer[..end].to_vec()).unwrap().to_lowercase(),
            answer[end + 4..].to_vec(),
        )
    }
}

const FILE: &str = "/org/repo/resolve/main/model.gguf";

#[tokio::test]
async fn a_fetch_from_the_hub_verifies() {
    let hub = Served::start(None).await;
    let folder = tempfile::tempdir().unwrap();
    let facts = run(&order(&hub.url(), folder.path())).await.unwrap();
    assert_eq!(facts.digest, digest_of(&model()).to_string());
}

#[tokio::test]
async fn a_head_and_a_get_have_the_headers_of_the_hub() {
    let hub = Served::start(None).await;
    let hex = digest_of(&model()).hex();
    for method in ["HEAD", "GET"] {
        let (head, body) = hub.ask(method, FILE, "").await;
        assert!(head.starts_with("http/1.1 200"), "{head}");
        for line in [
            format!("\netag: \"{hex}\""),
            format!("\nx-linked-etag: \"{hex}\""),
            format!("\nx-linked-size: {}", model().len()),
            format!("\ncontent-length: {}", model().len()),
            "\naccept-ranges: bytes".to_owned(),
        ] {
            assert!(head.contains(&line), "{line:?} is not in {head}");
        }
        assert_eq!(body, if method == "GET" { model() } else { Vec::new() });
    }
}

#[tokio::test]
async fn ranges_give_their_bytes_and_if_range_guards_them() {
    let hub = Served::start(None).await;
    let (content, hex) = (model(), digest_of(&model()).hex());
    let (head, body) = hub.ask("GET", FILE, "range: bytes=10-19\r\n").await;
    assert!(
        head.starts_with("http/1.1 206") && head.contains(&format!("bytes 10-19/{}", content.len())),
        "{head}"
    );
    assert_eq!(body, &content[10..20]);
    let rest = format!("range: bytes=1000000-\r\nif-range: \"{hex}\"\r\n");
    assert_eq!(hub.ask("GET", FILE, &rest).await.1, &content[1_000_000..]);
    let (head, body) = hub.ask("GET", FILE, "range: bytes=10-\r\nif-range: \"old\"\r\n").await;
    assert!(head.starts_with("http/1.1 200") && body == content, "{head}");
    let (head, _) = hub
        .ask("GET", FILE, &format!("range: bytes={}-\r\n", content.len()))
        .await;
    assert!(
        head.starts_with("http/1.1 416") && head.contains(&format!("bytes */{}", content.len())),
        "{head}"
    );
}

/// The value of a header of an answer's head.
fn header(head: &str, name: &str) -> String {
    let line = head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
    line.unwrap_or_else(|| panic!("no {name} in {head}")).to_owned()
}

#[tokio::test]
async fn the_commit_that_the_hub_names_is_a_revision_and_others_are_not() {
    let hub = Served::start(None).await;
    let commit = header(&hub.ask("HEAD", FILE, "").await.0, "x-repo-commit");
    assert_eq!(commit.len(), 40);
    for path in [
        format!("/org/repo/resolve/{commit}/model.gguf"),
        format!("/api/models/org/repo/revision/{commit}"),
        format!("/api/models/org/repo/tree/{commit}"),
    ] {
        let (head, _) = hub.ask("HEAD", &path, "").await;
        assert!(head.starts_with("http/1.1 200"), "{head}");
        assert_eq!(header(&head, "x-repo-commit"), commit);
    }
    for path in ["/org/repo/resolve/v9/model.gguf", "/api/models/org/repo/tree/v9"] {
        let (head, _) = hub.ask("HEAD", path, "").await;
        assert!(
            head.starts_with("http/1.1 404") && head.contains("x-error-code: revisionnotfound"),
            "{head}"
        );
    }
}

#[tokio::test]
async fn a_repository_is_described_and_its_tree_comes_in_pages() {
    let hub = Served::start(None).await;
    let repository = hub.folder.path().join("root/org/repo");
    fs::create_dir(repository.join("sub")).unwrap();
    fs::write(repository.join("sub/config.json"), "{}").unwrap();
    let json = |body: &[u8]| serde_json::from_slice::<serde_json::Value>(body).unwrap();
    let (head, body) = hub.ask("GET", "/api/models/org/repo", "").await;
    assert_eq!(json(&body)["sha"], header(&head, "x-repo-commit"));
    assert_eq!(json(&body)["siblings"][1]["rfilename"], "sub/config.json");
    let tree = "/api/models/org/repo/tree/main?recursive=true&limit=1";
    let (head, body) = hub.ask("GET", tree, "").await;
    assert_eq!(
        (json(&body)[0]["path"].as_str(), json(&body)[0]["lfs"].as_object()),
        (Some("model.gguf"), None)
    );
    hub.ask("HEAD", FILE, "").await; // computes the digest
    let known = json(&hub.ask("GET", tree, "").await.1);
    assert_eq!(known[0]["lfs"]["oid"], digest_of(&model()).hex());
    let next = header(&head, "link");
    let next = next
        .strip_prefix("<http://hub")
        .unwrap()
        .strip_suffix(">; rel=\"next\"")
        .unwrap()
        .to_owned();
    let (head, body) = hub.ask("GET", &next, "").await;
    assert_eq!(
        (json(&body)[0]["path"].as_str(), json(&body)[0]["size"].as_u64()),
        (Some("sub/config.json"), Some(2))
    );
    assert!(!head.contains("link:"), "{head}");
}

#[tokio::test]
async fn a_fetch_from_the_hub_reports_its_commit_and_works_by_that_commit() {
    let hub = Served::start(None).await;
    let commit = header(&hub.ask("HEAD", FILE, "").await.0, "x-repo-commit");
    let folder = tempfile::tempdir().unwrap();
    let mut wanted = order(&hub.url(), folder.path());
    assert_eq!(run(&wanted).await.unwrap().commit.as_ref(), Some(&commit));
    wanted.commit = Commit::from_hex(&commit);
    wanted.dest = folder.path().join("again.gguf");
    assert_eq!(run(&wanted).await.unwrap().commit.as_ref(), Some(&commit));
}

#[tokio::test]
async fn a_repository_of_the_hub_is_fetched_whole_and_verifies_as_a_folder() {
    let hub = Served::start(None).await;
    let repository = hub.folder.path().join("root/org/encoder");
    fs::create_dir_all(repository.join("tokenizer")).unwrap();
    let head = r#"{"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}}"#;
    let weights = [&(head.len() as u64).to_le_bytes()[..], head.as_bytes(), &[0; 4]].concat();
    fs::write(repository.join("model.safetensors"), &weights).unwrap();
    fs::write(repository.join("config.json"), r#"{"model_type":"bert"}"#).unwrap();
    fs::write(repository.join("tokenizer/vocab.txt"), "a").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let volume = folder.path().canonicalize().unwrap();
    let mut wanted = order(&hub.url(), &volume);
    wanted.source = Source::parse("hf://org/encoder", "main", &hub.url()).unwrap();
    wanted.dest = volume.join("encoder");
    let fetched = run(&wanted).await.unwrap();
    assert_eq!(fetched.architecture.as_deref(), Some("bert"));
    // What downloaders keep in a folder for themselves does not count.
    fs::create_dir_all(wanted.dest.join(".cache/huggingface")).unwrap();
    fs::write(wanted.dest.join(".cache/huggingface/x.lock"), "").unwrap();
    let progress = Progress::default();
    let verified = |patterns: Patterns, expected: &str| {
        let expected = Some(Expected::Asked(expected.parse().unwrap()));
        verify(wanted.dest.clone(), volume.clone(), expected, patterns, &progress)
    };
    let found = verified(Patterns::default(), &fetched.digest).await.unwrap();
    assert_eq!(
        ModelFacts {
            commit: None,
            ..fetched.clone()
        },
        found
    );
    let some = Patterns {
        allow: vec!["*.safetensors".into()],
        ignore: Vec::new(),
    };
    let failed = verified(some, &fetched.digest).await.unwrap_err();
    assert_eq!(failed.reason(), FetchFailure::DigestMismatch);
    std::os::unix::fs::symlink("/etc/hostname", wanted.dest.join("link")).unwrap();
    let failed = verified(Patterns::default(), &fetched.digest).await.unwrap_err();
    assert_eq!(failed.reason(), FetchFailure::InvalidSource, "{failed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_that_take_nothing_do_not_keep_others_from_downloading() {
    let limits = Limits {
        downloads: 2,
        allowance: Duration::from_millis(100),
    };
    let hub = Served::with(None, limits).await;
    // More than the buffers of both sides hold.
    let large = fs::File::create(hub.folder.path().join("root/org/repo/large")).unwrap();
    large.set_len(32 << 20).unwrap();
    let idle: Vec<TcpStream> = (0..limits.downloads)
        .map(|_| {
            let mut stream = TcpStream::connect(hub.address).unwrap();
            stream
                .write_all(b"GET /org/repo/resolve/main/large HTTP/1.1\r\nhost: hub\r\n\r\n")
                .unwrap();
            stream.read_exact(&mut [0; 12]).unwrap(); // it is being served
            stream
        })
        .collect();
    let begun = Instant::now();
    let mut refused = 0;
    loop {
        let (head, body) = hub.ask("GET", FILE, "").await;
        if head.starts_with("http/1.1 200") {
            assert_eq!(body, model());
            break;
        }
        assert!(
            head.starts_with("http/1.1 503") && head.contains("retry-after"),
            "{head}"
        );
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "the idle readers keep all downloads"
        );
        refused += 1;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(refused > 0, "the idle readers had all downloads at first");
    drop(idle);
}

#[tokio::test]
async fn nothing_outside_the_folder_is_found() {
    let hub = Served::start(None).await;
    assert!(hub.folder.path().join("secret").is_file());
    std::os::unix::fs::symlink("../../../secret", hub.folder.path().join("root/org/repo/link")).unwrap();
    for path in [
        "/",
        "/secret",
        "/org/repo/resolve/main/link",
        "/org/repo/resolve/main/absent",
        "/org/repo/resolve/main/../../../secret",
        "/org/repo/resolve/main/%2e%2e/%2e%2e/%2e%2e/secret",
        "/org/repo/resolve/main/..%2f..%2f..%2fsecret",
        "/%2e%2e/%2e%2e/resolve/main/secret",
        "//org/repo/resolve/main/model.gguf",
        "/org/repo/resolve/main",
        "/org/repo/raw/main/model.gguf",
    ] {
        let (head, body) = hub.ask("GET", path, "").await;
        assert!(head.starts_with("http/1.1 404"), "{path}: {head}");
        assert!(!String::from_utf8_lossy(&body).contains("not for you"));
    }
}

#[tokio::test]
async fn the_hub_is_read_only_and_says_that_it_lives() {
    let hub = Served::start(Some("secret")).await;
    assert!(
        hub.ask("PUT", FILE, "authorization: Bearer secret\r\n")
            .await
            .0
            .starts_with("http/1.1 405")
    );
    assert!(hub.ask("GET", "/health", "").await.0.starts_with("http/1.1 200"));
}

#[tokio::test]
async fn a_hub_with_a_token_refuses_to_serve_without_it() {
    let hub = Served::start(Some("secret\n")).await;
    for headers in [
        "",
        "authorization: Bearer wrong\r\n",
        "authorization: Basic secret\r\n",
        "authorization: secret\r\n",
    ] {
        let (head, _) = hub.ask("GET", FILE, headers).await;
        assert!(
            head.starts_with("http/1.1 401") && head.contains("www-authenticate: bearer"),
            "{head}"
        );
    }
    let folder = tempfile::tempdir().unwrap();
    let bare = order(&hub.url(), folder.path());
    assert_eq!(
        run(&bare).await.unwrap_err().reason(),
        FetchFailure::CredentialsRequired
    );
    let wrong = with_token(order(&hub.url(), folder.path()), "wrong");
    assert_eq!(
        run(&wrong).await.unwrap_err().reason(),
        FetchFailure::CredentialsRejected
    );
    run(&with_token(order(&hub.url(), folder.path()), "secret"))
        .await
        .unwrap();
}
