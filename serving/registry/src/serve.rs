//! A read-only hub over a folder: `/{org}/{repo}/resolve/{revision}/{path}` gives ROOT/org/repo/path.
//!
//! Speaks as much of the Hugging Face hub's protocol as downloaders need (HEAD, ranges, validators, `X-Linked-*`,
//! `X-Repo-Commit`, `X-Error-Code`, descriptions and trees of repositories). It writes nothing, and shows nothing
//! outside its folder. A repository has one revision, `main`; its commit is made of its files' names, sizes and times
//! of change, and names only the state of now.
mod address;
mod api;
mod files;
mod listing;
mod paced;
mod range;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use axum::http::request::Parts;
use axum::http::{Method, Request, Response, StatusCode};
use axum::routing::get;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use address::{Address, Subject};
use files::{Found, Shelf};
use paced::PacedListener;
use range::Wanted;

/// What the hub grants to its callers.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Downloads at the same time; others are answered 503 with Retry-After.
    pub downloads: usize,
    /// How long a reader may let bytes wait for each mebibyte before it is cut off.
    pub allowance: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            downloads: 256,
            // 35 KiB/s, which any network of a cluster has.
            allowance: Duration::from_secs(30),
        }
    }
}

/// How long running downloads may go on after the order to stop; they can resume elsewhere.
const DRAIN: Duration = Duration::from_secs(10);

const LINKED_ETAG: HeaderName = HeaderName::from_static("x-linked-etag");
const LINKED_SIZE: HeaderName = HeaderName::from_static("x-linked-size");
const REPO_COMMIT: HeaderName = HeaderName::from_static("x-repo-commit");
const ERROR_CODE: HeaderName = HeaderName::from_static("x-error-code");

/// The server's state.
pub struct Hub {
    shelf: Shelf,
    /// SHA-256 of the token that callers must send; comparing digests takes the same time for every wrong token.
    token: Option<[u8; 32]>,
    downloads: Arc<Semaphore>,
    allowance: Duration,
}

impl Hub {
    /// A hub over an existing folder.
    pub fn open(root: PathBuf, token: Option<&str>, limits: Limits) -> io::Result<Hub> {
        let token = token.map(|token| Sha256::digest(token.trim()).into());
        Ok(Hub {
            shelf: Shelf::open(root)?,
            token,
            downloads: Arc::new(Semaphore::new(limits.downloads)),
            allowance: limits.allowance,
        })
    }

    fn admits(&self, headers: &HeaderMap) -> bool {
        let Some(wanted) = self.token else { return true };
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = given
            .and_then(|value| value.strip_prefix("Bearer "))
            .unwrap_or_default();
        let given: [u8; 32] = Sha256::digest(token.trim()).into();
        given == wanted
    }
}

/// Serves until `stop` is done, then lets running downloads go on for a short while.
pub async fn serve(listener: TcpListener, hub: Hub, stop: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
    let (stopping, stopped) = tokio::sync::oneshot::channel();
    let listener = PacedListener::new(listener, hub.allowance);
    let server = axum::serve(listener, router(hub)).with_graceful_shutdown(async move {
        stop.await;
        // The receiver is gone only when the server has ended already.
        stopping.send(()).unwrap_or_default();
    });
    tokio::select! {
        result = server.into_future() => result,
        () = async { if stopped.await.is_ok() { tokio::time::sleep(DRAIN).await } else { std::future::pending().await } } => Ok(()),
    }
}

fn router(hub: Hub) -> Router {
    Router::new()
        .route("/health", get(async || "ok\n"))
        .fallback(answer)
        .with_state(Arc::new(hub))
}

async fn answer(State(hub): State<Arc<Hub>>, request: Request<Body>) -> Response<Body> {
    let (request, _) = request.into_parts(); // a GET has no body that matters
    let response = match find(&hub, &request).await {
        Ok(response) => response,
        Err(refusal) => refusal.response(),
    };
    tracing::info!(method = %request.method, path = request.uri.path(), status = response.status().as_u16());
    response
}

