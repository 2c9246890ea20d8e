//! `make scale`: what an operator takes to make thousands of ModelDeployments Ready, and what it costs at rest,
//! after a restart and after the loss of its leader. The API server, its controllers and the scheduler are real, nodes
//! and pods are simulated by kwok, so every number includes the control plane's own time on this machine.
pub mod cluster;
pub mod control_plane;
pub mod fleet;
pub mod histogram;
mod phases;
pub mod process;
pub mod progress;
pub mod report;
pub mod requests;
mod rows;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::jiff::Timestamp;
use serde::Serialize;
use tokio::time::Instant;

use crate::scale::cluster::Cluster;
use crate::scale::control_plane::cpu_seconds;
use crate::scale::fleet::Fleet;
use crate::scale::process::{Operator, Usage};
use crate::scale::requests::{Requests, by_resource, by_verb};

/// How to measure.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The operator's executable.
    pub operator: PathBuf,
    /// Simulated nodes.
    pub nodes: usize,
    /// Accelerators of each.
    pub accelerators: usize,
    /// Objects that are created at the same time.
    pub writers: usize,
    /// How long the operator is watched at rest.
    pub rest: Duration,
    /// How long 1,000 objects may take to become Ready.
    pub limit: Duration,
    /// How often a leader is killed.
    pub failovers: usize,
    /// Folder for logs and kubeconfigs.
    pub folder: PathBuf,
}

/// What was measured with one number of objects. Durations are in seconds.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Measured {
    /// How many objects were created.
    pub objects: usize,
    /// How many of them became Ready.
    pub ready: usize,
    /// Why the others did not, by the reason of their condition `Ready`.
    pub not_ready: BTreeMap<String, usize>,
    /// From the first creation to the answer to the last.
    pub load: f64,
    /// From the first creation until all were Ready.
    pub from_first: f64,
    /// From the answer to the last creation until all were Ready.
    pub from_last: f64,
    /// Reconciles until then.
    pub reconciles: f64,
    /// Reconciles that failed until then; all are repeated.
    pub failures: f64,
    /// Durations of the reconciles: estimate and bounds of its bucket.
    pub p50: (f64, f64, f64),
    /// As `p50`.
    pub p99: (f64, f64, f64),
    /// Requests until then by verb; the Lease's are left out.
    pub verbs: BTreeMap<String, usize>,
    /// The same by verb and resource.
    pub resources: BTreeMap<String, usize>,
    /// The operator's process when all were Ready.
    pub usage: Usage,
    /// Seconds of processor time of the control plane's programs from the first creation until then.
    pub control_plane: BTreeMap<String, f64>,
    /// At rest.
    pub rest: Rest,
    /// After a start.
    pub restart: Restart,
    /// From the kill of a leader to the standby's first write about a change that was made after it.
    pub failovers: Vec<f64>,
}

/// The operator at rest.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Rest {
    /// How long it still worked after all objects were Ready.
    pub until_quiet: f64,
    /// For how long it was watched then.
    pub seconds: f64,
    /// Its writes in this time, Events included and the Lease's left out.
    pub writes: usize,
    /// Its reads in this time, the Lease's left out.
    pub reads: usize,
    /// Watches that it started again in this time.
    pub watches: usize,
    /// Requests for the Lease in this time.
    pub lease: usize,
    /// Reconciles in this time.
    pub reconciles: f64,
    /// The process at the end.
    pub usage: Usage,
}

/// The operator after a start with all objects Ready.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Restart {
    /// From the start of the process to the last request or reconcile before the first quiet window.
    pub seconds: f64,
    /// Reads until then.
    pub reads: usize,
    /// Writes until then.
    pub writes: usize,
    /// Reconciles until then.
    pub reconciles: f64,
    /// The process then.
    pub usage: Usage,
}

