//! The binary: exit status, report, progress, signals, and what it must never print.
#![allow(clippy::unwrap_used)] // a test ends at the first surprise

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use windlass_api::fetch::{FetchFailure, FetchPhase, FetchReport};
use windlass_api::verify::{RuntimePhase, RuntimeReport};

use support::origin::{Origin, Reply};
use support::{digest_of, model, names};

/// The command with an environment of its own.
fn registry(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_windlass-registry"));
    command
        .args(arguments)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Fetches the origin's model to `dest`.
fn fetch(origin: &Origin, dest: &Path) -> Command {
    let mut command = registry(&["fetch", "--source", "hf://org/repo/model.gguf"]);
    command.args(["--hub-url", &origin.url()]).arg("--dest").arg(dest);
    command
}

fn report(path: &Path) -> FetchReport {
    let text = fs::read(path).unwrap();
    assert!(text.len() <= 4096);
    serde_json::from_slice(&text).unwrap()
}

#[test]
fn a_verified_fetch_exits_with_zero_and_reports_the_facts() {
    let origin = Origin::start(|_, _| Reply::whole(&model(), &[]));
    let folder = tempfile::tempdir().unwrap();
    let (dest, log) = (folder.path().join("model.gguf"), folder.path().join("log"));
    let output = fetch(&origin, &dest).arg("--report").arg(&log).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stdout.is_empty());
    let report = report(&log);
    assert_eq!(
        (report.phase, report.total_bytes),
        (FetchPhase::Verified, Some(model().len() as u64))
    );
    assert_eq!(report.model.unwrap().digest, digest_of(&model()).to_string());
    assert_eq!(names(folder.path()), ["log", "model.gguf"]);
}

#[test]
fn a_failed_fetch_exits_with_one_and_reports_why_without_the_token() {
    let origin = Origin::start(|_, _| Reply::status("403 Forbidden"));
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let output = fetch(&origin, &folder.path().join("m"))
        .arg("--report")
        .arg(&log)
        .env("WINDLASS_SOURCE_TOKEN", "hf_very-secret")
        .env("WINDLASS_LOG", "trace")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = report(&log).error.unwrap();
    assert_eq!(error.reason, FetchFailure::CredentialsRejected);
    let logged = String::from_utf8(output.stderr).unwrap();
    assert!(logged.contains(&error.message), "{logged}");
    assert!(!logged.contains("very-secret") && !fs::read_to_string(&log).unwrap().contains("very-secret"));
}

#[test]
fn a_source_or_digest_that_does_not_parse_is_reported_too() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    for (source, pin) in [("s3://bucket/model.gguf", ""), ("hf://org/repo/m.gguf", "sha256:12")] {
        let output = registry(&["fetch", "--source", source])
            .args([
                "--dest".as_ref(),
                folder.path().join("m").as_os_str(),
                "--report".as_ref(),
                log.as_os_str(),
            ])
            .env("WINDLASS_PINNED_DIGEST", pin)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(report(&log).error.unwrap().reason, FetchFailure::InvalidSource);
    }
}

#[test]
fn a_report_that_cannot_be_written_is_a_failure() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("m.gguf"), model()).unwrap();
    let output = registry(&["verify", "--report", "/nowhere/log"])
        .args([
            "--volume".as_ref(),
            folder.path().as_os_str(),
            "--file".as_ref(),
            folder.path().join("m.gguf").as_os_str(),
        ])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nowhere/log"));
}

#[test]
fn verify_judges_a_file_on_a_volume() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("good"), model()).unwrap();
    fs::write(folder.path().join("text"), "Once upon a time").unwrap();
    let log = folder.path().join("log");
    let (right, wrong) = (digest_of(&model()).to_string(), digest_of(b"other").to_string());
    for (name, digest, expected) in [
        ("good", &right, None),
        ("good", &wrong, Some(FetchFailure::DigestMismatch)),
        ("text", &right, Some(FetchFailure::InvalidFile)),
        ("absent", &right, Some(FetchFailure::NotFound)),
        ("../x", &right, Some(FetchFailure::InvalidSource)),
    ] {
        let output = registry(&["verify", "--digest", digest])
            .args([
                "--volume".as_ref(),
                folder.path().as_os_str(),
                "--file".as_ref(),
                folder.path().join(name).as_os_str(),
            ])
            .args(["--report".as_ref(), log.as_os_str()])
            .output()
            .unwrap();
        assert_eq!(output.status.success(), expected.is_none(), "{name}");
        assert_eq!(report(&log).error.map(|error| error.reason), expected, "{name}");
    }
}

/// A fetch from an origin that sends all but the last 1,000 bytes and then nothing, once its progress is served.
struct Stalled {
    child: Child,
    progress: String,
    _origin: Origin,
}

fn stalled(folder: &Path) -> Stalled {
    let origin = Origin::start(|_, _| Reply::whole(&model(), &[("ETag", "\"one\"")]).stalled(1000));
    let mut child = fetch(&origin, &folder.join("model.gguf"))
        .args(["--progress-listen", "127.0.0.1:0"])
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let line = lines
        .find(|line| line.as_ref().unwrap().contains("progress at http://"))
        .unwrap()
        .unwrap();
    let progress = line
        .split("http://")
        .nth(1)
        .unwrap()
        .trim_end_matches("/progress")
        .to_owned();
    std::thread::spawn(move || lines.for_each(drop));
    Stalled {
        child,
        progress,
        _origin: origin,
    }
}