async fn find(hub: &Hub, request: &Parts) -> Result<Response<Body>, Refusal> {
    if !matches!(request.method, Method::GET | Method::HEAD) {
        return Err(Refusal::Method);
    }
    if !hub.admits(&request.headers) {
        return Err(Refusal::Unauthorized);
    }
    let address = Address::parse(request.uri.path()).ok_or(Refusal::NotFound("EntryNotFound"))?;
    let listing = hub.shelf.list(&address.repository).await;
    let listing = listing.map_err(|error| absent(error, "RepoNotFound"))?;
    let commit = listing.commit();
    if address.revision != "main" && address.revision != commit {
        return Err(Refusal::NotFound("RevisionNotFound"));
    }
    match &address.subject {
        Subject::File(file) => {
            let found = hub.shelf.find(&address.repository.join(file)).await;
            let found = found.map_err(|error| absent(error, "EntryNotFound"))?;
            give(hub, request, &found, &commit)
        }
        Subject::Revision => json(
            request,
            &commit,
            &api::revision(&address.repository, &commit, &listing),
            None,
        ),
        Subject::Tree => {
            let page = api::tree(request, &listing, |entry| hub.shelf.known(entry));
            json(request, &commit, &page.entries, page.next)
        }
    }
}

fn absent(error: io::Error, code: &'static str) -> Refusal {
    match error.kind() {
        io::ErrorKind::NotFound => Refusal::NotFound(code),
        _ => Refusal::Broken(error),
    }
}

fn json(request: &Parts, commit: &str, value: &Value, next: Option<String>) -> Result<Response<Body>, Refusal> {
    let text = value.to_string();
    let mut response = Response::builder()
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CONTENT_LENGTH, text.len())
        .header(REPO_COMMIT, commit);
    if let Some(next) = next {
        response = response.header(header::LINK, format!("<{next}>; rel=\"next\""));
    }
    let body = if request.method == Method::HEAD {
        Body::empty()
    } else {
        Body::from(text)
    };
    response
        .body(body)
        .map_err(|error| Refusal::Broken(io::Error::other(error)))
}

fn give(hub: &Hub, request: &Parts, found: &Found, commit: &str) -> Result<Response<Body>, Refusal> {
    let etag = format!("\"{}\"", found.digest.hex());
    let mut response = Response::builder()
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .header(header::ETAG, &etag)
        .header(LINKED_ETAG, &etag)
        .header(LINKED_SIZE, found.size)
        .header(REPO_COMMIT, commit);
    let (status, start, length) = match range::wanted(&request.headers, &etag, found.size) {
        Wanted::Whole => (StatusCode::OK, 0, found.size),
        Wanted::Part { start, length } => {
            let last = start + length - 1;
            response = response.header(header::CONTENT_RANGE, format!("bytes {start}-{last}/{}", found.size));
            (StatusCode::PARTIAL_CONTENT, start, length)
        }
        Wanted::Nothing => {
            response = response.header(header::CONTENT_RANGE, format!("bytes */{}", found.size));
            (StatusCode::RANGE_NOT_SATISFIABLE, 0, 0)
        }
    };
    let body = if request.method == Method::HEAD || length == 0 {
        Body::empty()
    } else {
        let permit = hub.downloads.clone().try_acquire_owned().map_err(|_| Refusal::Busy)?;
        Body::from_stream(found.stream(start, length, permit))
    };
    response
        .status(status)
        .header(header::CONTENT_LENGTH, length)
        .body(body)
        .map_err(|error| Refusal::Broken(io::Error::other(error)))
}

/// Everything that is not a file.
enum Refusal {
    Method,
    Unauthorized,
    NotFound(&'static str),
    Busy,
    Broken(io::Error),
}

impl Refusal {
    fn response(self) -> Response<Body> {
        let (status, name, value, text) = match self {
            Refusal::Method => (
                StatusCode::METHOD_NOT_ALLOWED,
                header::ALLOW,
                "GET, HEAD",
                "this hub is read-only\n",
            ),
            Refusal::Unauthorized => (
                StatusCode::UNAUTHORIZED,
                header::WWW_AUTHENTICATE,
                "Bearer",
                "a valid bearer token is required\n",
            ),
            Refusal::NotFound(code) => (StatusCode::NOT_FOUND, ERROR_CODE, code, "there is no such file\n"),
            Refusal::Busy => (
                StatusCode::SERVICE_UNAVAILABLE,
                header::RETRY_AFTER,
                "5",
                "too many downloads\n",
            ),
            Refusal::Broken(error) => {
                tracing::error!(%error, "a file could not be read");
                (
                    StatusCode::INTERNAL_SERVER_ERROR,
                    ERROR_CODE,
                    "ReadFailed",
                    "the file could not be read\n",
                )
            }
        };
        let mut response = Response::new(Body::from(text));
        *response.status_mut() = status;
        response.headers_mut().insert(name, HeaderValue::from_static(value));
        response
    }
}
