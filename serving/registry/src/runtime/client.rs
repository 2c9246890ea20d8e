//! Speaks to the runtime on its own pod's address: no proxy, no redirects, a new connection for each request, and
//! never more of a body than is needed.
use std::error::Error;
use std::time::{Duration, SystemTime};

use reqwest::header::{self, HeaderValue};
use reqwest::{Client, Response, StatusCode, Url, redirect};
use windlass_api::verify::RuntimeAnswer;

use super::answer::{excerpt, lacks};
use super::request::{Expect, Request};
use crate::patience::retry_after;

/// Bytes read of an answer whose status alone counts.
const MOST_OF_ANY: usize = 64 << 10;
/// Bytes read of an answer whose shape counts: a vector of 8,192 numbers takes 180 KiB of JSON.
const MOST_OF_SHAPE: usize = 1 << 20;
/// A health path that is silent for so long fails.
const HEALTH: Duration = Duration::from_secs(10);
/// The longest wait that a runtime's `Retry-After` is granted.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The runtime's key; it has no `Debug`, so that it cannot slip into a log.
pub struct Key {
    text: String,
    header: HeaderValue,
}

/// The key has characters that a header cannot hold.
#[derive(Debug, thiserror::Error)]
#[error("WINDLASS_RUNTIME_KEY contains characters that no key has; correct the Secret that it comes from")]
pub struct UnusableKey;

/// The HTTP client could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("the HTTP client for the runtime could not be set up")]
pub struct NoClient(#[source] reqwest::Error);

impl Key {
    /// Takes the text of a Secret; the newline that files often end with is dropped, and an empty one is none.
    pub fn parse(text: &str) -> Result<Option<Key>, UnusableKey> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(None);
        }
        let mut header = HeaderValue::from_str(&format!("Bearer {text}")).map_err(|_| UnusableKey)?;
        header.set_sensitive(true);
        Ok(Some(Key {
            text: text.to_owned(),
            header,
        }))
    }
}

/// Where the runtime is and how it is asked.
pub struct Runtime {
    client: Client,
    health: Url,
    ask: Url,
    request: Request,
    key: Option<Key>,
    timeout: Duration,
}

/// What came of the request.
#[derive(Debug)]
pub enum Outcome {
    /// A right answer.
    Right(RuntimeAnswer),
    /// The runtime has no room now, and asks for this pause.
    Busy(RuntimeAnswer, Option<Duration>),
    /// Anything else, in words that follow "POST /path".
    Refused(RuntimeAnswer, String),
}

/// A health path that did not answer 200.
#[derive(Debug)]
pub struct Unhealthy {
    /// For people.
    pub why: String,
    /// Nobody listens: the process is not there.
    pub absent: bool,
}

impl Runtime {
    /// A client for a runtime; `base` and the paths have been checked by `request`.
    pub fn new(
        base: &Url,
        health_path: &str,
        request: Request,
        key: Option<Key>,
        timeout: Duration,
    ) -> Result<Runtime, NoClient> {
        let client = Client::builder()
            .no_proxy()
            .redirect(redirect::Policy::none())
            // The runtime is spoken to without TLS, so the roots of the system are not needed.
            .tls_certs_only([])
            // A connection that the runtime closed while it was idle would look like a refusal.
            .pool_max_idle_per_host(0)
            .user_agent(concat!("windlass-registry/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(NoClient)?;
        let at = |path: &str| {
            let mut url = base.clone();
            let (path, query) = path
                .split_once('?')
                .map_or((path, None), |(path, query)| (path, Some(query)));
            url.set_path(path);
            url.set_query(query);
            url
        };
        Ok(Runtime {
            client,
            health: at(health_path),
            ask: at(&request.path),
            request,
            key,
            timeout,
        })
    }

    /// The request that it is asked.
    pub fn request(&self) -> &Request {
        &self.request
    }

    /// Host and port, for a connection without a request.
    pub fn address(&self) -> (String, u16) {
        let host = self.health.host_str().unwrap_or("127.0.0.1");
        let host = host.trim_start_matches('[').trim_end_matches(']');
        (host.to_owned(), self.health.port_or_known_default().unwrap_or(80))
    }

    /// Asks the health path.
    pub async fn health(&self) -> Result<(), Unhealthy> {
        let path = self.health.path();
        let response = match tokio::time::timeout(HEALTH, self.client.get(self.health.clone()).send()).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                return Err(Unhealthy {
                    why: format!("GET {path} is not answered: {}", explained(&error.without_url())),
                    absent: true,
                });
            }
            Err(_) => {
                return Err(Unhealthy {
                    why: format!("GET {path} has not answered for {} s", HEALTH.as_secs()),
                    absent: false,
                });
            }
        };
        match response.status() {
            StatusCode::OK => Ok(()),
            status => Err(Unhealthy {
                why: format!("GET {path} answers {}", status.as_u16()),
                absent: false,
            }),
        }
    }

