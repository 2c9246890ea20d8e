//! A server that runs for one measurement, and ends with it.
use anyhow::{Context, Result, bail};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

/// Loading a large model takes time; a server that is not ready by then never will be.
const PATIENCE: Duration = Duration::from_secs(300);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// Ends when it is dropped.
pub struct Running {
    child: Child,
    /// Its address.
    pub url: String,
    /// From the start of the process to the first sign that it is ready.
    pub ready_s: f64,
}

/// What a server used.
#[derive(Debug, Clone, Copy, Default)]
pub struct Used {
    /// Processor time of all its threads, in seconds.
    pub cpu_s: f64,
    /// The most memory that it had at once, in MiB.
    pub memory_mib: f64,
}

/// A port that nobody listens on now.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

impl Running {
    /// Starts it and waits until `ready` answers with 200. What it prints goes to `log`.
    pub async fn start(command: &[String], port: u16, ready: &str, log: &Path) -> Result<Self> {
        let (program, arguments) = command.split_first().context("an empty command")?;
        let file = std::fs::File::create(log).with_context(|| log.display().to_string())?;
        let begin = Instant::now();
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {program}"))?;
        while !answers(port, ready).await {
            if let Some(status) = child.try_wait()? {
                bail!("{} ended with {status}; see {}", command.join(" "), log.display());
            }
            if begin.elapsed() > PATIENCE {
                bail!(
                    "{} is not ready after {} s; see {}",
                    command.join(" "),
                    PATIENCE.as_secs(),
                    log.display()
                );
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(Self {
            child,
            url: format!("http://127.0.0.1:{port}"),
            ready_s: begin.elapsed().as_secs_f64(),
        })
    }

    /// What it used so far; zeros where the system does not say.
    pub fn used(&self) -> Used {
        let Some(id) = self.child.id() else {
            return Used::default();
        };
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        let peak = crate::machine::field(&format!("/proc/{id}/status"), "VmHWM");
        Used {
            cpu_s: ticks(&stat).unwrap_or(0) as f64 / 100.0,
            memory_mib: peak
                .strip_suffix(" kB")
                .and_then(|kb| kb.trim().parse::<f64>().ok())
                .unwrap_or(0.0)
                / 1024.0,
        }
    }

    /// Ends it and waits until it is gone, so that the next one has the machine for itself.
    pub async fn stop(mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }
}

/// User and system time of /proc/PID/stat, in hundredths of a second. The name, the second field, may hold anything.
fn ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11);
    Some(times.next()?.parse::<u64>().ok()? + times.next()?.parse::<u64>().ok()?)
}

/// Whether a GET is answered with 200.
async fn answers(port: u16, path: &str) -> bool {
    let exchange = async {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut start = [0; 12];
        stream.read_exact(&mut start).await?;
        Ok::<bool, std::io::Error>(start.ends_with(b" 200"))
    };
    exchange.await.unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_found_behind_any_name() {
        let stat = "7 (a) b (c) R 1 7 7 0 -1 4194304 99 0 0 0 250 50 0 0 20 0 1 0 5 1 1";
        assert_eq!(ticks(stat), Some(300));
        assert_eq!(ticks(""), None);
    }

    #[tokio::test]
    async fn a_server_that_ends_before_it_is_ready_is_an_error_with_its_log() {
        let room = tempfile::tempdir().unwrap();
        let log = room.path().join("log");
        let command = ["sh", "-c", "echo broken; exit 3"].map(str::to_owned);
        let error = Running::start(&command, free_port().unwrap(), "/", &log)
            .await
            .err()
            .unwrap();
        assert!(error.to_string().contains("exit status: 3"), "{error}");
        assert_eq!(std::fs::read_to_string(log).unwrap(), "broken\n");
    }
}
