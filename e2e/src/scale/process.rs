//! Operator processes of a measurement, as a pod of the chart would run them, and what the kernel and their metrics say
//! about them. Linux only: it reads /proc.
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::process::{Child, Command};

use crate::scale::control_plane::of_process;
use crate::scale::histogram::{Histogram, value};
use crate::until::until_some;

/// The namespace of the operator and its Lease.
pub const NAMESPACE: &str = "windlass-system";
/// Its ServiceAccount and its Lease, as the chart names both of a release `scale`.
pub const ACCOUNT: &str = "scale-operator";
/// Seconds for which an unrenewed Lease protects its holder: the operator's own default.
pub const LEASE_SECONDS: u32 = 15;
const DURATION: &str = "windlass_operator_reconcile_duration_seconds";

/// A running operator. Dropping it kills the process.
pub struct Operator {
    identity: String,
    child: Child,
    id: u32,
    metrics: String,
    health: String,
    log: PathBuf,
}

/// Memory and processor time of a process.
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
pub struct Usage {
    /// Bytes of memory now (VmRSS).
    pub resident: u64,
    /// Most bytes of memory so far (VmHWM).
    pub peak: u64,
    /// Seconds of processor time so far.
    pub cpu_seconds: f64,
}

impl Operator {
    /// Starts the executable with a kubeconfig. Its log continues `folder/operator-IDENTITY.log`.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn start(executable: &Path, kubeconfig: &Path, folder: &Path, identity: &str) -> Result<Self> {
        let log_file = folder.join(format!("operator-{identity}.log"));
        let log = File::options().create(true).append(true).open(&log_file)?;
        let (metrics, health) = (free_address()?, free_address()?);
        let child = Command::new(executable)
            .arg("run")
            .args([
                "--server-image",
                "windlass-server:scale",
                "--registry-image",
                "windlass-registry:scale",
            ])
            .args(["--metrics-listen", &metrics, "--health-listen", &health])
            .args(["--operator-namespace", NAMESPACE, "--identity", identity])
            .args(["--lease-name", ACCOUNT, "--lease-duration", &LEASE_SECONDS.to_string()])
            .env("KUBECONFIG", kubeconfig)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {}", executable.display()))?;
        let id = child.id().context("the operator ended at once")?;
        Ok(Self {
            identity: identity.to_owned(),
            child,
            id,
            metrics: format!("http://{metrics}/metrics"),
            health: format!("http://{health}/readyz"),
            log: log_file,
        })
    }

    /// Its identity in the Lease.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Fails when the process has ended by itself.
    ///
    /// # Errors
    /// With its exit status and where its log is.
    pub fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("the operator ended ({status}); its log is {}", self.log.display()),
        }
    }

    /// Returns once it leads.
    ///
    /// # Errors
    /// When it does not within a minute.
    pub async fn await_leading(&self) -> Result<()> {
        let what = format!("{} to lead; its log is {}", self.identity, self.log.display());
        until_some(&what, Duration::from_secs(60), async || {
            let leads = value(&self.scrape().await?, "windlass_operator_leader")? > 0.0;
            Ok(leads.then_some(()))
        })
        .await
    }

    /// Returns once it is ready, as the leader or waiting for the Lease.
    ///
    /// # Errors
    /// When it is not within a minute.
    pub async fn await_ready(&self) -> Result<()> {
        let what = format!("{} to be ready; its log is {}", self.identity, self.log.display());
        until_some(&what, Duration::from_secs(60), async || {
            get(&self.health).await?;
            Ok(Some(()))
        })
        .await
    }

    /// The durations of its reconciles so far.
    ///
    /// # Errors
    /// When the metrics cannot be read.
    pub async fn durations(&self) -> Result<Histogram> {
        Histogram::parse(&self.scrape().await?, DURATION)
    }

    /// How many of its reconciles failed so far.
    ///
    /// # Errors
    /// When the metrics cannot be read.
    pub async fn failures(&self) -> Result<f64> {
        value(&self.scrape().await?, "windlass_operator_failures_total")
    }

    /// What it uses.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn usage(&self) -> Result<Usage> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id))?;
        Ok(Usage {
            resident: kilobytes(&status, "VmRSS:")? << 10,
            peak: kilobytes(&status, "VmHWM:")? << 10,
            cpu_seconds: of_process(self.id)?,
        })
    }

    /// Kills it as a lost node would.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub async fn kill(mut self) -> Result<()> {
        self.child.kill().await.context("killing the operator")
    }

    /// Asks it to end, as a kubelet does, and waits until it has.
    ///
    /// # Errors
    /// When it ends badly, or not within half a minute.
    pub async fn stop(mut self) -> Result<()> {
        // The shell's own `kill` needs no package.
        let status = Command::new("sh")
            .args(["-c", &format!("kill -TERM {}", self.id)])
            .status()
            .await?;
        ensure!(status.success(), "kill -TERM {}: {status}", self.id);
        let ended = tokio::time::timeout(Duration::from_secs(30), self.child.wait()).await;
        let status = ended.context("the operator does not end on SIGTERM within 30 s")??;
        ensure!(
            status.success(),
            "the operator ended with {status} on SIGTERM; its log is {}",
            self.log.display()
        );
        Ok(())
    }

    async fn scrape(&self) -> Result<String> {
        get(&self.metrics).await
    }
}

async fn get(url: &str) -> Result<String> {
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let response = client.get(url.parse()?).await.with_context(|| format!("GET {url}"))?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    ensure!(status.is_success(), "GET {url}: {status}");
    Ok(String::from_utf8(body.to_vec())?)
}

/// A free port of the loopback. Another program could take it before the operator does; then the operator says so.
fn free_address() -> Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

fn kilobytes(status: &str, field: &str) -> Result<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number
        .with_context(|| format!("no {field} in /proc/PID/status"))?
        .parse()?)
}
