//! `windlass-server`: one model, of text or of embeddings, behind an OpenAI-compatible HTTP API. Reads what was typed, starts the
//! parts, and ends them on a signal; knows no details of either.
mod accept;
mod answer;
mod app;
mod args;
mod body;
mod calls;
mod config;
mod echo;
mod embed_thread;
mod embeddings;
mod engine_thread;
mod error;
mod functions;
mod generate;
mod http;
mod input;
mod listen;
mod load;
mod log;
mod logprobs;
mod machine;
mod metrics;
mod model_thread;
mod progress;
mod record;
mod reply;
mod sampling;
mod settings;
mod stream;
mod structured;
mod text;
mod tokenize;
mod tool_calls;
mod tools;
mod unsupported;

pub use accept::{Refusal, read};
pub use reply::Endpoint;
pub use settings::Settings;

use anyhow::{Context as _, bail};
use app::{App, EmbeddingModel, Loaded, Model};
use clap::Parser;
use config::Config;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use windlass_engine::embed::Embedder;

/// Tokenising and rendering run on these; more would take processors from the engine.
const BLOCKING_THREADS: usize = 2;

/// The process, from its arguments to its exit status.
pub fn main() -> ExitCode {
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
    let listener = windlass_listen::bind(config.listen).with_context(|| {
        format!(
            "cannot listen on {}: choose another address with --listen",
            config.listen
        )
    })?;
    announce(listener.local_addr().context("the listener has no address")?)?;

    let app = App::new(config.served_name.clone(), config.stall_timeout).context("cannot register the metrics")?;
    let app = Arc::new(app);
    let stop = CancellationToken::new();
    let server = tokio::spawn(listen::serve(listener, app.clone(), stop.clone(), config.drain_timeout));

    let path = config.model.display();
    tracing::info!(model = %path, threads = config.engine.threads, memory = config.engine.memory_limit, "loading");
    let (loaded, mut ended) = launch(&config).context("cannot start the engine's thread")?;
    tokio::select! {
        loaded = loaded => ready(&app, loaded?, config.engine.block_tokens)?,
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

/// Starts the thread for the kind of model: what it will have loaded, and when it has ended.
fn launch(config: &Config) -> std::io::Result<(BoxFuture<'static, anyhow::Result<Loaded>>, oneshot::Receiver<()>)> {
    const BROKE: &str = "the engine broke while it loaded the model";
    let (path, sequences) = (
        config.model.clone(),
        config.engine.max_sequences.saturating_add(config.queue),
    );
    if Embedder::is_for(&path) {
        let (options, batch_tokens) = (config.embedder.clone(), config.engine.max_batch_tokens);
        let thread = embed_thread::start(move || {
            let (mut embedder, limits, parts) = load::load_embedder(&path, &options, sequences, batch_tokens)?;
            Ok::<_, load::StartError>((move |inputs: &[&[u32]]| embedder.embed(inputs), limits, parts))
        })?;
        let loaded = async {
            let (thread, (tokenizer, info)) = thread.loaded.await.context(BROKE)??;
            Ok(Loaded::Embedder(EmbeddingModel {
                thread,
                tokenizer,
                info,
            }))
        };
        return Ok((loaded.boxed(), thread.ended));
    }
    let options = config.engine.clone();
    let thread = engine_thread::start(sequences, move || load::load(&path, &options))?;
    let loaded = async move {
        let (engine, parts) = thread.loaded.await.context(BROKE)??;
        Ok(Loaded::Generator(Model {
            engine,
            tokenizer: parts.tokenizer,
            template: parts.template,
            grammars: Arc::default(),
            context: parts.context,
            capacity: sequences,
        }))
    };
    Ok((loaded.boxed(), thread.ended))
}

fn ready(app: &App, loaded: Loaded, block_tokens: usize) -> anyhow::Result<()> {
    let watched = match &loaded {
        Loaded::Generator(model) => {
            let engine = model.engine.clone();
            app.metrics.watch(move || engine.stats(), block_tokens)
        }
        Loaded::Embedder(model) => {
            let thread = model.thread.clone();
            app.metrics.watch(move || thread.stats(), block_tokens)
        }
    };
    watched.context("cannot register the engine's metrics")?;
    let context = loaded.context();
    let first = app.set_loaded(loaded);
    tracing::info!(context, first, "ready");
    Ok(())
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
