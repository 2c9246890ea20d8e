//! `make scale`: measures the operator with thousands of objects, and prints a table. See `docs/operate/scale.md`.
//! Exits with 1 when objects did not become Ready; a goal that is missed is only printed.
use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use windlass_e2e::env::workspace;
use windlass_e2e::scale::report::{Heading, insert, markdown, text};
use windlass_e2e::scale::{Measured, Settings, cluster, measure};

/// Measures the operator with thousands of objects on simulated nodes.
#[derive(Debug, Parser)]
struct Args {
    /// Numbers of objects; each is measured in a new cluster.
    #[arg(long, value_delimiter = ',', default_value = "1000,5000", value_parser = clap::value_parser!(u32).range(1..=20_000))]
    objects: Vec<u32>,
    /// The operator's executable. Defaults to target/release/windlass-operator.
    #[arg(long)]
    operator: Option<PathBuf>,
    /// Simulated nodes.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u16).range(1..=999))]
    nodes: u16,
    /// GPUs of each node.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(0..=64))]
    gpus: u16,
    /// Objects that are created at the same time.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    writers: u16,
    /// How long the operator is watched at rest. The default is longer than the 12 minutes after which it looks at an
    /// object again without being asked.
    #[arg(long, default_value_t = 780)]
    rest_seconds: u64,
    /// How long each 1,000 objects may take to become Ready.
    #[arg(long, default_value_t = 300)]
    limit_seconds: u64,
    /// How often the leader is killed.
    #[arg(long, default_value_t = 3)]
    failovers: u8,
    /// Writes the table into this page, between its marks `<!-- scale: begin … -->` and `<!-- scale: end -->`; a page that
    /// does not exist is made.
    #[arg(long)]
    markdown: Option<PathBuf>,
    /// Writes the numbers to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Leaves the last cluster running, until `e2e/cluster/cluster down --name scale`.
    #[arg(long)]
    keep: bool,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let outcome = tokio::select! {
            outcome = run(&args) => outcome,
            _ = interrupt.recv() => Err(anyhow::anyhow!("interrupted")),
            _ = terminate.recv() => Err(anyhow::anyhow!("terminated")),
        };
        if args.keep {
            outcome
        } else {
            outcome.and_then_down().await
        }
    });
    // Operators are killed with the tasks that own them.
    drop(runtime);
    Ok(if outcome? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Ends the cluster after success and failure alike, and reports the first error.
trait ThenDown {
    async fn and_then_down(self) -> Self;
}

impl ThenDown for Result<bool> {
    async fn and_then_down(self) -> Self {
        let ended = cluster::down().await.context("ending the cluster");
        let value = self?;
        ended.map(|()| value)
    }
}

/// True when all objects became Ready.
async fn run(args: &Args) -> Result<bool> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from);
    let operator = args
        .operator
        .clone()
        .unwrap_or_else(|| target.join("release/windlass-operator"));
    let operator = fs::canonicalize(&operator).with_context(|| {
        format!(
            "{}: `cargo build --release -p windlass-operator` makes it",
            operator.display()
        )
    })?;
    let settings = Settings {
        operator,
        nodes: args.nodes.into(),
        accelerators: args.gpus.into(),
        writers: args.writers.into(),
        rest: Duration::from_secs(args.rest_seconds),
        limit: Duration::from_secs(args.limit_seconds),
        failovers: args.failovers.into(),
        folder: target.join("scale"),
    };
    let heading = Heading {
        machine: machine()?,
        build: build(&settings),
        command: command(),
    };
    if let Some(file) = args.markdown.as_ref().filter(|file| file.exists()) {
        // Now, not after the measurement.
        insert(&fs::read_to_string(file)?, "").with_context(|| file.display().to_string())?;
    }
    let mut results: Vec<Measured> = Vec::new();
    for objects in &args.objects {
        let objects = usize::try_from(*objects)?;
        results.push(
            measure(&settings, objects)
                .await
                .with_context(|| format!("measuring {objects} objects"))?,
        );
        // After each: the next one takes long, and may be interrupted.
        print(&text(&heading, &results));
        if let Some(file) = &args.markdown {
            let page = if file.exists() {
                fs::read_to_string(file)?
            } else {
                String::new()
            };
            let page = insert(&page, &markdown(&heading, &results)).with_context(|| file.display().to_string())?;
            fs::write(file, page).with_context(|| format!("writing {}", file.display()))?;
        }
        if let Some(file) = &args.json {
            fs::write(file, serde_json::to_string_pretty(&results)?)?;
        }
    }
    Ok(results.iter().all(|result| result.ready == result.objects))
}

fn machine() -> Result<String> {
    let processor = fs::read_to_string("/proc/cpuinfo")?;
    let model = processor
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map(|rest| rest.trim_start_matches([' ', '\t', ':']));
    let memory = fs::read_to_string("/proc/meminfo")?;
    let kilobytes: u64 = memory
        .split_whitespace()
        .nth(1)
        .context("an unknown format of /proc/meminfo")?
        .parse()?;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let load = fs::read_to_string("/proc/loadavg")?;
    let load = load
        .split_whitespace()
        .next()
        .context("an unknown format of /proc/loadavg")?;
    Ok(format!(
        "{} x {}, {} GB, Linux {}, load {load} before the start; the control plane, kwok and the operator share it",
        std::thread::available_parallelism()?,
        model.unwrap_or("an unknown processor"),
        kilobytes / 1_000_000,
        kernel.trim()
    ))
}

fn build(settings: &Settings) -> String {
    let described = Command::new("git")
        .arg("-C")
        .arg(workspace())
        .args(["describe", "--always", "--dirty"])
        .output();
    let commit = match described {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        _ => "an unknown commit".to_owned(),
    };
    let profile = settings
        .operator
        .parent()
        .and_then(|folder| folder.file_name())
        .unwrap_or_default();
    format!(
        "{commit}, operator built as {}; clients of the controllers and the scheduler at 2,000 requests/s, {} nodes with {} GPUs each",
        profile.to_string_lossy(),
        settings.nodes,
        settings.accelerators
    )
}

/// What a reader types to repeat this.
fn command() -> String {
    let flags: Vec<String> = std::env::args().skip(1).collect();
    if flags.is_empty() {
        "make scale".into()
    } else {
        format!("SCALE_FLAGS='{}' make scale", flags.join(" "))
    }
}

/// The table is the program's answer.
#[allow(clippy::print_stdout)]
fn print(text: &str) {
    println!("{text}");
}
