//! Connections that readers must keep moving: whoever takes too long for a mebibyte, or for the rest, is cut off.
//!
//! Only the time counts in which bytes wait for the reader: neither the pauses between requests nor a slow disk.
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, Sleep, sleep_until};

/// Bytes that must be taken within the allowance.
const STRETCH: u64 = 1 << 20;

/// A listener whose connections have an allowance.
pub struct PacedListener {
    listener: TcpListener,
    allowance: Duration,
}

impl PacedListener {
    /// `allowance`: how long a reader may let bytes wait for each mebibyte.
    pub fn new(listener: TcpListener, allowance: Duration) -> PacedListener {
        PacedListener { listener, allowance }
    }
}

impl Listener for PacedListener {
    type Io = Paced;
    type Addr = std::net::SocketAddr;

    async fn accept(&mut self) -> (Paced, Self::Addr) {
        // axum's own, which waits and goes on after errors such as too many open files.
        let (stream, address) = Listener::accept(&mut self.listener).await;
        (Paced::new(stream, self.allowance), address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// A connection that ends with an error when its reader is too slow.
pub struct Paced {
    stream: TcpStream,
    allowance: Duration,
    /// Since when bytes have been waiting, and when the allowance of this stretch ends.
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
    /// Time spent waiting, and bytes taken, in this stretch.
    waited: Duration,
    taken: u64,
}

impl Paced {
    fn new(stream: TcpStream, allowance: Duration) -> Paced {
        Paced {
            stream,
            allowance,
            waiting: None,
            waited: Duration::ZERO,
            taken: 0,
        }
    }

    /// Counts what a write or a flush came to.
    fn count(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(result) = result {
            if let Some((since, _)) = self.waiting.take() {
                self.waited += since.elapsed();
            }
            self.taken += *result.as_ref().unwrap_or(&0) as u64;
            if self.taken >= STRETCH {
                (self.waited, self.taken) = (Duration::ZERO, 0);
            }
            return Poll::Ready(result);
        }
        let left = self.allowance.saturating_sub(self.waited);
        let (_, end) = self.waiting.get_or_insert_with(|| {
            let now = Instant::now();
            (now, Box::pin(sleep_until(now + left)))
        });
        ready!(end.as_mut().poll(cx));
        tracing::warn!(
            "a reader that took {} bytes in {:?} is cut off",
            self.taken,
            self.allowance
        );
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the reader is too slow")))
    }
}

impl AsyncRead for Paced {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Paced {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.count(cx, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.count(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn pair(allowance: Duration) -> (Paced, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let reader = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut listener = PacedListener::new(listener, allowance);
        (listener.accept().await.0, reader)
    }

    #[tokio::test]
    async fn a_reader_that_takes_nothing_is_cut_off() {
        let (mut writer, reader) = pair(Duration::from_millis(50)).await;
        let error = writer.write_all(&vec![0; 64 << 20]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(reader);
    }

    #[tokio::test]
    async fn pauses_in_which_nothing_waits_for_the_reader_do_not_count() {
        let (mut writer, mut reader) = pair(Duration::from_millis(50)).await;
        let mut buffer = [0; 4];
        for _ in 0..3 {
            writer.write_all(b"1234").await.unwrap();
            reader.read_exact(&mut buffer).await.unwrap();
            tokio::time::sleep(Duration::from_millis(60)).await;
        }
    }

    #[tokio::test]
    async fn a_reader_that_goes_on_gets_all_however_long_the_whole_takes() {
        let (mut writer, mut reader) = pair(Duration::from_secs(20)).await;
        let writing = tokio::spawn(async move { writer.write_all(&vec![0; 32 << 20]).await });
        let mut all = Vec::new();
        reader.read_to_end(&mut all).await.unwrap();
        writing.await.unwrap().unwrap();
        assert_eq!(all.len(), 32 << 20);
    }
}
