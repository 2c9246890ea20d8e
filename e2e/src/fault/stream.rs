//! A watch stream on its way through the proxy: events may be dropped, held back, or the stream ended
//! with "410 Gone". Bytes of events that pass are not changed.
use anyhow::Result;
use bytes::{Buf, Bytes, BytesMut};
use futures::StreamExt;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyDataStream, BodyExt, StreamBody};
use hyper::body::Frame;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

/// Wraps the body of a watch. One event is one line of JSON; `drop_it` is asked about each.
/// While `hold` is true, events wait; when `cut` changes, the stream says 410 and ends.
pub(super) fn filtered(
    body: Body,
    drop_it: impl Fn(&Value) -> bool + Send + 'static,
    mut hold: watch::Receiver<bool>,
    mut cut: watch::Receiver<u64>,
) -> UnsyncBoxBody<Bytes, anyhow::Error> {
    // One event in flight: the operator's own pace is the API server's.
    let (sender, receiver) = mpsc::channel::<Result<Frame<Bytes>>>(1);
    tokio::spawn(async move {
        let mut lines = Lines::new(body);
        loop {
            let line = tokio::select! {
                line = lines.next() => line,
                _ = cut.changed() => break,
            };
            let Some(line) = line else { return };
            if line
                .as_ref()
                .is_ok_and(|line| serde_json::from_slice(line).is_ok_and(|event| drop_it(&event)))
            {
                continue;
            }
            tokio::select! {
                open = hold.wait_for(|held| !held) => if open.is_err() { return },
                _ = cut.changed() => break,
            }
            if sender.send(line.map(Frame::data)).await.is_err() {
                return;
            }
        }
        // Nobody to tell where the operator has left already.
        sender.send(Ok(Frame::data(gone()))).await.ok();
    });
    let frames = futures::stream::unfold(receiver, |mut receiver| async {
        let frame = receiver.recv().await?;
        Some((frame, receiver))
    });
    StreamBody::new(frames).boxed_unsync()
}

/// What an API server sends when it cannot continue a watch.
fn gone() -> Bytes {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 410,
        "reason": "Expired", "message": "the fault proxy ended this watch"});
    Bytes::from(format!("{}\n", json!({"type": "ERROR", "object": status})))
}

/// The lines of a body, each with its newline.
struct Lines {
    frames: BodyDataStream<Body>,
    rest: BytesMut,
    /// Bytes of `rest` that hold no newline, so that they are searched once.
    searched: usize,
}

impl Lines {
    fn new(body: Body) -> Self {
        Self {
            frames: body.into_data_stream(),
            rest: BytesMut::new(),
            searched: 0,
        }
    }

    /// Cancel safe: bytes stay in `rest` until a whole line is there.
    async fn next(&mut self) -> Option<Result<Bytes>> {
        loop {
            if let Some(at) = self.rest[self.searched..].iter().position(|byte| *byte == b'\n') {
                let line = self.rest.split_to(self.searched + at + 1).freeze();
                self.searched = 0;
                return Some(Ok(line));
            }
            self.searched = self.rest.len();
            match self.frames.next().await {
                Some(Ok(mut bytes)) => {
                    self.rest.extend_from_slice(&bytes);
                    bytes.advance(bytes.len());
                }
                Some(Err(error)) => return Some(Err(error.into())),
                None if self.rest.is_empty() => return None,
                None => {
                    self.searched = 0;
                    return Some(Ok(self.rest.split().freeze()));
                }
            }
        }
    }
}
