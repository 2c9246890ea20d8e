//! `windlass-registry`: reads what was typed, runs one command, writes the report, chooses the exit status.
//! Logs go to stderr; a termination signal ends a fetch at once and keeps what came.
mod args;

use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;
use windlass_api::fetch::ModelFacts;
use windlass_registry::client::install_cryptography;
use windlass_registry::commit::Commit;
use windlass_registry::connection::Token;
use windlass_registry::download::Demand;
use windlass_registry::failure::FetchFailed;
use windlass_registry::fetch::{self, Order};
use windlass_registry::progress::{Progress, Watch};
use windlass_registry::runtime::client::{Key, Runtime};
use windlass_registry::runtime::{self, Pace};
use windlass_registry::serve::{self, Hub, Limits};
use windlass_registry::source::Source;
use windlass_registry::{report, verify};

use args::{Cli, Command, FetchArgs, ReportingArgs, ServeArgs, VerifyArgs, VerifyRuntimeArgs};

/// 128 + SIGTERM, as shells count.
const TERMINATED: u8 = 143;

fn main() -> anyhow::Result<ExitCode> {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_env("WINDLASS_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    install_cryptography();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    runtime.block_on(async {
        match cli.command {
            Command::Fetch(args) => {
                let progress = Progress::default();
                conclude(&args.reporting, &progress, run_fetch(&args, &progress)).await
            }
            Command::Verify(args) => {
                let progress = Progress::default();
                conclude(&args.reporting, &progress, run_verify(&args, &progress)).await
            }
            Command::Serve(args) => run_serve(args).await,
            Command::VerifyRuntime(args) => run_verify_runtime(args).await,
        }
    })
}

/// Runs the work beside its progress, and reports.
async fn conclude(
    reporting: &ReportingArgs,
    progress: &Progress,
    work: impl Future<Output = Result<ModelFacts, FetchFailed>>,
) -> anyhow::Result<ExitCode> {
    let stop = termination()?;
    let result = tokio::select! {
        result = async { let _watch = Watch::start(progress, reporting.progress_listen).await?; work.await } => result,
        () = stop => {
            tracing::warn!("stopped by a signal; what came is kept for the next run");
            return Ok(ExitCode::from(TERMINATED));
        }
    };
    let verified = result.is_ok();
    let report = report::conclude(progress, result);
    match (&report.model, &report.error) {
        (Some(model), _) => tracing::info!("verified: {} bytes, {}", model.size_bytes, model.digest),
        (_, Some(error)) => tracing::error!("{:?}: {}", error.reason, error.message),
        _ => {}
    }
    if let Some(path) = &reporting.report {
        // Whoever asked for a report relies on it, so a verified file without one is a failure too.
        report::write(&report, path).map_err(|failed| anyhow::anyhow!(failed.explained()))?;
    }
    Ok(if verified { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn run_fetch(args: &FetchArgs, progress: &Progress) -> Result<ModelFacts, FetchFailed> {
    let pinned = variable("WINDLASS_PINNED_DIGEST");
    let order = Order {
        source: Source::parse(&args.source, &args.revision, &args.hub_url)?,
        commit: Commit::recorded(variable("WINDLASS_PINNED_COMMIT").as_deref())?,
        dest: args.dest.clone(),
        token: variable("WINDLASS_SOURCE_TOKEN").map_or(Ok(None), |text| Token::parse(&text))?,
        demand: Demand {
            expected: fetch::expected(args.digest.as_deref(), pinned.as_deref())?,
            listed: None,
            limit: args.max_size,
        },
        patterns: args.patterns.patterns(),
        patience: args.patience(),
        bundle: args.ca_bundle.clone(),
    };
    tracing::info!("fetching {} to {}", order.source.shown(), order.dest.display());
    fetch::fetch(&order, progress).await
}

async fn run_verify(args: &VerifyArgs, progress: &Progress) -> Result<ModelFacts, FetchFailed> {
    let pinned = variable("WINDLASS_PINNED_DIGEST");
    let expected = fetch::expected(args.digest.as_deref(), pinned.as_deref())?;
    tracing::info!("verifying {}", args.file.display());
    let patterns = args.patterns.patterns();
    verify::verify(args.file.clone(), args.volume.clone(), expected, patterns, progress).await
}

async fn run_serve(args: ServeArgs) -> anyhow::Result<ExitCode> {
    let stop = termination()?;
    let token = args.require_token_env.as_deref().map(|name| {
        variable(name)
            .filter(|token| !token.trim().is_empty())
            .with_context(|| format!("the variable {name} holds no token"))
    });
    let token = token.transpose()?;
    let hub = Hub::open(args.root.clone(), token.as_deref(), Limits::default())
        .with_context(|| format!("opening the folder {}", args.root.display()))?;
    let listener = windlass_listen::bind(args.listen).with_context(|| format!("listening on {}", args.listen))?;
    tracing::info!(
        "serving {} on {}",
        args.root.display(),
        listener.local_addr().context("asking for the own address")?
    );
    serve::serve(listener, hub, stop).await.context("serving")?;
    Ok(ExitCode::SUCCESS)
}

/// Verifies until a signal comes, or until the runtime has been refused too often.
async fn run_verify_runtime(args: VerifyRuntimeArgs) -> anyhow::Result<ExitCode> {
    let stop = termination()?;
    let key = variable("WINDLASS_RUNTIME_KEY").map_or(Ok(None), |text| Key::parse(&text))?;
    let request = args.request();
    let state = runtime::state::State::new(request.shown());
    let runtime = Runtime::new(&args.runtime_url, &args.health_path, request, key, args.timeout)?;
    let pace = Pace {
        period: args.period,
        threshold: args.failure_threshold,
    };
    let listener = windlass_listen::bind(args.listen).with_context(|| format!("listening on {}", args.listen))?;
    let bound = listener.local_addr().context("asking for the own address")?;
    tracing::info!("readiness at http://{bound}/ready, {} is verified", args.runtime_url);
    tokio::select! {
        result = axum::serve(listener, state.router()).into_future() => {
            result.context("serving readiness")?;
            anyhow::bail!("readiness is no longer served");
        }
        () = stop => return Ok(ExitCode::from(TERMINATED)),
        () = runtime::verify(&runtime, pace, &state) => {}
    }
    let report = state.report();
    tracing::error!("given up after {} refusals in a row", report.refusals);
    if let Some(path) = &args.report {
        runtime::state::write(&report, path).with_context(|| format!("writing the report to {}", path.display()))?;
    }
    Ok(ExitCode::FAILURE)
}

/// Watches for SIGTERM and SIGINT from now on, and returns at the first one: as the first process of a container nothing
/// else would end us.
fn termination() -> anyhow::Result<impl Future<Output = ()>> {
    let watch = |kind| signal(kind).context("watching for signals");
    let (mut term, mut int) = (watch(SignalKind::terminate())?, watch(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
    })
}

fn variable(name: &str) -> Option<String> {
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}
