//! Servers and engines against each other on the same cores: one at a time, in turns, in several rounds, so that what
//! changes on the machine meets all of them. Each measurement has a fresh server.
mod config;
mod report;
mod server;

use crate::engine::Rates;
use crate::machine::Origin;
use crate::scenario::Scenario;
use crate::summary::Summary;
use anyhow::{Context, Result, ensure};
use clap::Args;
use config::{Config, fill, fill_all, peer};
use serde::Serialize;
use server::{Running, free_port};
use std::path::{Path, PathBuf};
use tokio::process::Command;

/// What may be typed.
#[derive(Debug, Args)]
pub struct CompareArgs {
    /// Who is compared, and how.
    #[arg(long, value_name = "FILE", default_value = "bench/compare.toml")]
    config: PathBuf,
    /// Model files, one after another.
    #[arg(long, value_name = "FILE", required = true)]
    model: Vec<PathBuf>,
    /// One more server, as `NAME=PROGRAM ARGUMENT …` with the placeholders of the configuration; several are
    /// separated by semicolons.
    #[arg(long, env = "PEERS", value_name = "NAME=COMMAND", value_delimiter = ';')]
    peer: Vec<String>,
    /// Rounds; the configuration says how many otherwise.
    #[arg(long, value_name = "N")]
    rounds: Option<u64>,
    /// Threads of each server. Default: all cores that this process may use.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Only scenarios, or `engine`, whose name contains one of these.
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// Folder for `report.md`, `report.json` and the logs of the servers.
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    out: PathBuf,
}

/// All that was measured.
#[derive(Debug, Serialize)]
pub struct Results {
    /// Where and from what.
    pub origin: Origin,
    /// Of each measurement.
    pub rounds: u64,
    /// Of each server and engine.
    pub threads: usize,
    /// Servers and engines that could not take part, and why.
    pub left_out: Vec<String>,
    /// Name and version of the servers, in the order of the tables.
    pub servers: Vec<(String, String)>,
    /// Each run of a scenario.
    pub runs: Vec<Run>,
    /// Each line of an engine.
    pub engines: Vec<EngineRun>,
}

/// One server in one scenario, once.
#[derive(Debug, Serialize)]
pub struct Run {
    /// The model's file name.
    pub model: String,
    /// What was asked.
    pub scenario: Scenario,
    /// Who answered.
    pub server: String,
    /// From 0.
    pub round: u64,
    /// As it was started.
    pub command: String,
    /// Until it was ready.
    pub ready_s: f64,
    /// Processor time of the server, start and warm-up included.
    pub server_cpu_s: f64,
    /// The most memory that the server had.
    pub memory_mib: f64,
    /// What came back.
    pub summary: Summary,
}

/// One number of an engine, once.
#[derive(Debug, Serialize)]
pub struct EngineRun {
    /// The model's file name.
    pub model: String,
    /// Whose.
    pub engine: String,
    /// From 0.
    pub round: u64,
    /// As it was started.
    pub command: String,
    /// The numbers.
    pub rates: Rates,
}

/// Measures, prints progress and the report, and writes both files.
pub async fn run(args: &CompareArgs) -> Result<()> {
    let mut config = Config::read(&args.config)?;
    for text in &args.peer {
        config.server.push(peer(text)?);
    }
    let scenarios: Vec<Scenario> = config
        .scenarios
        .iter()
        .map(|path| Scenario::read(path))
        .collect::<Result<_>>()?;
    let threads = crate::machine::threads(args.threads)?;
    std::fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
    let mut compare = Compare {
        args,
        results: Results {
            origin: Origin::read(),
            rounds: args.rounds.unwrap_or(config.rounds),
            threads,
            left_out: Vec::new(),
            servers: Vec::new(),
            runs: Vec::new(),
            engines: Vec::new(),
        },
    };
    compare.leave_out(&mut config)?;
    let scenarios: Vec<&Scenario> = scenarios
        .iter()
        .filter(|scenario| compare.wanted(&scenario.name))
        .collect();
    for model in &args.model {
        for scenario in &scenarios {
            compare.scenario(&config, model, scenario).await?;
        }
        if compare.wanted("engine") {
            compare.engines(&config, model).await?;
        }
    }
    println!("\n{}", report::markdown(&compare.results));
    println!("written: {0}/report.md and {0}/report.json", args.out.display());
    Ok(())
}

struct Compare<'a> {
    args: &'a CompareArgs,
    results: Results,
}

