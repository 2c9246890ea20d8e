//! The load generator of the rollout tests; it runs in the client pod. Takes an `Order` as its argument, marks
//! from stdin, ends with stdin, and prints a `Report`. It hides nothing: no retry, no status but 200 is well;
//! only a kept connection that the server closed between two requests is opened again, as any client would.
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;
use windlass_e2e::traffic::{Order, Report};

type Sender = SendRequest<Full<Bytes>>;

/// The kernel's smallest: what a client does not read stays with the server.
const HELD_BUFFER: u32 = 4 << 10;

/// Shared by all clients.
struct Run {
    order: Order,
    started: Instant,
    report: Mutex<Report>,
    /// Marks so far; `None` once no new request may start.
    marks: watch::Sender<Option<usize>>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let order = std::env::args().nth(1).context("usage: traffic ORDER-AS-JSON")?;
    let order: Order = serde_json::from_str(&order).context("the order")?;
    let run = Arc::new(Run {
        order,
        started: Instant::now(),
        report: Mutex::default(),
        marks: watch::Sender::new(Some(0)),
    });
    let mut clients = JoinSet::new();
    for _ in 0..run.order.fresh {
        clients.spawn(fresh(run.clone()));
    }
    for _ in 0..run.order.kept {
        clients.spawn(kept(run.clone()));
    }
    for _ in 0..run.order.streams {
        clients.spawn(streams(run.clone()));
    }
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while lines.next_line().await?.is_some() {
        run.marks.send_modify(|marks| *marks = marks.map(|count| count + 1));
    }
    run.marks.send_replace(None);
    while let Some(client) = clients.join_next().await {
        client?;
    }
    let report = locked(&run.report).clone();
    // The report is the program's answer.
    #[allow(clippy::print_stdout)]
    {
        println!("{}", serde_json::to_string(&report)?);
    }
    Ok(())
}

impl Run {
    fn goes_on(&self) -> bool {
        self.marks.borrow().is_some()
    }

    async fn pause(&self) {
        sleep(Duration::from_millis(self.order.pause)).await;
    }
}

async fn fresh(run: Arc<Run>) {
    while run.goes_on() {
        let outcome = async {
            let mut sender = connect(&run.order).await?;
            whole(sender.send_request(request(&run.order, &run.order.short)?).await?).await
        };
        let outcome = outcome.await.map_err(|error| format!("{error:#}"));
        locked(&run.report).fresh.count(outcome, run.started.elapsed());
        run.pause().await;
    }
}

async fn kept(run: Arc<Run>) {
    let mut connection: Option<Sender> = None;
    while run.goes_on() {
        let outcome = kept_request(&run, &mut connection)
            .await
            .map_err(|error| format!("{error:#}"));
        if outcome.is_err() {
            connection = None;
        }
        locked(&run.report).kept.count(outcome, run.started.elapsed());
        run.pause().await;
    }
}

async fn kept_request(run: &Run, connection: &mut Option<Sender>) -> Result<()> {
    let closed = match connection {
        Some(sender) => sender.ready().await.is_err(),
        None => true,
    };
    if closed {
        if connection.is_some() {
            locked(&run.report).reconnects += 1;
        }
        *connection = Some(connect(&run.order).await?);
    }
    let sender = connection.as_mut().context("no connection")?;
    whole(sender.send_request(request(&run.order, &run.order.short)?).await?).await
}

async fn streams(run: Arc<Run>) {
    let mut marks = run.marks.subscribe();
    while run.goes_on() {
        marks.mark_unchanged();
        let outcome = async {
            let mut sender = converse(held_socket(&run.order).await?).await?;
            let response = sender.send_request(request(&run.order, &run.order.long)?).await?;
            streamed(response, &mut marks).await
        };
        let outcome = outcome.await.map_err(|error| format!("{error:#}"));
        let mut report = locked(&run.report);
        report.streams_across_a_mark += usize::from(outcome == Ok(true));
        report.streams.count(outcome.map(drop), run.started.elapsed());
    }
}

async fn connect(order: &Order) -> Result<Sender> {
    converse(TcpStream::connect(&order.authority).await.context("connecting")?).await
}

async fn held_socket(order: &Order) -> Result<TcpStream> {
    let mut addresses = lookup_host(&order.authority).await.context("resolving")?;
    let address = addresses.find(|address| address.is_ipv4()).context("no IPv4 address")?;
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(HELD_BUFFER)?;
    socket.connect(address).await.context("connecting")
}

async fn converse(socket: TcpStream) -> Result<Sender> {
    let (sender, connection) = handshake(TokioIo::new(socket)).await.context("handshake")?;
    // The request on this connection reports its errors.
    tokio::spawn(async move { connection.await.ok() });
    Ok(sender)
}

fn request(order: &Order, body: &Value) -> Result<Request<Full<Bytes>>> {
    let request = Request::post(&order.path)
        .header("host", &order.authority)
        .header("content-type", "application/json");
    Ok(request.body(Full::new(Bytes::from(body.to_string())))?)
}

async fn whole(response: Response<Incoming>) -> Result<()> {
    let status = response.status();
    let body = response
        .into_body()
        .collect()
        .await
        .context("reading the answer")?
        .to_bytes();
    if status != StatusCode::OK {
        bail!("status {status}: {}", String::from_utf8_lossy(&body));
    }
    serde_json::from_slice::<Value>(&body).context("the answer is not JSON")?;
    Ok(())
}

/// Reads a stream to its proper end, most of it only after a mark. `false` where the traffic ended instead.
async fn streamed(response: Response<Incoming>, marks: &mut watch::Receiver<Option<usize>>) -> Result<bool> {
    let status = response.status();
    let mut body = response.into_body();
    let mut text = Vec::new();
    let mut marked = false;
    while let Some(frame) = body.frame().await {
        text.extend_from_slice(&frame.context("the stream broke")?.into_data().unwrap_or_default());
        if !marked && status == StatusCode::OK {
            marks.changed().await?;
            marked = true;
        }
    }
    let text = String::from_utf8_lossy(&text);
    if status != StatusCode::OK {
        bail!("status {status}: {text}");
    }
    if !text.trim_end().ends_with("data: [DONE]") {
        bail!("the stream ended without [DONE]: {:?}", text.lines().last());
    }
    Ok(marks.borrow().is_some())
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
