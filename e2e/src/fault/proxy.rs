//! A reverse proxy in front of the API server that a real operator process talks through: plain HTTP on
//! 127.0.0.1, the kubeconfig's credentials behind it, the operator's writes under a user name of their own.
//! It counts writes and does what its plan says, so that the operator needs no code for tests.
//! It must not change a request or an answer that no fault was planned for.
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use anyhow::{Context, Result, anyhow};
use bytes::Bytes;
use futures::future::pending;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, RETRY_AFTER, TRANSFER_ENCODING};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::plan::{EventFilter, Plan, Write, WriteFault, is_write};
use super::stream;

type Answer = Response<UnsyncBoxBody<Bytes, anyhow::Error>>;

/// A running proxy; it ends when this is dropped.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    accept: JoinHandle<()>,
}

struct Shared {
    upstream: Client,
    user: Option<String>,
    plan: Mutex<Plan>,
    /// Kills the operator at once.
    kill: Mutex<Option<Box<dyn Fn() + Send>>>,
    /// Numbers of writes that were entered; tests wait on it.
    progress: watch::Sender<usize>,
    /// While true, watch events wait in the proxy.
    hold: watch::Sender<bool>,
    /// A new number ends every watch stream that runs.
    cut: watch::Sender<u64>,
    /// While false, answers with the fault `HoldAfter` wait in the proxy.
    release: watch::Sender<bool>,
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1. `upstream` must not retry by itself. With `user`, every request
    /// acts as that user, which the audit log names.
    pub async fn start(upstream: Client, user: Option<String>) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))
            .await
            .context("listening for the operator")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            upstream,
            user,
            plan: Mutex::default(),
            kill: Mutex::default(),
            progress: watch::Sender::new(0),
            hold: watch::Sender::new(false),
            cut: watch::Sender::new(0),
            release: watch::Sender::new(false),
        });
        let accept = tokio::spawn(accept(listener, shared.clone()));
        Ok(Self {
            address,
            shared,
            accept,
        })
    }

    /// Where the operator finds its API server.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What the kill faults call: it must end the operator at once, without a chance to finish anything.
    pub fn set_kill(&self, kill: impl Fn() + Send + 'static) {
        *locked(&self.shared.kill) = Some(Box::new(kill));
    }

    /// Puts a fault on the write with this number, counted from 1 over the life of the proxy.
    pub fn on_write(&self, number: usize, fault: WriteFault) {
        locked(&self.shared.plan).on_write.insert(number, fault);
    }

    /// The writes that came so far.
    pub fn writes(&self) -> Vec<Write> {
        locked(&self.shared.plan).writes.clone()
    }

    /// Returns once `number` writes have come.
    pub async fn await_writes(&self, number: usize) -> Result<()> {
        self.shared
            .progress
            .subscribe()
            .wait_for(|seen| *seen >= number)
            .await?;
        Ok(())
    }

    /// Lets the answers go on that wait because of `HoldAfter`.
    pub fn release_answers(&self) {
        self.shared.release.send_replace(true);
    }

    /// From now on drops the watch events for which `filter` is true; `None` lets all pass again.
    pub fn drop_events(&self, filter: Option<EventFilter>) {
        locked(&self.shared.plan).drop_event = filter;
    }

    /// Holds watch events back (`true`), or lets the held ones and all later ones pass (`false`).
    pub fn hold_events(&self, hold: bool) {
        self.shared.hold.send_replace(hold);
    }

    /// Remembers what the operator's lists have said so far, for a later `travel_back`.
    pub fn remember_lists(&self) -> Result<()> {
        let mut plan = locked(&self.shared.plan);
        if plan.lists.is_empty() {
            return Err(anyhow!("the operator has not listed anything through the proxy"));
        }
        plan.past = plan.lists.clone();
        Ok(())
    }

    /// Answers the next LIST of each kind with what `remember_lists` kept, and ends the running watches
    /// with "410 Gone", so that the operator lists again.
    pub fn travel_back(&self) {
        {
            let mut plan = locked(&self.shared.plan);
            plan.replay = plan.past.clone();
        }
        self.shared.cut.send_modify(|epoch| *epoch += 1);
    }

    /// True once every list of `travel_back` was answered from the past.
    pub fn has_travelled(&self) -> bool {
        locked(&self.shared.plan).replay.is_empty()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let socket = match listener.accept().await {
            Ok((socket, _)) => socket,
            Err(error) => return eprintln!("--- the fault proxy accepts no more connections: {error}"),
        };
        let shared = shared.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| relay(shared.clone(), request));
            // An error here is a fault that we made, or an operator that died: both are expected.
            hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(socket), service)
                .await
                .ok();
        });
    }
}

