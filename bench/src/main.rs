//! Measures Windlass and its peers: see `bench --help`. Numbers go to stdout and, as JSON, to a file.
#![allow(clippy::print_stdout, reason = "printing numbers is what it is for")]

mod client;
mod load;
mod prompt;
mod random;
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
