//! Accepts connections, and ends them in order. A drain closes the listener at once, tells clients with
//! every answer to use another connection, gives idle connections a moment to send what they already
//! decided to send, then closes them; running answers end by themselves, and are over when the client's
//! side has them.
use crate::app::App;
use crate::http::router;
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use socket2::{SockRef, Socket};
use std::io::ErrorKind;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections at once; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 4096;
/// For the head of a request, and for the time between two requests: above what load balancers use (60 s).
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);
/// Bytes of a request's head.
const MAX_HEAD_BYTES: usize = 16 << 10;
/// Bytes buffered for a connection in each direction.
const MAX_BUFFER_BYTES: usize = 64 << 10;
/// How long a drain leaves idle connections open, so that a request under way to us is not lost.
const LINGER: Duration = Duration::from_secs(2);
/// Pause after a failure to accept that is not the connection's own, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `stop`, then drains for at most `drain_timeout`. Returns how many connections were still open.
pub async fn serve(listener: TcpListener, app: Arc<App>, stop: CancellationToken, drain_timeout: Duration) -> usize {
    let connections = Connections {
        router: router(app.clone()),
        app: app.clone(),
        drain_timeout,
        places: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
        close: CancellationToken::new(),
        tasks: TaskTracker::new(),
    };
    while let Some(accepted) = stop.run_until_cancelled(connections.accept(&listener)).await {
        match accepted {
            Ok((stream, place)) => connections.spawn(stream, place),
            Err(error) if is_connections_own(&error) => tracing::debug!(%error, "a connection ended before it began"),
            Err(error) => {
                tracing::error!(%error, "cannot accept connections");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    app.drain();
    connections.take_backlog(listener);
    connections.drain().await
}

struct Connections {
    router: Router,
    app: Arc<App>,
    drain_timeout: Duration,
    places: Arc<Semaphore>,
    close: CancellationToken,
    tasks: TaskTracker,
}

impl Connections {
    async fn accept(&self, listener: &TcpListener) -> std::io::Result<(TcpStream, OwnedSemaphorePermit)> {
        let place = self
            .places
            .clone()
            .acquire_owned()
            .await
            .map_err(std::io::Error::other)?;
        let (stream, _) = listener.accept().await?;
        Ok((stream, place))
    }

    /// The kernel has completed these connections, so their clients are sending already: closing the
    /// listener would reset them.
    fn take_backlog(&self, listener: TcpListener) {
        let listener = match listener.into_std() {
            Ok(listener) => listener,
            Err(error) => return tracing::error!(%error, "waiting connections are lost"),
        };
        while let Ok(place) = self.places.clone().try_acquire_owned() {
            let stream = listener.accept().and_then(|(stream, _)| {
                stream.set_nonblocking(true)?;
                TcpStream::from_std(stream)
            });
            match stream {
                Ok(stream) => self.spawn(stream, place),
                Err(error) if is_connections_own(&error) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => return tracing::error!(%error, "waiting connections are lost"),
            }
        }
    }

    fn spawn(&self, stream: TcpStream, place: OwnedSemaphorePermit) {
        let (router, close) = (self.router.clone(), self.close.clone());
        let (app, drain_timeout) = (self.app.clone(), self.drain_timeout);
        self.tasks.spawn(async move {
            let _place = place;
            let socket = SockRef::from(&stream).try_clone();
            if let Err(error) = connection(stream, router, close, HEAD_TIMEOUT).await {
                // Clients go away and send nonsense: nothing that an operator of this server can act on.
                tracing::debug!(%error, "a connection ended early");
            }
            if app.is_draining()
                && let Ok(socket) = socket
            {
                delivered(socket, drain_timeout).await;
            }
        });
    }

    async fn drain(&self) -> usize {
        let drain_timeout = self.drain_timeout;
        let deadline = tokio::time::Instant::now() + drain_timeout;
        self.tasks.close();
        let lingered = timeout(LINGER.min(drain_timeout), self.tasks.wait()).await;
        self.close.cancel();
        if lingered.is_err() && timeout_at(deadline, self.tasks.wait()).await.is_err() {
            return self.tasks.len();
        }
        0
    }
}

async fn connection(
    stream: TcpStream,
    router: Router,
    close: CancellationToken,
    head_timeout: Duration,
) -> Result<(), hyper::Error> {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "tokens of this connection may arrive in bunches");
    }
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head_timeout)
        .max_header_size(MAX_HEAD_BYTES)
        .max_buf_size(MAX_BUFFER_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    if let Some(result) = close.run_until_cancelled(connection.as_mut()).await {
        return result;
    }
    connection.as_mut().graceful_shutdown();
    connection.await
}

/// Closes a connection's last handle and returns once the client's side has confirmed all that was written: a pod's
/// network goes with its process, and what the kernel still holds then would be lost without a word.
async fn delivered(socket: Socket, within: Duration) {
    // Less than a second would be none, and none throws away what is held.
    let within = within.max(Duration::from_secs(1));
    let closed = tokio::task::spawn_blocking(move || {
        let lingers = socket.set_linger(Some(within));
        drop(socket);
        lingers
    });
    if let Ok(Err(error)) = closed.await {
        tracing::debug!(%error, "the end of an answer may be lost");
    }
}

/// Failures that concern one client only.
fn is_connections_own(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::ConnectionRefused
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    /// What a client that sends `bytes` and no more has got when the server ends the connection.
    async fn answer_to(bytes: &'static [u8]) -> String {
        let app = Arc::new(App::new("m".to_owned(), Duration::MAX).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        // Connected and sent before the server looks: what it waits for is what never comes.
        let mut client = std::net::TcpStream::connect(address).unwrap();
        client.write_all(bytes).unwrap();
        let client = tokio::task::spawn_blocking(move || {
            let mut answer = String::new();
            client.read_to_string(&mut answer).unwrap();
            answer
        });
        let (stream, _) = listener.accept().await.unwrap();
        let ended = connection(stream, router(app), CancellationToken::new(), Duration::from_millis(1)).await;
        drop(ended); // an error or not: the client decides what counts
        client.await.unwrap()
    }

    #[tokio::test]
    async fn a_head_that_does_not_come_to_its_end_ends_the_connection() {
        for bytes in [
            &b""[..],
            b"GET /health/li",
            b"GET /health/live HTTP/1.1\r\nhost: t\r\nx-slow: ",
        ] {
            let answer = answer_to(bytes).await;
            assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
        }
    }

    #[tokio::test]
    async fn an_idle_connection_ends_after_its_answer() {
        let answer = answer_to(b"GET /health/live HTTP/1.1\r\nhost: t\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}
