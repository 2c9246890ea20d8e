//! A model hub of the test's own, listening where pods reach this machine: it answers the hub's `resolve`
//! path with ranges, and misbehaves for the files that a test says. What it serves are bytes in memory.
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use bytes::Bytes;
use futures::{StreamExt, stream};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{ACCEPT_RANGES, AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, RANGE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Node;
use kube::api::ListParams;
use kube::{Api, Client};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinHandle;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// How the hub treats requests for one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Manner {
    /// Serves it.
    Honest,
    /// Answers 401, unless the bearer token is this one.
    Locked(String),
    /// Says that the file has this many bytes.
    Boasting(u64),
    /// Sends half of the file and then nothing, until the manner changes.
    Stalling,
}

/// A running hub; it ends when this is dropped.
pub struct Hub {
    address: SocketAddr,
    shelf: Arc<Shelf>,
    accept: JoinHandle<()>,
}

#[derive(Default)]
struct Shelf {
    files: Mutex<BTreeMap<String, (Bytes, Manner)>>,
    /// Counts changes, for the answers that stall.
    changed: watch::Sender<u64>,
    requests: Mutex<Vec<String>>,
}

impl Hub {
    /// Listens where the nodes, and with them the pods, reach this machine.
    pub async fn start(client: &Client) -> Result<Self> {
        let listener = listen(client).await?;
        let address = listener.local_addr()?;
        let shelf = Arc::new(Shelf::default());
        let accept = tokio::spawn(accept(listener, shelf.clone()));
        Ok(Self { address, shelf, accept })
    }

    /// The hub's address for `--hub-url`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Puts a file on the shelf, or changes what is there. `path` is `org/repo/file.gguf`.
    pub fn put(&self, path: &str, content: impl Into<Bytes>, manner: Manner) {
        locked(&self.shelf.files).insert(path.to_owned(), (content.into(), manner));
        self.shelf.changed.send_modify(|count| *count += 1);
    }

    /// Paths of all requests so far, in order.
    pub fn requests(&self) -> Vec<String> {
        locked(&self.shelf.requests).clone()
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

/// A socket on the address from which this machine reaches the nodes; the pods have the way back.
async fn listen(client: &Client) -> Result<TcpListener> {
    let nodes = Api::<Node>::all(client.clone()).list(&ListParams::default()).await?;
    let addresses = nodes
        .items
        .into_iter()
        .filter_map(|node| node.status?.addresses)
        .flatten();
    let node = addresses
        .into_iter()
        .find(|address| address.type_ == "InternalIP")
        .context("no node has an address")?;
    let node: IpAddr = node.address.parse().context("a node's address")?;
    // Connecting a datagram socket sends nothing; it asks the routes which address would be used.
    let probe = UdpSocket::bind((if node.is_ipv4() { "0.0.0.0" } else { "::" }, 0)).await?;
    probe.connect((node, 9)).await?;
    let address = probe.local_addr()?.ip();
    TcpListener::bind((address, 0))
        .await
        .with_context(|| format!("listening on {address}"))
}

async fn accept(listener: TcpListener, shelf: Arc<Shelf>) {
    loop {
        let socket = match listener.accept().await {
            Ok((socket, _)) => socket,
            Err(error) => return eprintln!("--- the hub accepts no more connections: {error}"),
        };
        let shelf = shelf.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(shelf.clone(), request));
            // A client that leaves in the middle is no error of the hub.
            hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(socket), service)
                .await
                .ok();
        });
    }
}

