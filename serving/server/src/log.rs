//! The log: to stderr, as text or JSON. Stdout carries only the address.
use crate::args::LogFormat;
use anyhow::Context as _;
use tracing_subscriber::EnvFilter;

/// Installs the log for the whole process.
pub fn install(format: LogFormat, filter: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter).with_context(|| format!("the log filter `{filter}` does not parse"))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let installed = match format {
        LogFormat::Text => builder.with_ansi(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    installed.map_err(|error| anyhow::anyhow!("the log could not be installed: {error}"))
}
