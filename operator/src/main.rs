//! `windlass-operator`: `run` makes the cluster agree with its ModelDeployments, `render` prints what
//! `run` would apply. This file parses, wires and ends; every decision is made elsewhere.
mod apply;
mod args;
mod context;
mod fingerprint;
mod health;
mod leader;
#[cfg(test)]
mod memory_api;
mod metrics;
mod model_deployment;
mod names;
mod render;
mod schema_skew;
mod watch;

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use axum::http::{HeaderValue, header::USER_AGENT};
use clap::Parser;
use kube::{
    Client, Config,
    client::ClientBuilder,
    runtime::events::{Recorder, Reporter},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch as channel,
};

use crate::{
    apply::Writer,
    args::{Args, BuildConfig, Command, RunArgs, Scope},
    context::{Backoff, Context},
    health::Readiness,
    leader::{Election, Leadership},
    metrics::Metrics,
    model_deployment::prove,
};

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
        fault,
    } = args;
    let (client, namespace) = connect().await?;
    // In a pod, the client's own namespace is the operator's.
    let home = build.operator_namespace.get_or_insert(namespace).clone();
    let identity = identity.or_else(host_name).context("no identity: give --identity")?;
    let metrics = Metrics::default();
    let readiness = Readiness::default();
    let health = health::serve_health(health_listen, readiness.clone())
        .await
        .with_context(|| format!("cannot listen on {health_listen}"))?;
    let scrape = health::serve_metrics(metrics_listen, metrics.clone())
        .await
        .with_context(|| format!("cannot listen on {metrics_listen}"))?;

    let skew = schema_skew::check(&client).await;
    metrics.set_schema_skew(matches!(skew, schema_skew::Skew::Differs { .. }));
    if let Some(message) = skew.message() {
        tracing::warn!(message);
    }

    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let mut election = Election::begin(client.clone(), &home, &lease_name, &identity, lease_duration)
        .await
        .context("cannot use the Lease")?;
    readiness.set();
    tracing::info!(identity, lease_name, namespace = home, "waiting for the lease");
    let leadership = Leadership::default();
    tokio::select! {
        until = election.won() => leadership.extend(until.context("cannot use the Lease")?),
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    }
    metrics.set_leader(true);
    tracing::info!(identity, "leading");

    let context = Arc::new(Context {
        client: client.clone(),
        writer: Writer::new(client.clone(), leadership.clone(), metrics.clone(), fault),
        recorder: Recorder::new(
            client,
            Reporter {
                controller: "windlass-operator".to_owned(),
                instance: Some(identity),
            },
        ),
        pods: prove::pod_client(),
        config: BuildConfig::from(build),
        metrics,
        backoff: Backoff::default(),
        schema_skew: skew.message(),
    });
    let (stop, stopped) = channel::channel(false);
    let scope = Scope::from_flags(namespaces);
    let work = watch::run(context, &scope, concurrency, readiness, stopped);
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

/// A client without the library's own retries: they would repeat a write for minutes, out of sight of
/// the lease. A failed reconcile is repeated as a whole, later each time.
async fn connect() -> anyhow::Result<(Client, String)> {
    let mut config = Config::infer()
        .await
        .context("no cluster: neither in a pod nor a kubeconfig")?;
    config.default_retry = false;
    // The audit log tells our requests by it.
    let agent = HeaderValue::from_static(concat!("windlass-operator/", env!("CARGO_PKG_VERSION")));
    config.headers.push((USER_AGENT, agent));
    let namespace = config.default_namespace.clone();
    let client = ClientBuilder::try_from(config)
        .context("cannot build the client")?
        .build();
    Ok((client, namespace))
}

fn host_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}
