//! Where and from what a result came. A number without these is a rumour.
use serde::Serialize;
use std::process::Command;

/// The threads that were asked for, or as many as this process may use.
///
/// # Errors
/// If the system does not say how many that are.
pub fn threads(asked: Option<impl Into<usize>>) -> std::io::Result<usize> {
    match asked {
        Some(threads) => Ok(threads.into()),
        None => Ok(std::thread::available_parallelism()?.get()),
    }
}

/// Goes into every result.
#[derive(Debug, Clone, Serialize)]
pub struct Origin {
    /// The processor's name.
    pub cpu: String,
    /// The cores that this process, and so every server that it starts, may use.
    pub cores: String,
    /// Last-level cache.
    pub cache: String,
    /// MemTotal.
    pub memory: String,
    /// Of the kernel.
    pub kernel: String,
    /// Whether the kernel hands out huge pages.
    pub huge_pages: String,
    /// Load averages when the measurement began: high ones mean that other work disturbed it.
    pub load: String,
    /// Of this source tree; `+` says that it has changes beyond.
    pub commit: String,
    /// The command line.
    pub command: String,
}

impl Origin {
    /// Of this process, now.
    pub fn read() -> Self {
        let changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|text| !text.is_empty());
        let commit = git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".to_owned());
        Self {
            cpu: field("/proc/cpuinfo", "model name"),
            cores: field("/proc/self/status", "Cpus_allowed_list"),
            cache: file("/sys/devices/system/cpu/cpu0/cache/index3/size"),
            memory: field("/proc/meminfo", "MemTotal"),
            kernel: file("/proc/sys/kernel/osrelease"),
            huge_pages: file("/sys/kernel/mm/transparent_hugepage/enabled"),
            load: file("/proc/loadavg"),
            commit: commit + if changed { "+" } else { "" },
            command: std::env::args().collect::<Vec<_>>().join(" "),
        }
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "- processor: {}, cores {}, last-level cache {}",
            self.cpu, self.cores, self.cache
        )?;
        writeln!(
            f,
            "- memory: {}, huge pages: {}; kernel {}",
            self.memory, self.huge_pages, self.kernel
        )?;
        writeln!(f, "- load averages at the start: {}", self.load)?;
        writeln!(f, "- commit: {}", self.commit)?;
        writeln!(f, "- command: `{}`", self.command)
    }
}

fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn file(path: &str) -> String {
    std::fs::read_to_string(path).map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

/// The value of a line `name: value`.
pub fn field(path: &str, name: &str) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let value = text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    });
    value.unwrap_or_else(|| "unknown".to_owned())
}
