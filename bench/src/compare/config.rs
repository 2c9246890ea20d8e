//! What is compared: servers and engines as command lines with placeholders.
//!
//! `{model}`, `{port}`, `{threads}`, `{slots}`, `{context}` (tokens of all slots together) and `{bench}` (this
//! program) are filled in; a name in capitals is an environment variable. What needs a variable that is not set is
//! left out, and the report says so.
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Rounds, unless the command line says otherwise.
    pub rounds: u64,
    /// Files, relative to this one.
    pub scenarios: Vec<PathBuf>,
    /// The first one is what is judged, the others are its peers.
    pub server: Vec<Server>,
    /// As `server`, for the engines without HTTP.
    #[serde(default)]
    pub engine: Vec<Engine>,
}

/// A server.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// For tables.
    pub name: String,
    /// Which version it is.
    #[serde(default)]
    pub version: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Answers with 200 when the server is ready.
    pub ready: String,
}

/// A program that prints lines of JSON with `pp`, `tg`, `pl`, `speed_pp` and `speed_tg`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Engine {
    /// For tables.
    pub name: String,
    /// Programs and arguments, run one after another.
    pub commands: Vec<Vec<String>>,
}

impl Config {
    /// Reads a file; paths of scenarios become relative to the working directory.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let mut config: Self = toml::from_str(&text).with_context(|| path.display().to_string())?;
        let folder = path.parent().unwrap_or(Path::new(""));
        for scenario in &mut config.scenarios {
            *scenario = folder.join(&scenario);
        }
        Ok(config)
    }
}

/// A server given as `NAME=PROGRAM ARGUMENT …`, ready when `/health` says so.
pub fn peer(text: &str) -> Result<Server> {
    let (name, command) = text.split_once('=').context("a peer is NAME=PROGRAM ARGUMENT …")?;
    let command: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
    if name.trim().is_empty() || command.is_empty() {
        bail!("{text:?}: a peer is NAME=PROGRAM ARGUMENT …");
    }
    if !command.iter().any(|word| word.contains("{port}")) {
        bail!("{text:?}: {{port}} is missing: each server gets a free one");
    }
    Ok(Server {
        name: name.trim().to_owned(),
        version: String::new(),
        command,
        ready: "/health".to_owned(),
    })
}

/// Replaces every `{name}` in `text` by what `value` gives; the error is the name for which there is nothing.
pub fn fill(text: &str, value: &impl Fn(&str) -> Option<String>) -> Result<String, String> {
    let (mut filled, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}').ok_or_else(|| after.to_owned())?;
        filled.push_str(before);
        filled.push_str(&value(name).ok_or_else(|| name.to_owned())?);
        rest = after;
    }
    Ok(filled + rest)
}

/// As `fill`, for all words of a command.
pub fn fill_all(words: &[String], value: &impl Fn(&str) -> Option<String>) -> Result<Vec<String>, String> {
    words.iter().map(|word| fill(word, value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_filled_and_unknown_ones_named() {
        let value = |name: &str| (name == "port").then(|| "80".to_owned());
        assert_eq!(fill("127.0.0.1:{port}/{port}", &value), Ok("127.0.0.1:80/80".into()));
        assert_eq!(fill("plain", &value), Ok("plain".into()));
        assert_eq!(fill("{HOME}/x", &value), Err("HOME".into()));
    }

    #[test]
    fn a_peer_is_a_name_and_a_command_with_a_port() {
        let server = peer("ik = /opt/llama-server -m {model} --port {port} -rtr").unwrap();
        assert_eq!((server.name.as_str(), server.command.len()), ("ik", 6));
        for bad in ["llama-server", "=a {port}", "a=", "a=b -m {model}"] {
            assert!(peer(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_comparison_that_ships_is_well_formed() {
        let config = Config::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("compare.toml")).unwrap();
        assert!(config.scenarios.iter().all(|path| path.is_file()));
        let known = |name: &str| Some(name.to_owned());
        for server in &config.server {
            assert!(fill_all(&server.command, &known).is_ok(), "{}", server.name);
        }
        for engine in &config.engine {
            assert!(
                engine.commands.iter().all(|command| fill_all(command, &known).is_ok()),
                "{}",
                engine.name
            );
        }
    }
}