/// Measures with one number of objects, in a cluster made for it.
///
/// # Errors
/// When the cluster does not start or an operator ends by itself. Objects that do not become Ready in time are part of
/// the result instead.
pub async fn measure(settings: &Settings, objects: usize) -> Result<Measured> {
    fs::create_dir_all(&settings.folder)?;
    let cluster = Cluster::up(&settings.folder).await?;
    say(&format!(
        "making {} nodes with {} accelerators each",
        settings.nodes, settings.accelerators
    ));
    cluster.add_nodes(settings.nodes, settings.accelerators).await?;
    cluster.add_namespaces(&Fleet::namespaces()).await?;
    let mut fleet = Fleet::new(cluster.client.clone(), objects);
    let mut requests = Requests::new(cluster.audit_log.clone());
    let start = |identity: &str| {
        let kubeconfig = &cluster.operator_kubeconfig;
        Operator::start(&settings.operator, kubeconfig, &settings.folder, identity)
    };

    let mut operator = start("first")?;
    operator.await_leading().await?;
    let mut measured = converge(settings, &cluster, &mut fleet, &mut operator, &mut requests, objects).await?;
    say("waiting until the operator rests");
    measured.rest = phases::rest(settings.rest, &mut operator, &mut requests).await?;
    say("starting the operator again");
    operator.stop().await?;
    let mut operator = start("first")?;
    measured.restart = phases::restart(&mut operator, &mut requests).await?;
    for round in 0..settings.failovers {
        say(&format!("killing the leader ({} of {})", round + 1, settings.failovers));
        let standby = start(if round % 2 == 0 { "second" } else { "first" })?;
        // Another object each time, one that serves on the CPU.
        let index = (3 + 10 * round) % objects.max(1);
        let seconds = phases::failover(operator, &standby, &fleet, index, &mut requests).await?;
        measured.failovers.push(seconds);
        operator = standby;
    }
    operator.stop().await?;
    Ok(measured)
}

async fn converge(
    settings: &Settings,
    cluster: &Cluster,
    fleet: &mut Fleet,
    operator: &mut Operator,
    requests: &mut Requests,
    objects: usize,
) -> Result<Measured> {
    let before = operator.durations().await?;
    let failures = operator.failures().await?;
    let used = cpu_seconds(cluster.state())?;
    say(&format!("creating {objects} objects"));
    let (from, first) = (Timestamp::now(), Instant::now());
    fleet.create(settings.writers).await?;
    let last = Instant::now();
    say(&format!("created in {:.1} s", (last - first).as_secs_f64()));
    let within = settings.limit.mul_f64((objects as f64 / 1000.0).max(1.0));
    let mut next_word = Duration::ZERO;
    let progress = fleet.settle(within, |progress| {
        operator.check()?;
        if last.elapsed() >= next_word {
            next_word += Duration::from_secs(10);
            say(&format!(
                "{} of {objects} are Ready; the others: {:?}",
                progress.ready, progress.reasons
            ));
        }
        Ok(())
    });
    let progress = progress.await?;
    let to = Timestamp::now();
    let mut control_plane = cpu_seconds(cluster.state())?;
    for (program, seconds) in &mut control_plane {
        *seconds -= used.get(program).copied().unwrap_or_default();
    }
    say(&format!(
        "{} of {objects} are Ready after {:.1} s",
        progress.ready,
        (progress.at - first).as_secs_f64()
    ));
    let durations = operator.durations().await?.since(&before)?;
    requests.refresh()?;
    Ok(Measured {
        objects,
        ready: progress.ready,
        not_ready: progress.reasons,
        load: (last - first).as_secs_f64(),
        from_first: (progress.at - first).as_secs_f64(),
        from_last: progress.at.saturating_duration_since(last).as_secs_f64(),
        reconciles: durations.count(),
        failures: operator.failures().await? - failures,
        p50: durations.quantile(0.50).context("the operator reconciled nothing")?,
        p99: durations.quantile(0.99).context("the operator reconciled nothing")?,
        verbs: by_verb(requests.between(from, to)),
        resources: by_resource(requests.between(from, to)),
        usage: operator.usage()?,
        control_plane,
        ..Measured::default()
    })
}

/// Progress for the person who waits.
fn say(text: &str) {
    eprintln!("[scale] {text}");
}
