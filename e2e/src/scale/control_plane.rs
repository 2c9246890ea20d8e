//! The processor time of the control plane's programs and of kwok: they share the machine with the operator, and most of
//! the time until all objects are Ready is theirs.
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// The kernel counts processor time in hundredths of a second on all architectures we build for.
const TICKS_PER_SECOND: f64 = 100.0;

/// Seconds of processor time so far by program, of the cluster whose state lies in this folder.
///
/// # Errors
/// When the cluster does not run, or /proc cannot be read.
pub fn cpu_seconds(state: &Path) -> Result<BTreeMap<String, f64>> {
    let own = fs::read_link("/proc/self/ns/pid")?;
    let mark = format!("WINDLASS_NODE={}/n1", state.display());
    // The first process of the node and the one that made its namespaces have the mark; the first is inside.
    let inside = processes()?.into_iter().find_map(|process| {
        let environment = fs::read(format!("/proc/{process}/environ")).ok()?;
        let is_marked = environment
            .split(|byte| *byte == 0)
            .any(|variable| variable == mark.as_bytes());
        let namespace = fs::read_link(format!("/proc/{process}/ns/pid")).ok()?;
        (is_marked && namespace != own).then_some(namespace)
    });
    let inside = inside.with_context(|| format!("no process of the cluster in {}", state.display()))?;
    let mut seconds = BTreeMap::new();
    for process in processes()? {
        // A process may end at any moment; then it counts no more.
        let Ok(namespace) = fs::read_link(format!("/proc/{process}/ns/pid")) else {
            continue;
        };
        let (Ok(command), Ok(used)) = (fs::read(format!("/proc/{process}/cmdline")), of_process(process)) else {
            continue;
        };
        if namespace == inside {
            let program = command.split(|byte| *byte == 0).next().unwrap_or_default();
            let program = String::from_utf8_lossy(program);
            let program = program.rsplit('/').next().unwrap_or_default().to_owned();
            *seconds.entry(program).or_default() += used;
        }
    }
    Ok(seconds)
}

/// Seconds of processor time of one process so far.
///
/// # Errors
/// When the process has ended.
pub fn of_process(process: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The fields after the program's name, which may hold spaces: the 14th and 15th of all are times.
    let (_, fields) = stat.rsplit_once(')').context("an unknown format of /proc/PID/stat")?;
    let mut fields = fields.split_whitespace().skip(11);
    let mut ticks = || -> Result<f64> { Ok(fields.next().context("too few fields in /proc/PID/stat")?.parse()?) };
    Ok((ticks()? + ticks()?) / TICKS_PER_SECOND)
}

fn processes() -> Result<Vec<u32>> {
    let entries = fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    Ok(entries.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_process_is_read_and_a_cluster_that_does_not_run_is_an_error() {
        assert!(of_process(std::process::id()).unwrap() >= 0.0);
        let error = cpu_seconds(Path::new("/nowhere")).unwrap_err().to_string();
        assert!(error.contains("/nowhere"), "{error}");
    }
}