/// An error ends the connection without an answer.
async fn relay(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Answer> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    if is_write(&method, &path) {
        return relay_write(shared, request, &method, &path).await;
    }
    if method == Method::GET && !path.starts_with("/apis/coordination.k8s.io/") {
        let query = request.uri().query().unwrap_or_default().to_owned();
        if query.split('&').any(|pair| pair == "watch=true" || pair == "watch=1") {
            return relay_watch(shared, request).await;
        }
        // Lists without a name at the end; a single object has no `limit`.
        if query.split('&').any(|pair| pair.starts_with("limit=")) {
            return relay_list(shared, request, format!("{path}?{query}")).await;
        }
    }
    let response = forward(&shared, request).await?;
    Ok(response.map(|body| body.map_err(anyhow::Error::from).boxed_unsync()))
}

async fn relay_write(shared: Arc<Shared>, request: Request<Incoming>, method: &Method, path: &str) -> Result<Answer> {
    let (number, fault) = locked(&shared.plan).enter(method, path);
    shared.progress.send_replace(number);
    match fault {
        Some(WriteFault::KillBefore) => {
            shared.kill()?;
            return Err(anyhow!("killed before write {number}"));
        }
        Some(WriteFault::Refuse(status)) => return refusal(status),
        _ => {}
    }
    let response = forward(&shared, request).await?;
    let (parts, body) = response.into_parts();
    // The whole answer, so that the write is known to be done before a fault strikes.
    let bytes = body.collect().await?.to_bytes();
    locked(&shared.plan).answered(number, parts.status);
    match fault {
        Some(WriteFault::KillAfter) => {
            shared.kill()?;
            Err(anyhow!("killed after write {number}"))
        }
        Some(WriteFault::CutAfter) => Err(anyhow!("cut after write {number}")),
        Some(WriteFault::SilentAfter) => pending().await,
        Some(WriteFault::HoldAfter) => {
            shared.release.subscribe().wait_for(|released| *released).await?;
            Ok(Response::from_parts(parts, full(bytes)))
        }
        _ => Ok(Response::from_parts(parts, full(bytes))),
    }
}

async fn relay_list(shared: Arc<Shared>, request: Request<Incoming>, list: String) -> Result<Answer> {
    let old = locked(&shared.plan).replay.remove(&list);
    if let Some(old) = old {
        return Ok(Response::builder()
            .header(CONTENT_TYPE, "application/json")
            .body(full(old))?);
    }
    let (parts, body) = forward(&shared, request).await?.into_parts();
    let bytes = body.collect().await?.to_bytes();
    if parts.status.is_success() {
        locked(&shared.plan).lists.insert(list, bytes.clone());
    }
    Ok(Response::from_parts(parts, full(bytes)))
}

async fn relay_watch(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Answer> {
    let (hold, cut) = (shared.hold.subscribe(), shared.cut.subscribe());
    let response = forward(&shared, request).await?;
    if !response.status().is_success() {
        return Ok(response.map(|body| body.map_err(anyhow::Error::from).boxed_unsync()));
    }
    let drop_it = move |event: &Value| {
        locked(&shared.plan)
            .drop_event
            .as_ref()
            .is_some_and(|filter| filter(event))
    };
    Ok(response.map(|body| stream::filtered(body, drop_it, hold, cut)))
}

async fn forward(shared: &Shared, request: Request<Incoming>) -> Result<Response<Body>> {
    let (mut parts, body) = request.into_parts();
    for header in [HOST, CONNECTION, AUTHORIZATION, TRANSFER_ENCODING] {
        parts.headers.remove(header);
    }
    if let Some(user) = &shared.user {
        parts.headers.insert("impersonate-user", user.parse()?);
    }
    let bytes = body.collect().await?.to_bytes();
    Ok(shared
        .upstream
        .send(Request::from_parts(parts, Body::from(bytes)))
        .await?)
}

fn refusal(status: u16) -> Result<Answer> {
    let code = StatusCode::from_u16(status)?;
    let reason = match status {
        403 => "Forbidden",
        409 => "Conflict",
        422 => "Invalid",
        429 => "TooManyRequests",
        503 => "ServiceUnavailable",
        _ => "InternalError",
    };
    let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status, "reason": reason,
        "message": "the fault proxy refused this write"});
    let mut builder = Response::builder()
        .status(code)
        .header(CONTENT_TYPE, "application/json");
    if matches!(status, 429 | 503) {
        builder = builder.header(RETRY_AFTER, "1");
    }
    Ok(builder.body(full(Bytes::from(body.to_string())))?)
}

fn full(bytes: Bytes) -> UnsyncBoxBody<Bytes, anyhow::Error> {
    Full::new(bytes)
        .map_err(|never: Infallible| match never {})
        .boxed_unsync()
}

impl Shared {
    fn kill(&self) -> Result<()> {
        let kill = locked(&self.kill);
        let kill = kill
            .as_ref()
            .context("a kill fault was planned, but the proxy knows no operator to kill")?;
        kill();
        Ok(())
    }
}

/// A poisoned lock means that a test has failed already; its data still serve the evidence.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
