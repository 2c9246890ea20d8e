//! Verifying runtimes that behave and runtimes that do not, over real connections.
#![allow(clippy::unwrap_used)] // a test ends at the first surprise

mod support;

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::routing::{get, post};
use tokio::task::JoinHandle;
use windlass_api::verify::{RuntimePhase, RuntimeReport};
use windlass_registry::client::install_cryptography;
use windlass_registry::runtime::client::{Key, Runtime};
use windlass_registry::runtime::request::{Expect, Request, Task, parse_base};
use windlass_registry::runtime::state::State;
use windlass_registry::runtime::{Pace, verify};

use support::origin::{Origin, Reply, Seen};

const RIGHT: &str = r#"{"choices":[{"text":""}]}"#;
const BRISK: Pace = Pace {
    period: Duration::from_millis(5),
    threshold: 3,
};

/// A verification that runs until this is dropped.
struct Verification {
    state: State,
    task: JoinHandle<()>,
}

impl Drop for Verification {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Verification {
    /// Waits until the report is as wanted; the limit only ends a test that fails.
    async fn until(&self, wanted: impl Fn(&RuntimeReport) -> bool) -> RuntimeReport {
        let begun = Instant::now();
        loop {
            let report = self.state.report();
            if wanted(&report) {
                return report;
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "it stays at {report:?}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn verified(&self) -> RuntimeReport {
        self.until(|report| report.phase == RuntimePhase::Verified).await
    }

    /// Waits until the verification has given up.
    async fn given_up(&mut self) -> RuntimeReport {
        (&mut self.task).await.unwrap();
        self.state.report()
    }
}

fn begin_with(url: &str, request: Request, key: Option<&str>, timeout: Duration, pace: Pace) -> Verification {
    install_cryptography();
    let state = State::new(request.shown());
    let key = Key::parse(key.unwrap_or_default()).unwrap();
    let runtime = Runtime::new(&parse_base(url).unwrap(), "/health", request, key, timeout).unwrap();
    let shared = state.clone();
    let task = tokio::spawn(async move { verify(&runtime, pace, &shared).await });
    Verification { state, task }
}

fn begin(runtime: &Origin, task: Task) -> Verification {
    let long = Duration::from_secs(60);
    begin_with(&runtime.url(), Request::of_task(task, "m"), None, long, BRISK)
}

fn is_health(request: &Seen) -> bool {
    request.line.starts_with("GET /health ")
}

/// A runtime that is healthy and answers requests by the closure, which gets their number from 0.
fn healthy(answer: impl Fn(&Seen, usize) -> Reply + Send + Sync + 'static) -> Origin {
    let count = AtomicUsize::new(0);
    Origin::start(move |request, _| match is_health(request) {
        true => Reply::status("200 OK"),
        false => answer(request, count.fetch_add(1, Ordering::SeqCst)),
    })
}

fn asked(runtime: &Origin) -> Vec<Seen> {
    runtime
        .seen()
        .into_iter()
        .filter(|request| !is_health(request))
        .collect()
}

#[tokio::test]
async fn a_runtime_that_answers_rightly_is_verified_with_one_request_of_one_token() {
    let runtime = healthy(|_, _| Reply::answer("200 OK", &[], RIGHT));
    let verification = begin(&runtime, Task::Completion);
    let report = verification.verified().await;
    assert_eq!((report.request.as_str(), report.refusals), ("POST /v1/completions", 0));
    assert_eq!(report.answer.unwrap().status, Some(200));
    let requests = asked(&runtime);
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].line, "POST /v1/completions HTTP/1.1");
    let body: serde_json::Value = serde_json::from_slice(&requests[0].body).unwrap();
    assert_eq!((&body["max_tokens"], &body["model"]), (&1.into(), &"m".into()));
    assert_eq!(requests[0].header("authorization"), None);
}

#[tokio::test]
async fn every_task_accepts_its_answer_and_refuses_that_of_another() {
    let answers = [
        (Task::Completion, RIGHT),
        (Task::Chat, r#"{"choices":[{"message":{"content":null}}]}"#),
        (Task::Embed, r#"{"data":[{"embedding":[0.25,-1]}]}"#),
        (Task::Rerank, r#"{"results":[{"index":0,"relevance_score":1}]}"#),
    ];
    for (index, (task, right)) in answers.into_iter().enumerate() {
        let runtime = healthy(move |_, _| Reply::answer("200 OK", &[], right));
        begin(&runtime, task).verified().await;
        let wrong = answers[(index + 1) % answers.len()].1;
        let runtime = healthy(move |_, _| Reply::answer("200 OK", &[], wrong));
        let report = begin(&runtime, task).given_up().await;
        assert_eq!((report.phase, report.refusals), (RuntimePhase::Refused, 3));
        assert!(report.message.contains("answered 200 without a"), "{}", report.message);
    }
}

#[tokio::test]
async fn a_healthy_runtime_whose_answer_is_an_error_is_refused_with_what_it_said() {
    let runtime = healthy(|_, _| Reply::answer("500 Internal Server Error", &[], "CUDA error:\n out of memory"));
    let report = begin(&runtime, Task::Completion).given_up().await;
    assert_eq!((report.phase, report.refusals), (RuntimePhase::Refused, 3));
    let answer = report.answer.unwrap();
    assert_eq!(
        (answer.status, answer.excerpt.as_str()),
        (Some(500), "CUDA error:  out of memory")
    );
    let words = "POST /v1/completions answered 500: \"CUDA error:  out of memory\"";
    assert!(report.message.starts_with(words), "{}", report.message);
    assert_eq!(asked(&runtime).len(), 3);
}

#[tokio::test]
async fn a_request_that_hangs_is_refused_when_its_time_is_over() {
    let runtime = healthy(|_, _| Reply::answer("200 OK", &[], RIGHT).stalled(RIGHT.len()));
    let (request, short) = (Request::of_task(Task::Completion, "m"), Duration::from_millis(50));
    let report = begin_with(&runtime.url(), request, None, short, BRISK).given_up().await;
    assert!(
        report.message.contains("has not answered within 50ms"),
        "{}",
        report.message
    );
    assert!(report.message.contains("raise the time-out"), "{}", report.message);
}

#[tokio::test]
async fn a_request_under_way_is_not_ready_and_reported_as_asking() {
    let runtime = healthy(|_, _| Reply::status("200 OK").stalled(19));
    let verification = begin(&runtime, Task::Completion);
    verification.until(|report| report.phase == RuntimePhase::Asking).await;
    assert_eq!(get_status(&verification, "/ready").await.0, 503);
}

#[tokio::test]
async fn a_connection_that_breaks_before_the_answer_is_whole_is_a_refusal() {
    let runtime = healthy(|_, _| Reply::answer("200 OK", &[], RIGHT).cut(5));
    let report = begin(&runtime, Task::Completion).given_up().await;
    assert!(report.message.contains("the connection broke"), "{}", report.message);
    assert_eq!(report.answer.unwrap().status, Some(200));
}

#[tokio::test]
async fn a_busy_runtime_is_asked_again_and_not_refused() {
    let runtime = healthy(|_, number| match number {
        0..4 => Reply::answer("429 Too Many Requests", &[], "full"),
        4..8 => Reply::answer("503 Service Unavailable", &[("Retry-After", "0")], "full"),
        _ => Reply::answer("200 OK", &[], RIGHT),
    });
    assert_eq!(begin(&runtime, Task::Completion).verified().await.refusals, 0);
    assert_eq!(asked(&runtime).len(), 9);
}

#[tokio::test]
async fn a_busy_runtime_is_not_asked_before_its_retry_after() {
    let runtime = healthy(|_, _| Reply::answer("429 Too Many Requests", &[("Retry-After", "9999")], "full"));
    let verification = begin(&runtime, Task::Completion);
    let report = verification.until(|report| report.phase == RuntimePhase::Busy).await;
    assert!(
        report.message.contains("answered 429: the runtime is busy"),
        "{}",
        report.message
    );
    assert_eq!(asked(&runtime).len(), 1);
}

#[tokio::test]
async fn a_503_without_retry_after_is_a_refusal() {
    let runtime = healthy(|_, _| Reply::status("503 Service Unavailable"));
    assert_eq!(begin(&runtime, Task::Completion).given_up().await.refusals, 3);
}

#[tokio::test]
async fn nothing_is_asked_before_the_health_path_answers_200() {
    let checks = AtomicUsize::new(0);
    let runtime = Origin::start(move |request, _| match is_health(request) {
        true if checks.fetch_add(1, Ordering::SeqCst) < 3 => Reply::status("503 Service Unavailable"),
        true => Reply::status("200 OK"),
        false => Reply::answer("200 OK", &[], RIGHT),
    });
    begin(&runtime, Task::Completion).verified().await;
    let first = runtime.seen().iter().position(|request| !is_health(request));
    assert_eq!(first, Some(4));
}

#[tokio::test]
async fn a_verified_runtime_that_later_answers_wrongly_stays_ready() {
    let runtime = healthy(|_, number| match number {
        0 => Reply::answer("200 OK", &[], RIGHT),
        _ => Reply::status("500 Internal Server Error"),
    });
    let verification = begin(&runtime, Task::Completion);
    verification.verified().await;
    let checks = runtime.seen().len();
    while runtime.seen().len() < checks + 5 {
        assert_eq!(get_status(&verification, "/ready").await.0, 200);
    }
    assert_eq!(asked(&runtime).len(), 1);
}

#[tokio::test]
async fn a_runtime_that_restarts_is_not_ready_until_it_is_verified_again() {
    let (health, answer) = (Arc::new(AtomicUsize::new(200)), Arc::new(AtomicUsize::new(200)));
    let (served_health, served_answer) = (health.clone(), answer.clone());
    let runtime = Origin::start(move |request, _| {
        let status = if is_health(request) {
            &served_health
        } else {
            &served_answer
        };
        match status.load(Ordering::SeqCst) {
            200 => Reply::answer("200 OK", &[], RIGHT),
            _ => Reply::status("503 Service Unavailable"),
        }
    });
    let patient = Pace {
        threshold: 1000,
        ..BRISK
    };
    let request = Request::of_task(Task::Completion, "m");
    let verification = begin_with(&runtime.url(), request, None, Duration::from_secs(60), patient);
    verification.verified().await;
    answer.store(500, Ordering::SeqCst);
    health.store(503, Ordering::SeqCst);
    let report = verification
        .until(|report| report.phase == RuntimePhase::Starting)
        .await;
    assert_eq!((report.refusals, report.answer), (0, None));
    assert_eq!(get_status(&verification, "/ready").await.0, 503);
    health.store(200, Ordering::SeqCst);
    verification.until(|report| report.refusals > 2).await;
    assert_eq!(get_status(&verification, "/ready").await.0, 503);
    answer.store(200, Ordering::SeqCst);
    verification.verified().await;
}

#[tokio::test]
async fn one_failed_health_check_is_not_a_restart() {
    let checks = AtomicUsize::new(0);
    let runtime = Origin::start(move |request, _| match is_health(request) {
        true if checks.fetch_add(1, Ordering::SeqCst) % 2 == 1 => Reply::status("503 Service Unavailable"),
        true => Reply::status("200 OK"),
        false => Reply::answer("200 OK", &[], RIGHT),
    });
    let verification = begin(&runtime, Task::Completion);
    verification.verified().await;
    while runtime.seen().len() < 12 {
        assert_eq!(verification.verified().await.phase, RuntimePhase::Verified);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(asked(&runtime).len(), 1);
}

/// The next health check is an hour away: the end of the process itself is what is seen.
#[tokio::test]
async fn a_runtime_whose_process_ends_is_not_ready_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let process = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    process.spawn(async move {
        let router = axum::Router::new()
            .route("/health", get(async || "ok"))
            .route("/v1/completions", post(async || RIGHT));
        axum::serve(tokio::net::TcpListener::from_std(listener).unwrap(), router)
            .await
            .unwrap();
    });
    let hourly = Pace {
        period: Duration::from_secs(3600),
        threshold: 1,
    };
    let request = Request::of_task(Task::Completion, "m");
    let verification = begin_with(&url, request, None, Duration::from_secs(60), hourly);
    verification.verified().await;
    process.shutdown_background();
    let report = verification
        .until(|report| report.phase == RuntimePhase::Starting)
        .await;
    assert!(report.message.contains("is not"), "{}", report.message);
}

#[tokio::test]
async fn the_key_is_sent_and_reported_nowhere_even_when_the_runtime_repeats_it() {
    let runtime = healthy(|request, _| {
        let key = request.header("authorization").unwrap();
        Reply::answer("401 Unauthorized", &[("X-Key", key)], &format!("no such key: {key}"))
    });
    let request = Request::of_task(Task::Chat, "m");
    let long = Duration::from_secs(60);
    let report = begin_with(&runtime.url(), request, Some("very-secret\n"), long, BRISK)
        .given_up()
        .await;
    assert_eq!(asked(&runtime)[0].header("authorization"), Some("Bearer very-secret"));
    assert!(
        runtime
            .seen()
            .iter()
            .filter(|seen| is_health(seen))
            .all(|seen| seen.header("authorization").is_none())
    );
    let text = serde_json::to_string(&report).unwrap();
    assert!(
        text.contains("no such key: Bearer [key]") && !text.contains("secret"),
        "{text}"
    );
    assert!(report.message.contains("by a Secret"), "{}", report.message);
}

#[tokio::test]
async fn a_request_of_ones_own_is_right_with_its_status_whatever_the_body() {
    let own = |status: u16| Request {
        method: "PUT".parse().unwrap(),
        path: "/predict?verbose=1".into(),
        body: Some("[1]".into()),
        expect: Expect::Status(status.try_into().unwrap()),
    };
    let long = Duration::from_secs(60);
    let runtime = healthy(|_, _| Reply::answer("202 Accepted", &[], "later"));
    let verification = begin_with(&runtime.url(), own(202), None, long, BRISK);
    assert_eq!(verification.verified().await.request, "PUT /predict");
    let request = &asked(&runtime)[0];
    assert_eq!(
        (request.line.as_str(), &request.body[..]),
        ("PUT /predict?verbose=1 HTTP/1.1", &b"[1]"[..])
    );
    let report = begin_with(&runtime.url(), own(200), None, long, BRISK).given_up().await;
    assert!(report.message.contains("answered 202: \"later\""), "{}", report.message);
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = healthy(|_, _| Reply::answer("200 OK", &[], RIGHT));
    let target = elsewhere.url();
    let runtime = healthy(move |_, _| Reply::redirect(&target));
    let report = begin(&runtime, Task::Completion).given_up().await;
    assert!(report.message.contains("answered 302"), "{}", report.message);
    assert!(elsewhere.seen().is_empty());
}

/// The body is announced as large as none is, and all but its first mebibyte never comes: what is enough ends the wait.
#[tokio::test]
async fn of_an_answer_without_end_only_a_bounded_start_is_read() {
    let start = format!("{{\"choices\":[{}", " ".repeat(2 << 20));
    let runtime = healthy(move |_, _| Reply::answer("200 OK", &[], &start).stalled(1));
    let report = begin(&runtime, Task::Completion).given_up().await;
    assert!(
        report.message.contains("answered 200 without JSON"),
        "{}",
        report.message
    );
    assert!(report.answer.unwrap().excerpt.len() <= 200);
}

/// Asks the routes of the verification over a connection.
async fn get_status(verification: &Verification, path: &str) -> (u16, String) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}{path}", listener.local_addr().unwrap());
    let router = verification.state.router();
    let server = tokio::spawn(async move { axum::serve(listener, router).await });
    let client = reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([])
        .build()
        .unwrap();
    let response = client.get(url).send().await.unwrap();
    let answer = (response.status().as_u16(), response.text().await.unwrap());
    server.abort();
    answer
}

#[tokio::test]
async fn ready_and_progress_say_the_same_and_are_one_sentence_and_json() {
    let runtime = healthy(|_, _| Reply::answer("200 OK", &[], RIGHT));
    let verification = begin(&runtime, Task::Completion);
    let report = verification.verified().await;
    let (status, sentence) = get_status(&verification, "/ready").await;
    assert_eq!((status, sentence.trim_end()), (200, report.message.as_str()));
    let (status, text) = get_status(&verification, "/progress").await;
    let shown: RuntimeReport = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (status, shown.phase, shown.answer),
        (200, RuntimePhase::Verified, report.answer)
    );
}
