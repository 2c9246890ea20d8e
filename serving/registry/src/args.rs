//! What was typed: the command line and its twins in the environment. What it means is decided in `main`.
mod runtime;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use windlass_registry::patience::{Patience, parse_duration};
use windlass_registry::pattern::Patterns;
use windlass_registry::source::PUBLIC_HUB;

pub use runtime::VerifyRuntimeArgs;

/// Turns a model source into a verified local file, and serves such files.
#[derive(Debug, Parser)]
#[command(version, about, long_about = LONG)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

const LONG: &str = "Turns a model source into a verified local file, and serves such files.

From the environment only come secrets, and what an earlier fetch recorded:
  WINDLASS_SOURCE_TOKEN    bearer token for the source; sent to the source's own origin and never to where it redirects
  WINDLASS_PINNED_DIGEST   the digest that this source had when it was first fetched (--digest goes before it)
  WINDLASS_PINNED_COMMIT   the commit to which this source's revision was first resolved; it goes before --revision
  WINDLASS_RUNTIME_KEY     bearer token for the runtime that verify-runtime asks

Exit status: 0 verified, 1 failed (the report says why), 2 wrong usage, 143 stopped by a signal.";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Download a model file, resuming what an earlier run left, and verify it
    #[command(after_help = "Examples:
  windlass-registry fetch --source hf://HuggingFaceTB/SmolLM2-135M-Instruct-GGUF/smollm2.gguf --dest /models/model.gguf
  windlass-registry fetch --source hf://Qwen/Qwen3-0.6B --ignore '*.py' --dest /models/qwen3
  windlass-registry fetch --source https://host/model.gguf --digest sha256:… --dest model.gguf --report report.json
A model in several files (NAME-00001-of-0000N.gguf) is fetched whole; --dest ends with the name of the first one.
While it works, FILE.part and FILE.part.json stand beside FILE; FILE itself appears when it is verified.")]
    Fetch(FetchArgs),
    /// Verify a model file that is already on a volume
    Verify(VerifyArgs),
    /// Serve a folder of model files under the hub's addresses: /{org}/{repo}/resolve/main/{path}
    #[command(after_help = "Example:
  windlass-registry serve --root /models --listen 0.0.0.0:8080
  windlass-registry fetch --hub-url http://localhost:8080 --source hf://org/repo/model.gguf --dest model.gguf
GET /health answers when it serves. Other downloaders use it with HF_ENDPOINT=http://localhost:8080.")]
    Serve(ServeArgs),
    /// Verify the model server of the same pod with one request, and be ready once it has answered rightly
    #[command(after_help = "Examples:
  windlass-registry verify-runtime --runtime-url http://127.0.0.1:8000 --task chat --model qwen3
  windlass-registry verify-runtime --path /generate --body '{\"inputs\":\"Hello\"}' --expect-status 200
GET /ready answers 200 or 503, GET /progress the report. The key of the runtime comes from WINDLASS_RUNTIME_KEY.")]
    VerifyRuntime(VerifyRuntimeArgs),
}

#[derive(Debug, Args)]
pub struct FetchArgs {
    /// hf://org/repo/path/to/file.gguf, hf://org/repo for the whole repository, or https://host/path/file.gguf
    #[arg(long, env = "WINDLASS_SOURCE", value_name = "SOURCE")]
    pub source: String,
    /// The file to make, or the folder for a whole repository; the folder above is created
    #[arg(long, env = "WINDLASS_DEST", value_name = "PATH")]
    pub dest: PathBuf,
    /// Branch, tag or commit of an hf:// source
    #[arg(long, env = "WINDLASS_REVISION", default_value = "main")]
    pub revision: String,
    /// Refuse any other content: sha256: and 64 hex digits
    #[arg(long, env = "WINDLASS_DIGEST", value_name = "DIGEST")]
    pub digest: Option<String>,
    /// The hub that hf:// means; may be http inside a cluster
    #[arg(long, env = "WINDLASS_HUB_URL", value_name = "URL", default_value = PUBLIC_HUB)]
    pub hub_url: String,
    /// Refuse files of more than so many bytes
    #[arg(long, env = "WINDLASS_MAX_SIZE", value_name = "BYTES")]
    pub max_size: Option<u64>,
    /// Certificates in PEM to trust like those of the system (SSL_CERT_FILE names other ones instead)
    #[arg(long, env = "WINDLASS_CA_BUNDLE", value_name = "FILE")]
    pub ca_bundle: Option<PathBuf>,
    #[command(flatten)]
    pub patterns: PatternArgs,
    #[command(flatten)]
    pub reporting: ReportingArgs,
    /// Give a connection up after so long without a byte
    #[arg(long, env = "WINDLASS_STALL_TIMEOUT", default_value = "30s", value_parser = parse_duration)]
    pub stall_timeout: Duration,
    /// Attempts in a row that may bring nothing before the fetch fails
    #[arg(long, env = "WINDLASS_ATTEMPTS", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub attempts: u32,
    /// The wait after the first failed attempt; it doubles with each
    #[arg(long, env = "WINDLASS_RETRY_WAIT", default_value = "1s", value_parser = parse_duration)]
    pub retry_wait: Duration,
}

