//! `windlass-operator`: `run` makes the cluster agree with its objects, `render` prints what
//! `run` would apply. This file parses, wires and ends; every decision is made elsewhere.
mod args;
mod cluster;
mod context;
mod fingerprint;
mod health;
mod kind;
mod metrics;
mod model_deployment;
mod names;
mod render;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use axum::http::{HeaderValue, header::USER_AGENT};
use clap::Parser;
use kube::{Client, Config, client::ClientBuilder};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch as channel,
};

use crate::{
    args::{Args, Command, RunArgs, Scope},
    cluster::{
        apply::Writer,
        cache::Cache,
        claim::{self, Claim},
        leader::{Election, Leadership},
        progress::Progress,
        schema_skew::{self, SchemaSkew},
        watch::{self, Running},
    },
    context::{Backoff, Context, Pace, Settings},
    health::Readiness,
    kind::REGISTERED,
    metrics::Metrics,
};

/// So long after the start the API server may not know yet what rights the release was given.
const RIGHTS_ARRIVE: Duration = Duration::from_secs(60);
/// A reconcile that was begun gets this long to end: the kubelet allows 30 s for the whole process.
const DRAIN: Duration = Duration::from_secs(20);

fn main() -> anyhow::Result<()> {
    match Args::parse().command {
        Command::Render(args) => render::render(&args, std::io::stdout().lock()),
        Command::Run(args) => {
            tracing_subscriber::fmt()
                .json()
                .with_env_filter(
                    tracing_subscriber::EnvFilter::builder()
                        .with_default_directive(tracing::Level::INFO.into())
                        .with_env_var("WINDLASS_LOG")
                        .from_env_lossy(),
                )
                .init();
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .enable_all()
                .build()
                .context("cannot start the runtime")?;
            runtime.block_on(run(args))
        }
    }
}

