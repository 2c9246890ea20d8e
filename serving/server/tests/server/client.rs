//! A blocking HTTP/1.1 client, small enough to see what is on the wire: when a connection is reused,
//! closed or broken off is what the tests are about.
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longer than any answer of these tests takes on a busy machine: a test that hangs fails with this.
const TIMEOUT: Duration = Duration::from_secs(120);

/// One connection.
pub struct Connection {
    stream: BufReader<TcpStream>,
}

/// The head of an answer.
#[derive(Debug)]
pub struct Head {
    pub status: u16,
    headers: Vec<(String, String)>,
}

impl Head {
    /// The value of a header, by its lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }
}

impl Connection {
    pub fn open(address: SocketAddr) -> Self {
        Self::try_open(address).expect("the server accepts connections")
    }

    pub fn try_open(address: SocketAddr) -> std::io::Result<Self> {
        Self::over(TcpStream::connect(address)?)
    }

    /// One whose kernel takes next to nothing that is not read.
    pub fn open_narrow(address: SocketAddr) -> std::io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_recv_buffer_size(4 << 10)?;
        socket.connect(&address.into())?;
        Self::over(socket.into())
    }

    fn over(stream: TcpStream) -> std::io::Result<Self> {
        stream.set_read_timeout(Some(TIMEOUT))?;
        Ok(Self {
            stream: BufReader::new(stream),
        })
    }

    /// Sends bytes as they are.
    pub fn write(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).expect("the server reads");
    }

    /// Sends bytes; false if the server has closed the connection.
    pub fn try_write(&mut self, bytes: &[u8]) -> bool {
        self.stream.get_mut().write_all(bytes).is_ok()
    }

    pub fn get(&mut self, path: &str) -> (Head, String) {
        self.write(format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n").as_bytes());
        self.answer()
    }

    /// Sends a JSON body without waiting for the answer.
    pub fn post(&mut self, path: &str, body: &str) {
        self.send("POST", path, "content-type: application/json\r\n", body.as_bytes());
    }

    /// Sends a request in one piece.
    pub fn send(&mut self, method: &str, path: &str, headers: &str, body: &[u8]) {
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nhost: test\r\n{headers}content-length: {length}\r\n\r\n");
        self.write(&[head.as_bytes(), body].concat());
    }

    /// Reads a whole answer.
    pub fn answer(&mut self) -> (Head, String) {
        let head = self.head();
        let mut body = Vec::new();
        if head.header("transfer-encoding") == Some("chunked") {
            while let Some(chunk) = self.chunk() {
                body.extend(chunk);
            }
        } else {
            let length = head
                .header("content-length")
                .and_then(|text| text.parse().ok())
                .unwrap_or(0);
            body.resize(length, 0);
            self.stream.read_exact(&mut body).expect("a complete body");
        }
        (head, String::from_utf8(body).expect("UTF-8"))
    }

    pub fn head(&mut self) -> Head {
        let status = self.line();
        let status = status
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok())
            .expect("a status line");
        let mut headers = Vec::new();
        loop {
            let line = self.line();
            let Some((key, value)) = line.split_once(':') else {
                break;
            };
            headers.push((key.to_lowercase(), value.trim().to_owned()));
        }
        Head { status, headers }
    }

    /// The next chunk of a chunked body; `None` at its end.
    pub fn chunk(&mut self) -> Option<Vec<u8>> {
        let length = usize::from_str_radix(&self.line(), 16).expect("a chunk's length");
        let mut chunk = vec![0; length];
        self.stream.read_exact(&mut chunk).expect("a complete chunk");
        assert_eq!(self.line(), "");
        (length > 0).then_some(chunk)
    }

    /// The next event of a stream, without comments; `None` at the end of the body.
    pub fn event(&mut self) -> Option<String> {
        loop {
            let chunk = String::from_utf8(self.chunk()?).expect("whole characters in every event");
            let event = chunk.strip_suffix("\n\n").expect("one event in a chunk");
            if let Some(data) = event.strip_prefix("data: ") {
                return Some(data.to_owned());
            }
        }
    }

    /// Waits until the server closes the connection; whatever it still sends is returned.
    pub fn until_closed(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        self.stream
            .read_to_end(&mut rest)
            .expect("the server closes the connection");
        rest
    }

    /// As `until_closed`, for a connection that may be reset because not all that was sent was read.
    pub fn until_reset(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        if let Err(error) = self.stream.read_to_end(&mut rest) {
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        }
        rest
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).expect("a line in time");
        assert!(line.ends_with("\r\n"), "the connection ended in the middle: {line:?}");
        line.trim_end().to_owned()
    }
}

/// A whole answer to a JSON body on a connection of its own.
pub fn post(address: SocketAddr, path: &str, body: &Value) -> (Head, Value) {
    let mut connection = Connection::open(address);
    connection.post(path, &body.to_string());
    let (head, body) = connection.answer();
    (head, serde_json::from_str(&body).expect("JSON"))
}

/// A whole answer to a request that must succeed.
pub fn ask(address: SocketAddr, path: &str, body: &Value) -> Value {
    let (head, answer) = post(address, path, body);
    assert_eq!(head.status, 200, "{answer}");
    answer
}

/// All events of a streamed answer that must succeed, `[DONE]` checked and removed.
pub fn stream(address: SocketAddr, path: &str, body: &Value) -> Vec<Value> {
    let mut connection = Connection::open(address);
    connection.post(path, &body.to_string());
    let head = connection.head();
    assert_eq!(
        (head.status, head.header("content-type")),
        (200, Some("text/event-stream"))
    );
    let mut events: Vec<String> = std::iter::from_fn(|| connection.event()).collect();
    assert_eq!(events.pop().as_deref(), Some("[DONE]"));
    events
        .iter()
        .map(|event| serde_json::from_str(event).expect("JSON"))
        .collect()
}