impl FetchArgs {
    pub fn patience(&self) -> Patience {
        Patience {
            stall: self.stall_timeout,
            attempts: self.attempts,
            first_wait: self.retry_wait,
            longest_wait: self.retry_wait.saturating_mul(30),
        }
    }
}

#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The model file or folder; links may not leave the volume
    #[arg(long, env = "WINDLASS_FILE", value_name = "PATH")]
    pub file: PathBuf,
    /// The folder at which the volume is mounted
    #[arg(long, env = "WINDLASS_VOLUME", value_name = "DIR", default_value = "/models")]
    pub volume: PathBuf,
    /// Refuse any other content: sha256: and 64 hex digits
    #[arg(long, env = "WINDLASS_DIGEST", value_name = "DIGEST")]
    pub digest: Option<String>,
    #[command(flatten)]
    pub patterns: PatternArgs,
    #[command(flatten)]
    pub reporting: ReportingArgs,
}

#[derive(Debug, Args)]
pub struct PatternArgs {
    /// Of a repository or folder only files that match one of these: *.json, a folder/, as huggingface_hub reads them
    #[arg(long, env = "WINDLASS_ALLOW", value_name = "PATTERN", value_delimiter = ',')]
    pub allow: Vec<String>,
    /// Of a repository or folder no files that match one of these
    #[arg(long, env = "WINDLASS_IGNORE", value_name = "PATTERN", value_delimiter = ',')]
    pub ignore: Vec<String>,
}

impl PatternArgs {
    pub fn patterns(&self) -> Patterns {
        let given = |patterns: &[String]| patterns.iter().filter(|pattern| !pattern.is_empty()).cloned().collect();
        Patterns {
            allow: given(&self.allow),
            ignore: given(&self.ignore),
        }
    }
}

#[derive(Debug, Args)]
pub struct ReportingArgs {
    /// Answer GET /progress here while working
    #[arg(long, env = "WINDLASS_PROGRESS_LISTEN", value_name = "ADDR")]
    pub progress_listen: Option<SocketAddr>,
    /// Write the final report here as JSON, at most 4096 bytes (a pod's /dev/termination-log)
    #[arg(long, env = "WINDLASS_REPORT", value_name = "FILE")]
    pub report: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct ServeArgs {
    /// The folder with org/repo/path below it
    #[arg(long, env = "WINDLASS_ROOT", value_name = "DIR")]
    pub root: PathBuf,
    /// Where to listen
    #[arg(long, env = "WINDLASS_LISTEN", value_name = "ADDR", default_value = "[::]:8080")]
    pub listen: SocketAddr,
    /// Answer 401 to requests without the bearer token that this environment variable holds
    #[arg(long, env = "WINDLASS_REQUIRE_TOKEN_ENV", value_name = "NAME")]
    pub require_token_env: Option<String>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_has_an_environment_variable() {
        for command in Cli::command().get_subcommands() {
            for argument in command.get_arguments().filter(|argument| argument.get_id() != "help") {
                let name = argument.get_id().as_str().to_uppercase();
                let variable = argument.get_env().and_then(|name| name.to_str()).unwrap_or_default();
                assert_eq!(variable, format!("WINDLASS_{name}"), "{}", command.get_name());
            }
        }
    }
}