async fn run(args: RunArgs) -> anyhow::Result<()> {
    let RunArgs {
        mut build,
        namespaces,
        metrics_listen,
        health_listen,
        lease_name,
        lease_duration,
        identity,
        concurrency,
        recheck_seconds,
        fault,
    } = args;
    // First of all: the kernel keeps from a container's first process the signals that it does not listen for.
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let (client, namespace) = connect().await?;
    // In a pod, the client's own namespace is the operator's.
    let home = build.operator_namespace.get_or_insert(namespace).clone();
    let identity = identity.or_else(host_name).context("no identity: give --identity")?;
    let metrics = Metrics::new().context("cannot register the metrics")?;
    let readiness = Readiness::default();
    let health = health::serve_health(health_listen, readiness.clone())
        .await
        .with_context(|| format!("cannot listen on {health_listen}"))?;
    let scrape = health::serve_metrics(metrics_listen, metrics.clone())
        .await
        .with_context(|| format!("cannot listen on {metrics_listen}"))?;

    if build.native_sidecars.is_none() {
        build.native_sidecars = Some(has_native_sidecars(&client).await?);
    }
    let skew = SchemaSkew::default();
    for kind in &REGISTERED {
        let following = schema_skew::follow(client.clone(), kind.built_schema(), skew.clone(), metrics.clone());
        tokio::spawn(following);
    }

    let scope = Scope::from_flags(namespaces);
    let begin = async || {
        let election = Election::begin(client.clone(), &home, &lease_name, &identity, lease_duration).await;
        tracing::info!(identity, lease_name, namespace = home, "waiting for the lease");
        election.context("cannot use the Lease")
    };
    let claim = Claim::new(client.clone(), &home, &lease_name, scope.clone());
    let leadership = Leadership::default();
    let mut election = tokio::select! {
        election = lead(begin, &claim, &identity, &readiness, &leadership) => election?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    metrics.set_leader(true);
    tracing::info!(identity, "leading");

    let (triggers, queues) = watch::queues(&REGISTERED, &scope);
    let pace = Pace::default();
    let context = Arc::new(Context {
        writer: Writer::new(client.clone(), identity, leadership.clone(), metrics.clone(), fault),
        client,
        cache: Cache::new(REGISTERED.iter().map(|kind| (kind.label, kind.kind)).collect()),
        progress: Progress::new(triggers.clone()),
        triggers,
        settings: Settings::from(build),
        metrics,
        backoff: Backoff::default(),
        pace: recheck_seconds.map_or(pace, |seconds| pace.at_most(Duration::from_secs(seconds))),
        skew,
    });
    let (stop, stopped) = channel::channel(false);
    let running = Running {
        concurrency,
        readiness,
        stop: stopped,
    };
    let work = watch::run(context, &REGISTERED, &scope, queues, running);
    tokio::pin!(work);
    tokio::select! {
        () = &mut work => anyhow::bail!("the watches ended"),
        () = election.lost(&leadership) => {
            // Another process may be writing: nothing may be finished here.
            tracing::error!("the lease was lost: ending at once");
            std::process::exit(1);
        }
        ended = health => anyhow::bail!("the health server ended: {ended:?}"),
        ended = scrape => anyhow::bail!("the metrics server ended: {ended:?}"),
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping");
    stop.send_replace(true);
    tokio::select! {
        ended = tokio::time::timeout(DRAIN, &mut work) => {
            if ended.is_err() {
                tracing::warn!("reconciles were cut off; the next leader repeats them");
            }
        }
        () = election.lost(&leadership) => std::process::exit(1),
    }
    election.release().await;
    Ok(())
}

/// Waits until this process leads its release, and no other release serves one of its namespaces.
async fn lead(
    begin: impl AsyncFn() -> anyhow::Result<Election>,
    claim: &Claim,
    identity: &str,
    readiness: &Readiness,
    leadership: &Leadership,
) -> anyhow::Result<Election> {
    let started = Instant::now();
    loop {
        if !is_contended(claim, readiness).await {
            let mut election = match begin().await {
                Ok(election) => election,
                Err(error) if started.elapsed() < RIGHTS_ARRIVE => {
                    tracing::warn!(error = format!("{error:#}"), "it is tried again");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    continue;
                }
                Err(error) => return Err(error),
            };
            readiness.set();
            let until = election.won().await.context("cannot use the Lease")?;
            if let Err(error) = claim.write().await {
                tracing::warn!(%error, "cannot write into the Lease which namespaces are served");
            }
            if !is_contended(claim, readiness).await {
                leadership.extend(until);
                return Ok(election);
            }
            election.release().await;
        }
        tokio::time::sleep(claim::pause(identity)).await;
    }
}

/// Whether another release serves one of our namespaces. Without the right to know it, this release leads.
async fn is_contended(claim: &Claim, readiness: &Readiness) -> bool {
    match claim.contender().await {
        Ok(None) => false,
        Ok(Some(other)) => {
            // Whoever installs the second release sees that it does not become available, and here why.
            readiness.unset();
            tracing::error!(
                "not leading: {other}. Give one of the two releases other namespaces (watchNamespaces), or uninstall one."
            );
            true
        }
        Err(error) => {
            tracing::warn!(%error, "cannot list Leases to see whether another release serves the same namespaces");
            false
        }
    }
}

/// A client without the library's own retries: they would repeat a write for minutes, out of sight of
/// the lease. A failed reconcile is repeated as a whole, later each time.
async fn connect() -> anyhow::Result<(Client, String)> {
    let mut config = Config::infer()
        .await
        .context("no cluster: neither in a pod nor a kubeconfig")?;
    config.default_retry = false;
    // It marks our requests in the audit log.
    let agent = HeaderValue::from_static(concat!("windlass-operator/", env!("CARGO_PKG_VERSION")));
    config.headers.push((USER_AGENT, agent));
    let namespace = config.default_namespace.clone();
    let client = ClientBuilder::try_from(config)
        .context("cannot build the client")?
        .build();
    Ok((client, namespace))
}

/// Whether the cluster knows init containers that keep running: on by default since Kubernetes 1.29.
async fn has_native_sidecars(client: &Client) -> anyhow::Result<bool> {
    let version = client
        .apiserver_version()
        .await
        .context("cannot read the API server's version")?;
    let number = |text: &str| {
        let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<u32>().unwrap_or(0)
    };
    Ok((number(&version.major), number(&version.minor)) >= (1, 29))
}

fn host_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}