async fn answer(shelf: Arc<Shelf>, request: Request<Incoming>) -> Result<Response<Body>> {
    let path = request.uri().path().to_owned();
    locked(&shelf.requests).push(format!("{} {path}", request.method()));
    if let Some(repository) = listed_repository(&path) {
        let listing = listing(&shelf, &repository);
        let status = if listing.is_empty() {
            StatusCode::NOT_FOUND
        } else {
            StatusCode::OK
        };
        let body = serde_json::to_vec(&listing)?;
        return Ok(Response::builder()
            .status(status)
            .header(CONTENT_LENGTH, body.len())
            .body(Full::new(Bytes::from(body)).boxed_unsync())?);
    }
    let found = named_file(&path).and_then(|name| {
        let found = locked(&shelf.files).get(&name).cloned();
        found.map(|(content, manner)| (name, content, manner))
    });
    let Some((name, content, manner)) = found else {
        return Ok(Response::builder().status(StatusCode::NOT_FOUND).body(empty())?);
    };
    if let Manner::Locked(token) = &manner
        && bearer(request.headers()) != Some(token)
    {
        return Ok(Response::builder().status(StatusCode::UNAUTHORIZED).body(empty())?);
    }
    let total = if let Manner::Boasting(size) = manner {
        size
    } else {
        content.len() as u64
    };
    let start = range_start(request.headers())
        .filter(|start| *start <= total)
        .unwrap_or(0);
    let mut builder = Response::builder()
        .header(ACCEPT_RANGES, "bytes")
        .header(ETAG, format!("\"{:x}-{total}\"", checksum(&content)))
        .header(CONTENT_LENGTH, total - start);
    if request.headers().contains_key(RANGE) {
        let range = format!("bytes {start}-{}/{total}", total.saturating_sub(1));
        builder = builder.status(StatusCode::PARTIAL_CONTENT).header(CONTENT_RANGE, range);
    }
    if request.method() == Method::HEAD {
        return Ok(builder.body(empty())?);
    }
    let rest = content.slice(usize::try_from(start)?.min(content.len())..);
    let body = match manner {
        Manner::Stalling => stalling(&shelf, name, rest),
        // It never ends: a body shorter than its header says would close the connection before the header went out.
        Manner::Boasting(_) => {
            let parts = stream::once(async { rest }).chain(stream::pending());
            StreamBody::new(parts.map(|part| Ok(Frame::data(part)))).boxed_unsync()
        }
        _ => Full::new(rest).boxed_unsync(),
    };
    Ok(builder.body(body)?)
}

/// Half of the bytes, and the rest once the file's manner has changed.
fn stalling(shelf: &Arc<Shelf>, name: String, rest: Bytes) -> Body {
    let (first, second) = (rest.slice(..rest.len() / 2), rest.slice(rest.len() / 2..));
    let (shelf, mut changed) = (shelf.clone(), shelf.changed.subscribe());
    let later = async move {
        let stalls = || {
            locked(&shelf.files)
                .get(&name)
                .is_some_and(|(_, manner)| *manner == Manner::Stalling)
        };
        while stalls() && changed.changed().await.is_ok() {}
        second
    };
    let parts = stream::once(async { first }).chain(stream::once(later));
    StreamBody::new(parts.map(|part| Ok(Frame::data(part)))).boxed_unsync()
}

/// `org/repo/file` of `/org/repo/resolve/<revision>/file`.
fn named_file(path: &str) -> Option<String> {
    let (repository, rest) = path.strip_prefix('/')?.split_once("/resolve/")?;
    let (_revision, file) = rest.split_once('/')?;
    Some(format!("{repository}/{file}"))
}

/// `org/repo` of `/api/models/org/repo/tree/<revision>`.
fn listed_repository(path: &str) -> Option<String> {
    let (repository, _revision) = path.strip_prefix("/api/models/")?.split_once("/tree/")?;
    Some(repository.to_owned())
}

/// The files of a repository, as the hub's API lists them.
fn listing(shelf: &Shelf, repository: &str) -> Vec<serde_json::Value> {
    let prefix = format!("{repository}/");
    let files = locked(&shelf.files);
    let entry = |(name, (content, _)): (&String, &(Bytes, Manner))| {
        let path = name.strip_prefix(&prefix)?;
        Some(serde_json::json!({"type": "file", "path": path, "size": content.len()}))
    };
    files.iter().filter_map(entry).collect()
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get(AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
}

fn range_start(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(RANGE)?
        .to_str()
        .ok()?
        .strip_prefix("bytes=")?
        .split('-')
        .next()?
        .parse()
        .ok()
}

/// Distinguishes contents; no security depends on it.
fn checksum(content: &[u8]) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    hasher.finish()
}

fn empty() -> Body {
    Empty::new().boxed_unsync()
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_resolve_path_names_repository_and_file() {
        assert_eq!(
            named_file("/org/repo/resolve/main/sub/file.gguf").as_deref(),
            Some("org/repo/sub/file.gguf")
        );
        assert_eq!(named_file("/org/repo/raw/main/file.gguf"), None);
        let listed = listed_repository("/api/models/org/repo/tree/main");
        assert_eq!(listed.as_deref(), Some("org/repo"));
    }
}
