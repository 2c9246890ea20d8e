//! Measures Windlass and its peers: see `bench --help`. Numbers go to stdout and, as JSON, to a file.
#![allow(clippy::print_stdout, reason = "printing numbers is what it is for")]

mod attention;
mod client;
mod compare;
mod embeddings;
mod engine;
mod kernels;
mod load;
mod machine;
mod prompt;
mod quality;
mod random;
mod roof;
mod sample;
mod scenario;
mod sse;
mod summary;

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser, Subcommand};
use std::path::{Path, PathBuf};

/// Measures language model servers, the engine, and the machine.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Sends the requests of a scenario to a server that runs, and says how it answered.
    Load(LoadArgs),
    /// Measures servers and engines in turns and prints how the first compares with the others.
    Compare(compare::CompareArgs),
    /// Measures the engine without HTTP.
    Engine {
        #[command(flatten)]
        args: engine::EngineArgs,
        /// Prints lines of JSON.
        #[arg(long)]
        json: bool,
    },
    /// Writes the engine's logits over given texts: see `bench/quality`.
    Logits(quality::LogitsArgs),
    /// Measures the embedder without HTTP.
    Embeddings {
        #[command(flatten)]
        args: embeddings::EmbeddingsArgs,
        /// Prints lines of JSON.
        #[arg(long)]
        json: bool,
    },
    /// Measures products of every tensor type, with their share of what the machine can do at best.
    Kernels {
        #[command(flatten)]
        args: kernels::KernelsArgs,
        /// Prints lines of JSON.
        #[arg(long)]
        json: bool,
    },
    /// Measures attention over scattered blocks, and of a prompt.
    Attention {
        #[command(flatten)]
        args: attention::AttentionArgs,
        /// Prints lines of JSON.
        #[arg(long)]
        json: bool,
    },
    /// Measures what the machine can do at best: reading memory and multiplying.
    Roof {
        /// Threads of the second measurement. Default: all that this process may use.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
        threads: Option<u16>,
        /// Prints lines of JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
struct LoadArgs {
    /// Address of any server with OpenAI's API.
    #[arg(long, value_name = "http://HOST:PORT")]
    url: String,
    /// What to ask.
    #[arg(long, value_name = "FILE")]
    scenario: PathBuf,
    /// `model` of the requests, for servers that want one.
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Part of the seed: a server that keeps prompts in a cache has met none of another round.
    #[arg(long, value_name = "N", default_value_t = 0)]
    round: u64,
    /// Writes the numbers as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

// One thread: the generator shall disturb the server that it measures as little as it can.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Load(args) => load(&args).await,
        Command::Compare(args) => compare::run(&args).await,
        Command::Engine { args, json } => engine::run(&args, |rates| {
            show(json, &rates, || {
                let engine::Rates {
                    pp,
                    tg,
                    pl,
                    speed_pp,
                    speed_tg,
                    share_of_memory,
                } = rates;
                let reading = format!("{pl:3} x {pp} tokens read at {speed_pp:7.1} tokens/s");
                let Some(share) = share_of_memory else { return reading };
                let percent = 100.0 * share;
                format!(
                    "{reading}, {tg} each written at {speed_tg:7.1} tokens/s; reading the weights takes {percent:.0} % of a step"
                )
            });
        }),
        Command::Logits(args) => quality::write_logits(&args),
        Command::Embeddings { args, json } => embeddings::run(&args, |rate| {
            show(json, &rate, || {
                let embeddings::Rate {
                    sentences,
                    tokens,
                    per_second,
                    single_ms,
                    share_of_arithmetic,
                } = rate;
                let percent = 100.0 * share_of_arithmetic;
                format!(
                    "{sentences} sentences of {tokens} tokens: {per_second:.1} sentences/s, {percent:.0} % of what the \
                     arithmetic alone could; one alone: {single_ms:.2} ms"
                )
            });
        }),
        Command::Kernels { args, json } => kernels::run(&args, |rate| {
            show(json, &rate, || {
                format!(
                    "{:5} {:4} tokens {:7.1} GMAC/s ({:3.0} % of the arithmetic) {:6.1} GB/s ({:3.0} % of the memory)",
                    rate.ty,
                    rate.tokens,
                    rate.giga_macs,
                    100.0 * rate.share_of_arithmetic,
                    rate.giga_bytes,
                    100.0 * rate.share_of_memory
                )
            });
        }),
        Command::Attention { args, json } => attention::run(&args, |rate| {
            show(json, &rate, || {
                format!(
                    "{:3} x {:4} tokens {:8.3} ms {:6.1} GMAC/s ({:3.0} % of the arithmetic) {:5.1} GB/s",
                    rate.sequences,
                    rate.rows,
                    1e3 * rate.seconds,
                    rate.giga_macs,
                    100.0 * rate.share_of_arithmetic,
                    rate.giga_bytes
                )
            });
        }),
        Command::Roof { threads, json } => roof::run(machine::threads(threads)?, |roof| {
            show(json, &roof, || {
                format!(
                    "{:44} {:2} threads {:8.1} {}",
                    roof.name, roof.threads, roof.giga_per_s, roof.unit
                )
            });
        }),
    }
}

/// Prints a measurement as a line of JSON, or as one to read.
fn show(json: bool, value: &impl serde::Serialize, line: impl FnOnce() -> String) {
    if !json {
        println!("{}", line());
        return;
    }
    match serde_json::to_string(value) {
        Ok(line) => println!("{line}"),
        Err(error) => println!("{error}"),
    }
}

async fn load(args: &LoadArgs) -> Result<()> {
    let scenario = scenario::Scenario::read(&args.scenario)?;
    let summary = load::run(&args.url, &scenario, args.model.as_deref(), args.round).await?;
    println!("{}\n{summary}", scenario.name);
    if let Some(path) = &args.json {
        write_json(path, &summary)?;
    }
    ensure!(summary.failed == 0, "{} requests failed", summary.failed);
    Ok(())
}

fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value)? + "\n";
    std::fs::write(path, text).with_context(|| path.display().to_string())
}