impl Stalled {
    /// Asks until all that the origin sent has arrived.
    fn await_bytes(&self) -> FetchReport {
        loop {
            let mut stream = TcpStream::connect(&self.progress).unwrap();
            stream
                .write_all(b"GET /progress HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                .unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            let report: FetchReport = serde_json::from_str(text.split("\r\n\r\n").nth(1).unwrap()).unwrap();
            if report.received_bytes == model().len() as u64 - 1000 {
                return report;
            }
        }
    }
}

#[test]
fn progress_is_served_while_bytes_come() {
    let folder = tempfile::tempdir().unwrap();
    let mut stalled = stalled(folder.path());
    let report = stalled.await_bytes();
    stalled.child.kill().unwrap();
    stalled.child.wait().unwrap();
    assert_eq!(
        (report.phase, report.total_bytes),
        (FetchPhase::Downloading, Some(model().len() as u64))
    );
}

#[test]
fn a_termination_signal_ends_a_fetch_and_keeps_what_came() {
    let folder = tempfile::tempdir().unwrap();
    let mut stalled = stalled(folder.path());
    stalled.await_bytes();
    assert!(
        Command::new("kill")
            .arg(stalled.child.id().to_string())
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(stalled.child.wait().unwrap().code(), Some(143));
    assert!(fs::metadata(folder.path().join("model.gguf.part")).unwrap().len() > 1 << 20);
}

#[test]
fn a_hub_without_the_token_that_it_shall_require_does_not_start() {
    let output = registry(&[
        "serve",
        "--root",
        "/",
        "--listen",
        "127.0.0.1:0",
        "--require-token-env",
        "ABSENT",
    ])
    .output();
    let output = output.unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("ABSENT"));
}

#[test]
fn a_runtime_that_is_refused_too_often_ends_the_verification_with_a_report() {
    let runtime = Origin::start(|request, _| match request.line.starts_with("GET /health ") {
        true => Reply::status("200 OK"),
        false => Reply::answer("500 Internal Server Error", &[], "out of memory"),
    });
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let output = registry(&[
        "verify-runtime",
        "--task",
        "completion",
        "--model",
        "m",
        "--listen",
        "127.0.0.1:0",
    ])
    .args([
        "--runtime-url",
        &runtime.url(),
        "--period",
        "1ms",
        "--failure-threshold",
        "2",
    ])
    .arg("--report")
    .arg(&log)
    .env("WINDLASS_RUNTIME_KEY", "very-secret")
    .env("WINDLASS_LOG", "trace")
    .output()
    .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = fs::read_to_string(&log).unwrap();
    let report: RuntimeReport = serde_json::from_str(&text).unwrap();
    assert_eq!((report.phase, report.refusals), (RuntimePhase::Refused, 2));
    assert!(report.message.contains("out of memory"), "{}", report.message);
    let logged = String::from_utf8(output.stderr).unwrap();
    assert!(logged.contains("out of memory") && !logged.contains("very-secret") && !text.contains("very-secret"));
}

#[test]
fn a_verified_runtime_is_ready_until_a_termination_signal_ends_the_verification() {
    let runtime = Origin::start(|_, _| Reply::answer("200 OK", &[], "ok"));
    let mut child = registry(&["verify-runtime"])
        .env("WINDLASS_RUNTIME_URL", runtime.url())
        .env("WINDLASS_PATH", "/generate")
        .env("HTTP_PROXY", "http://127.0.0.1:9") // the runtime is in the same pod
        .env("WINDLASS_LISTEN", "127.0.0.1:0")
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut line = |words: &str| {
        lines
            .find(|line| line.as_ref().unwrap().contains(words))
            .unwrap()
            .unwrap()
    };
    let address = line("readiness at http://");
    let address = address
        .split("http://")
        .nth(1)
        .unwrap()
        .split('/')
        .next()
        .unwrap()
        .to_owned();
    line("GET /generate answered 200 as it should");
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .write_all(b"GET /ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    assert!(
        Command::new("kill")
            .arg(child.id().to_string())
            .status()
            .unwrap()
            .success()
    );
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(143), "{status}");
}

#[test]
fn a_request_is_a_task_with_a_model_or_a_path_and_never_both() {
    for arguments in [
        &["verify-runtime"][..],
        &["verify-runtime", "--task", "chat"],
        &["verify-runtime", "--task", "chat", "--model", "m", "--path", "/x"],
        &["verify-runtime", "--task", "chat", "--model", "m", "--body", "{}"],
        &["verify-runtime", "--path", "x"],
        &["verify-runtime", "--path", "/x", "--body", "{"],
        &["verify-runtime", "--path", "/x", "--runtime-url", "https://127.0.0.1"],
    ] {
        assert_eq!(
            registry(arguments).output().unwrap().status.code(),
            Some(2),
            "{arguments:?}"
        );
    }
}
