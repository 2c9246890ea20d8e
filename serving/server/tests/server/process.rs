//! The server's process: started on a free port, waited for, stopped, and never left behind.
use crate::cache;
use crate::client::Connection;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// For anything that must happen; only a failing test waits this long.
const DEADLINE: Duration = Duration::from_secs(120);
/// Between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(5);

const MODEL: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";

/// A running server with a loaded model.
pub struct Server {
    pub address: SocketAddr,
    child: Child,
    log: Option<JoinHandle<String>>,
}

impl Server {
    /// Starts it with further flags, and waits until it is ready.
    pub fn start(flags: &[&str]) -> Self {
        Self::launch(flags).ready()
    }

    /// The same with another of the models that `make models` brings.
    pub fn start_with(model: &str, flags: &[&str]) -> Self {
        Self::spawn(&cache::model(model), flags).ready()
    }

    /// Starts it, and waits until it listens.
    pub fn launch(flags: &[&str]) -> Self {
        Self::spawn(&model(), flags)
    }

    fn ready(self) -> Self {
        until("the server is ready", || {
            Connection::open(self.address).get("/health/ready").0.status == 200
        });
        self
    }

    fn spawn(model: &Path, flags: &[&str]) -> Self {
        let mut child = command(model)
            .args(["--listen", "127.0.0.1:0", "--served-name", "smol", "--log", "debug"])
            .args(flags)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let mut stderr = child.stderr.take().expect("stderr is piped");
        let log = std::thread::spawn(move || {
            let mut text = String::new();
            stderr.read_to_string(&mut text).expect("the log is UTF-8");
            text
        });
        let lines = lines_of(&mut child);
        let Ok(first) = lines.recv_timeout(DEADLINE) else {
            let status = child.kill().and_then(|()| child.wait());
            panic!("no address on stdout, {status:?}: {}", log.join().expect("the log"));
        };
        let address = first
            .strip_prefix("listening on http://")
            .and_then(|text| text.parse().ok());
        Self {
            address: address.expect("an address on stdout"),
            child,
            log: Some(log),
        }
    }

    /// A metric's value, summed over its labels.
    pub fn metric(&self, name: &str) -> f64 {
        self.metric_of(name, "")
    }

    /// The sum of the series of a metric that have a label, written `name="value"`.
    pub fn metric_of(&self, name: &str, label: &str) -> f64 {
        let (head, text) = Connection::open(self.address).get("/metrics");
        assert_eq!(head.status, 200);
        let values = text.lines().filter(|line| line.starts_with(&format!("{name}{{")));
        values
            .filter(|line| line.contains(label))
            .map(|line| {
                line.rsplit(' ')
                    .next()
                    .and_then(|value| value.parse::<f64>().ok())
                    .expect("a value")
            })
            .sum()
    }

    /// The most memory that the process has had, in bytes.
    pub fn peak_memory(&self) -> u64 {
        let status = self.proc("status");
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a line");
        let kilobytes = line.split_whitespace().nth(1).and_then(|text| text.parse::<u64>().ok());
        kilobytes.expect("a number") << 10
    }

    /// The TCP ports on which the process listens, on any address.
    pub fn listening_ports(&self) -> Vec<u16> {
        const LISTENING: &str = "0A";
        let folder = format!("/proc/{}/fd", self.child.id());
        let files = std::fs::read_dir(folder).expect("the open files");
        let own: Vec<String> = files
            .filter_map(|file| std::fs::read_link(file.ok()?.path()).ok()?.to_str().map(str::to_owned))
            .collect();
        let tables = ["net/tcp", "net/tcp6"].map(|table| self.proc(table)).concat();
        let mut ports = Vec::new();
        for line in tables.lines() {
            let fields: Vec<&str> = line.split_whitespace().collect();
            if fields.get(3) == Some(&LISTENING) && own.contains(&format!("socket:[{}]", fields[9])) {
                let (_, port) = fields[1].rsplit_once(':').expect("an address and a port");
                ports.push(u16::from_str_radix(port, 16).expect("a port"));
            }
        }
        ports
    }

    fn proc(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).expect("Linux")
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        let status = Command::new("kill")
            .args(["-TERM", &self.child.id().to_string()])
            .status();
        assert!(status.expect("kill runs").success());
    }

    /// Waits for the end; its status and its log.
    pub fn wait(mut self) -> (ExitStatus, String) {
        let status = wait(&mut self.child);
        let log = self.log.take().expect("the log is read once").join().expect("the log");
        (status, log)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail when the process has ended already, which is fine.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Runs the server to its end with a model that it cannot use, or flags that it does not take.
pub fn run_to_end(model: &Path, flags: &[&str]) -> (ExitStatus, String) {
    let mut child = command(model)
        .args(flags)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let status = wait(&mut child);
    let mut text = String::new();
    child
        .stderr
        .take()
        .expect("stderr is piped")
        .read_to_string(&mut text)
        .expect("UTF-8");
    (status, text)
}

/// The model file of most tests.
pub fn model() -> PathBuf {
    cache::model(MODEL)
}

/// Waits for a condition that must come.
pub fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "in {DEADLINE:?} it did not come: {what}");
        std::thread::sleep(PAUSE);
    }
}

fn command(model: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_windlass-server"));
    command.arg("--model").arg(model);
    command
}

fn wait(child: &mut Child) -> ExitStatus {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(status) = child.try_wait().expect("the process can be waited for") {
            return status;
        }
        if Instant::now() > deadline {
            drop(child.kill());
            panic!("the process did not end");
        }
        std::thread::sleep(PAUSE);
    }
}

fn lines_of(child: &mut Child) -> Receiver<String> {
    let stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        stdout
            .lines()
            .map_while(Result::ok)
            .try_for_each(|line| sender.send(line))
    });
    lines
}
