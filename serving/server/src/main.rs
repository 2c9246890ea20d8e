//! `windlass-server`: one model behind an OpenAI-compatible HTTP API. Reads what was typed, starts the
//! parts, and ends them on a signal; knows no details of either.
mod answer;
mod app;
mod args;
mod body;
mod calls;
mod config;
mod engine_thread;
mod error;
mod generate;
mod http;
mod input;
mod listen;
mod load;
mod log;
mod logprobs;
mod machine;
mod metrics;
mod reply;
mod sampling;
mod settings;
mod stream;
mod structured;
mod text;
mod tokenize;
mod tools;
mod unsupported;

use anyhow::{Context as _, bail};
use app::{App, Model};
use clap::Parser;
use config::Config;
use engine_thread::{EngineHandle, EngineThread};
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Tokenising and rendering run on these; more would take processors from the engine.
const BLOCKING_THREADS: usize = 2;

fn main() -> ExitCode {
    let config = Config::new(args::Args::parse());
    match start(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Not through the log: its filter must not hide why the process ends. If stderr is closed, so be it.
            drop(writeln!(std::io::stderr(), "windlass-server: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn start(config: Config) -> anyhow::Result<()> {
    log::install(config.log_format, &config.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(BLOCKING_THREADS)
        .enable_all()
        .build()
        .context("cannot start the I/O threads")?;
    let result = runtime.block_on(run(config));
    // What still runs has had its time.
    runtime.shutdown_background();
    result
}

async fn run(config: Config) -> anyhow::Result<()> {
    let mut signals = Signals::new().context("cannot listen for signals")?;
    let listener = TcpListener::bind(config.listen).await.with_context(|| {
        format!(
            "cannot listen on {}: choose another address with --listen",
            config.listen
        )
    })?;
    announce(listener.local_addr().context("the listener has no address")?)?;

    let app = Arc::new(App::new(config.served_name.clone(), config.stall_timeout));
    let stop = CancellationToken::new();
    let server = tokio::spawn(listen::serve(listener, app.clone(), stop.clone(), config.drain_timeout));

    let capacity = config.engine.max_sequences.saturating_add(config.queue);
    let (path, options) = (config.model.clone(), config.engine.clone());
    tracing::info!(model = %path.display(), threads = options.threads, memory = options.memory_limit, "loading");
    let EngineThread { loaded, mut ended } = engine_thread::start(capacity, move || load::load(&path, &options))
        .context("cannot start the engine's thread")?;
    tokio::select! {
        result = loaded => {
            let (engine, parts) = result.context("the engine broke while it loaded the model")??;
            ready(&app, engine, parts, capacity, config.engine.block_tokens);
        }
        name = signals.next() => {
            tracing::info!(signal = name, "stopped before the model was loaded");
            return Ok(());
        }
    }

    tokio::select! {
        name = signals.next() => tracing::info!(signal = name, "draining"),
        _ = &mut ended => bail!("the engine broke"),
    }
    stop.cancel();
    let open = tokio::select! {
        open = server => open.context("the listener broke")?,
        name = signals.next() => bail!("stopped by a second signal, {name}, before the drain was complete"),
        _ = &mut ended => bail!("the engine broke"),
    };
    if open > 0 {
        bail!("{open} connections were still open when the drain's time was over");
    }
    tracing::info!("drained");
    Ok(())
}

fn ready(app: &App, engine: EngineHandle, parts: load::Parts, capacity: usize, block_tokens: usize) {
    app.metrics.watch(engine.clone(), block_tokens);
    let context = parts.context;
    let first = app.set_model(Model {
        engine,
        tokenizer: parts.tokenizer,
        template: parts.template,
        grammars: Arc::default(),
        context,
        capacity,
    });
    tracing::info!(context, capacity, first, "ready");
}

/// The one line on stdout, for people and for scripts that asked for port 0.
fn announce(address: SocketAddr) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "listening on http://{address}")
        .and_then(|()| stdout.flush())
        .context("cannot write to stdout")
}

/// The signals that end the process.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// The name of the next one.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