    /// Sends the request and judges the answer.
    pub async fn ask(&self) -> Outcome {
        let mut status = None;
        match tokio::time::timeout(self.timeout, self.exchange(&mut status)).await {
            Ok(Ok((pause, body))) => self.judge(status.unwrap_or_default(), pause, &body),
            Ok(Err(error)) => Outcome::Refused(
                none(status),
                format!(
                    "got no whole answer, the connection broke ({}); look at the runtime's log",
                    explained(&error.without_url())
                ),
            ),
            Err(_) => Outcome::Refused(
                none(status),
                format!(
                    "has not answered within {:?}; raise the time-out of the verification if the runtime compiles for \
                     its first request, else look at the runtime's log",
                    self.timeout
                ),
            ),
        }
    }

    async fn exchange(&self, status: &mut Option<StatusCode>) -> reqwest::Result<(Option<String>, Vec<u8>)> {
        let mut request = self.client.request(self.request.method.clone(), self.ask.clone());
        if let Some(key) = &self.key {
            request = request.header(header::AUTHORIZATION, key.header.clone());
        }
        if let Some(body) = &self.request.body {
            request = request
                .header(header::CONTENT_TYPE, "application/json")
                .body(body.clone());
        }
        let response = request.send().await?;
        *status = Some(response.status());
        let pause = response.headers().get(header::RETRY_AFTER);
        let pause = pause.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let most = match self.request.expect {
            Expect::Status(_) => MOST_OF_ANY,
            Expect::Shape(_) => MOST_OF_SHAPE,
        };
        Ok((pause, start_of(response, most).await?))
    }

    fn judge(&self, status: StatusCode, pause: Option<String>, body: &[u8]) -> Outcome {
        let answer = RuntimeAnswer {
            status: Some(status.as_u16()),
            excerpt: excerpt(body, self.key.as_ref().map(|key| key.text.as_str())),
        };
        let lack = match self.request.expect {
            Expect::Status(expected) if status == expected => return Outcome::Right(answer),
            Expect::Shape(task) if status == StatusCode::OK => match lacks(task, body) {
                None => return Outcome::Right(answer),
                lack => lack,
            },
            _ => None,
        };
        // The two statuses by which a server says that it has no room now.
        let busy =
            status == StatusCode::TOO_MANY_REQUESTS || (status == StatusCode::SERVICE_UNAVAILABLE && pause.is_some());
        if busy {
            let pause = pause.and_then(|text| retry_after(&text, SystemTime::now()));
            return Outcome::Busy(answer, pause.map(|pause| pause.min(LONGEST_PAUSE)));
        }
        let next = match status.as_u16() {
            401 | 403 => "give the verification the runtime's key by a Secret, or correct it",
            404 | 405 => "correct the task or the path of the verification, or the model's served name",
            400 | 422 => "correct the request of the verification, or choose another task",
            _ => "look at the runtime's log",
        };
        let lack = lack.map(|lack| format!(" without {lack}")).unwrap_or_default();
        let why = format!("answered {}{lack}: \"{}\"; {next}", status.as_u16(), answer.excerpt);
        Outcome::Refused(answer, why)
    }
}

fn none(status: Option<StatusCode>) -> RuntimeAnswer {
    RuntimeAnswer {
        status: status.map(|status| status.as_u16()),
        excerpt: String::new(),
    }
}

/// The body up to `most` bytes; the rest is left unread.
async fn start_of(mut response: Response, most: usize) -> reqwest::Result<Vec<u8>> {
    let mut body = Vec::new();
    while body.len() < most {
        let Some(bytes) = response.chunk().await? else { break };
        body.extend_from_slice(&bytes[..bytes.len().min(most - body.len())]);
    }
    Ok(body)
}

/// An error with its innermost cause, which says what happened ("Connection refused").
fn explained(error: &reqwest::Error) -> String {
    let mut cause: &dyn Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