impl Compare<'_> {
    fn wanted(&self, name: &str) -> bool {
        self.args.only.is_empty() || self.args.only.iter().any(|only| name.contains(only.as_str()))
    }

    /// Removes what needs a variable that is not set.
    fn leave_out(&mut self, config: &mut Config) -> Result<()> {
        let left_out = &mut self.results.left_out;
        let mut complete = |name: &str, command: &[String]| match fill_all(command, &|name| {
            is_own(name).then(String::new).or_else(|| environment(name))
        }) {
            Ok(_) => true,
            Err(missing) => {
                left_out.push(format!("{name}: {missing} is not set"));
                false
            }
        };
        config.server.retain(|server| complete(&server.name, &server.command));
        config
            .engine
            .retain(|engine| complete(&engine.name, &engine.commands.concat()));
        for text in left_out {
            println!("left out: {text}");
        }
        ensure!(!config.server.is_empty(), "there is no server to measure");
        self.results.servers = config
            .server
            .iter()
            .map(|server| {
                let version = fill(&server.version, &environment);
                let version = version.unwrap_or_else(|name| format!("unknown version ({name} is not set)"));
                (server.name.clone(), version)
            })
            .collect();
        Ok(())
    }

    async fn scenario(&mut self, config: &Config, model: &Path, scenario: &Scenario) -> Result<()> {
        for round in 0..self.results.rounds {
            for turn in 0..config.server.len() {
                // Another one begins each round, so that no server always follows the same one.
                let server = &config.server[(turn + round as usize) % config.server.len()];
                let port = free_port()?;
                let command = fill_all(&server.command, &|name| match name {
                    "port" => Some(port.to_string()),
                    "slots" => Some(scenario.slots.to_string()),
                    "context" => Some((scenario.slots * scenario.context).to_string()),
                    _ => self.value(name, model),
                });
                let command = command.map_err(|name| anyhow::anyhow!("{}: {{{name}}} is not known", server.name))?;
                let log = self
                    .args
                    .out
                    .join(format!("{}.log", server.name.replace(['/', ' '], "-")));
                let running = Running::start(&command, port, &server.ready, &log).await?;
                let summary = crate::load::run(&running.url, scenario, None, round).await?;
                let used = running.used();
                println!(
                    "{} | {} | round {} | {}: {:.1} tokens/s, TTFT p50 {:.0} ms, {} failed",
                    file_name(model),
                    scenario.name,
                    round + 1,
                    server.name,
                    summary.output_tokens_per_s,
                    summary.ttft_ms.p50,
                    summary.failed
                );
                self.results.runs.push(Run {
                    model: file_name(model),
                    scenario: scenario.clone(),
                    server: server.name.clone(),
                    round,
                    command: command.join(" "),
                    ready_s: running.ready_s,
                    server_cpu_s: used.cpu_s,
                    memory_mib: used.memory_mib,
                    summary,
                });
                running.stop().await?;
                self.write()?;
            }
        }
        Ok(())
    }

    async fn engines(&mut self, config: &Config, model: &Path) -> Result<()> {
        for round in 0..self.results.rounds {
            for turn in 0..config.engine.len() {
                let engine = &config.engine[(turn + round as usize) % config.engine.len()];
                for words in &engine.commands {
                    let command = fill_all(words, &|name| self.value(name, model));
                    let command =
                        command.map_err(|name| anyhow::anyhow!("{}: {{{name}}} is not known", engine.name))?;
                    for rates in lines(&command).await? {
                        println!(
                            "{} | round {} | {}: {}",
                            file_name(model),
                            round + 1,
                            engine.name,
                            report::rate(&rates)
                        );
                        self.results.engines.push(EngineRun {
                            model: file_name(model),
                            engine: engine.name.clone(),
                            round,
                            command: command.join(" "),
                            rates,
                        });
                    }
                    self.write()?;
                }
            }
        }
        Ok(())
    }

    /// What a placeholder stands for in every command.
    fn value(&self, name: &str, model: &Path) -> Option<String> {
        match name {
            "model" => Some(model.display().to_string()),
            "threads" => Some(self.results.threads.to_string()),
            "bench" => Some(std::env::current_exe().ok()?.display().to_string()),
            _ => environment(name),
        }
    }

    /// After every measurement: a comparison takes long, and what it knows shall not be lost.
    fn write(&self) -> Result<()> {
        crate::write_json(&self.args.out.join("report.json"), &self.results)?;
        let path = self.args.out.join("report.md");
        std::fs::write(&path, report::markdown(&self.results)).with_context(|| path.display().to_string())
    }
}

fn is_own(name: &str) -> bool {
    ["model", "port", "threads", "slots", "context", "bench"].contains(&name)
}

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The numbers that a program prints.
async fn lines(command: &[String]) -> Result<Vec<Rates>> {
    let (program, arguments) = command.split_first().context("an empty command")?;
    let output = Command::new(program)
        .args(arguments)
        .kill_on_drop(true)
        .output()
        .await
        .with_context(|| format!("cannot start {program}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{} ended with {}: {errors}",
        command.join(" "),
        output.status
    );
    let lines = text.lines().filter(|line| line.starts_with('{'));
    let rates: Vec<Rates> = lines
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()
        .with_context(|| command.join(" "))?;
    ensure!(
        !rates.is_empty(),
        "{} printed no numbers: {text}{errors}",
        command.join(" ")
    );
    Ok(rates)
}
