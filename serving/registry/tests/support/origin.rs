//! An HTTP server that misbehaves as its test says: every request is answered by a closure, on the wire.
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Seen {
    pub line: String,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// The first byte that `Range` asks for.
    pub fn range_start(&self) -> Option<usize> {
        self.header("range")?
            .strip_prefix("bytes=")?
            .strip_suffix('-')?
            .parse()
            .ok()
    }
}

/// Bytes on the wire, and whether the connection then is held open until the caller gives it up.
pub struct Reply {
    bytes: Vec<u8>,
    hold: bool,
}

impl Reply {
    /// A status with headers, without a body.
    pub fn head(status: &str, headers: &[(&str, &str)]) -> Reply {
        let mut text = format!("HTTP/1.1 {status}\r\nConnection: close\r\n");
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        Reply {
            bytes: text.into_bytes(),
            hold: false,
        }
    }

    pub fn status(status: &str) -> Reply {
        Reply::head(status, &[("Content-Length", "0")])
    }

    /// 200 with the whole content.
    pub fn whole(content: &[u8], headers: &[(&str, &str)]) -> Reply {
        let length = content.len().to_string();
        Reply::head("200 OK", &[&[("Content-Length", length.as_str())], headers].concat()).then(content)
    }

    /// 206 with the content from `start` on.
    pub fn rest(content: &[u8], start: usize, headers: &[(&str, &str)]) -> Reply {
        let (length, total) = ((content.len() - start).to_string(), content.len());
        let range = format!("bytes {start}-{}/{total}", total - 1);
        let heads = [("Content-Length", length.as_str()), ("Content-Range", range.as_str())];
        Reply::head("206 Partial Content", &[&heads, headers].concat()).then(&content[start..])
    }

    /// 200 in one chunk, so without an announced length.
    pub fn chunked(content: &[u8], headers: &[(&str, &str)]) -> Reply {
        let size = format!("{:x}\r\n", content.len());
        let reply = Reply::head("200 OK", &[&[("Transfer-Encoding", "chunked")], headers].concat());
        reply.then(size.as_bytes()).then(content).then(b"\r\n0\r\n\r\n")
    }

    /// Any status with a body.
    pub fn answer(status: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        let length = body.len().to_string();
        Reply::head(status, &[&[("Content-Length", length.as_str())], headers].concat()).then(body.as_bytes())
    }

    pub fn redirect(location: &str) -> Reply {
        Reply::head("302 Found", &[("Location", location), ("Content-Length", "0")])
    }

    /// Leaves off the last bytes and closes.
    pub fn cut(mut self, missing: usize) -> Reply {
        self.bytes.truncate(self.bytes.len() - missing);
        self
    }

    /// Leaves off the last bytes and says nothing more.
    pub fn stalled(self, missing: usize) -> Reply {
        Reply {
            hold: true,
            ..self.cut(missing)
        }
    }

    fn then(mut self, bytes: &[u8]) -> Reply {
        self.bytes.extend_from_slice(bytes);
        self
    }
}

/// The server; it ends when it is dropped.
pub struct Origin {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    ended: Arc<AtomicBool>,
}

impl Origin {
    /// A host of files that knows neither HEAD nor commits: `answer` gets all other requests and their number, from 0.
    pub fn start(answer: impl Fn(&Seen, usize) -> Reply + Send + Sync + 'static) -> Origin {
        Origin::raw(answer, |request| {
            request.line.starts_with("HEAD ") || request.line.starts_with("GET /api/")
        })
    }

    /// `answer` gets every request and its number, from 0.
    pub fn start_hub(answer: impl Fn(&Seen, usize) -> Reply + Send + Sync + 'static) -> Origin {
        Origin::raw(answer, |_| false)
    }

    fn raw(
        answer: impl Fn(&Seen, usize) -> Reply + Send + Sync + 'static,
        unknown: impl Fn(&Seen) -> bool + Send + Sync + 'static,
    ) -> Origin {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let origin = Origin {
            address: listener.local_addr().unwrap(),
            seen: Arc::default(),
            ended: Arc::default(),
        };
        let (seen, ended) = (origin.seen.clone(), origin.ended.clone());
        let (answer, unknown) = (Arc::new(answer), Arc::new(unknown));
        thread::spawn(move || {
            for stream in listener.incoming() {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                let (stream, seen) = (stream.unwrap(), seen.clone());
                let (answer, unknown) = (answer.clone(), unknown.clone());
                thread::spawn(move || converse(stream, &seen, &*answer, &*unknown));
            }
        });
        origin
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.address)); // wakes the accepting thread
    }
}

fn converse(
    mut stream: TcpStream,
    seen: &Mutex<Vec<Seen>>,
    answer: &dyn Fn(&Seen, usize) -> Reply,
    unknown: &dyn Fn(&Seen) -> bool,
) {
    let Some(request) = read_head(&mut stream) else { return };
    if unknown(&request) {
        // A caller that has hung up has its answer too.
        return drop(stream.write_all(&Reply::status("404 Not Found").bytes));
    }
    let number = {
        let mut seen = seen.lock().unwrap();
        seen.push(request.clone());
        seen.len() - 1
    };
    let reply = answer(&request, number);
    // The caller may hang up in the middle (a size limit); that is its right.
    if stream.write_all(&reply.bytes).is_ok() && reply.hold {
        drop(stream.read_to_end(&mut Vec::new()));
    }
}

fn read_head(stream: &mut TcpStream) -> Option<Seen> {
    let (mut bytes, mut byte) = (Vec::new(), [0]);
    while !bytes.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        bytes.push(byte[0]);
    }
    let text = String::from_utf8(bytes).ok()?;
    let mut lines = text.lines();
    let line = lines.next()?.to_owned();
    let headers = lines.filter_map(|line| line.split_once(": "));
    let headers = headers
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let mut seen = Seen {
        line,
        headers,
        body: Vec::new(),
    };
    let length = seen
        .header("content-length")
        .map_or(0, |length| length.parse().unwrap());
    seen.body.resize(length, 0);
    stream.read_exact(&mut seen.body).ok()?;
    Some(seen)
}
