//! One request on one connection, recorded as it arrives. Nothing is parsed here: what the generator computes while
//! the clock runs, it takes from the server that it measures.
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// Longer than any request of a benchmark waits; one that hangs ends with this.
const PATIENCE: Duration = Duration::from_secs(600);

/// Who is asked.
#[derive(Debug, Clone)]
pub struct Target {
    authority: String,
    path: String,
}

impl Target {
    /// `url` is `http://host:port`, `path` begins with a slash.
    pub fn new(url: &str, path: &str) -> Result<Self> {
        let uri: Uri = url.parse().with_context(|| format!("the address {url:?}"))?;
        ensure!(
            uri.scheme_str() == Some("http"),
            "{url}: only http:// addresses can be measured"
        );
        let host = uri.host().with_context(|| format!("{url}: no host"))?;
        Ok(Self {
            authority: format!("{host}:{}", uri.port_u16().unwrap_or(80)),
            path: path.to_owned(),
        })
    }
}

/// What happened to a request.
#[derive(Debug)]
pub struct Recording {
    /// When it was to be sent.
    pub due: Instant,
    /// When it was handed to the connection.
    pub sent: Instant,
    /// The body, as it came.
    pub pieces: Vec<(Instant, Bytes)>,
    /// When the body was complete.
    pub end: Instant,
    /// Why there is no complete body with status 200.
    pub failure: Option<String>,
}

/// A connection that is opened when it is first needed, and kept.
#[derive(Debug, Default)]
pub struct Connection(Option<SendRequest<Full<Bytes>>>);

impl Connection {
    /// Sends a JSON body and records the answer; all times count from `due`.
    pub async fn record(&mut self, target: &Target, body: Bytes, due: Instant) -> Recording {
        let mut recording = Recording {
            due,
            sent: due,
            pieces: Vec::new(),
            end: due,
            failure: None,
        };
        let outcome = match tokio::time::timeout(PATIENCE, self.exchange(target, body, &mut recording)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(anyhow::anyhow!("no complete answer in {} s", PATIENCE.as_secs())),
        };
        recording.end = Instant::now();
        if let Err(error) = outcome {
            recording.failure = Some(format!("{error:#}"));
            self.0 = None;
        }
        recording
    }

    async fn exchange(&mut self, target: &Target, body: Bytes, recording: &mut Recording) -> Result<()> {
        let request = Request::post(&target.path)
            .header("host", &target.authority)
            .header("content-type", "application/json")
            .body(Full::new(body))?;
        let was_kept = self.0.is_some();
        let sender = self.open(target).await?;
        recording.sent = Instant::now();
        let response = match sender.send_request(request.clone()).await {
            // Some servers close a connection after an answer without saying so in it: every client asks again.
            Err(_) if was_kept => {
                self.0 = None;
                let sender = self.open(target).await?;
                sender.send_request(request).await
            }
            response => response,
        };
        let response = response.context("no answer")?;
        let status = response.status();
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            // What is no data is trailers, in which nobody is interested.
            if let Ok(data) = frame.context("the answer broke off")?.into_data() {
                recording.pieces.push((Instant::now(), data));
            }
        }
        ensure!(
            status == StatusCode::OK,
            "status {status}: {}",
            beginning(&recording.pieces)
        );
        Ok(())
    }

    async fn open(&mut self, target: &Target) -> Result<&mut SendRequest<Full<Bytes>>> {
        let usable = match &mut self.0 {
            Some(sender) => sender.ready().await.is_ok(),
            None => false,
        };
        if !usable {
            self.0 = None;
            let socket = TcpStream::connect(&target.authority).await.context("connecting")?;
            socket.set_nodelay(true)?;
            let (sender, connection) = handshake(TokioIo::new(socket)).await.context("handshake")?;
            // Its errors are those of the request that is under way.
            tokio::spawn(async move { connection.await.ok() });
            self.0 = Some(sender);
        }
        self.0.as_mut().context("no connection")
    }
}

fn beginning(pieces: &[(Instant, Bytes)]) -> String {
    let body: Vec<u8> = pieces
        .iter()
        .flat_map(|(_, piece)| piece.iter().copied())
        .take(300)
        .collect();
    String::from_utf8_lossy(&body).trim().to_owned()
}
