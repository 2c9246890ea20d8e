//! What this process may use: processors and memory, as its control group allows. Asking the
//! machine instead of the control group is how engines end up with 64 threads on 2 processors.
use std::path::Path;

/// Threads that can run at once: the control group's quota (v1 or v2) and the affinity mask, never
/// the number of processors of the machine. At least 1.
pub fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Bytes of memory that this process may have: the smallest limit among its control groups and the
/// machine's memory; `None` when nothing can be read.
pub fn memory() -> Option<u64> {
    memory_under(Path::new("/"))
}

/// As `memory`, below another root, for tests.
fn memory_under(root: &Path) -> Option<u64> {
    let groups = std::fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let limits = groups.lines().filter_map(|line| group_limit(root, line));
    limits.chain(total_memory(root)).min()
}

/// The limit of one line `id:controllers:path` of `/proc/self/cgroup`.
fn group_limit(root: &Path, line: &str) -> Option<u64> {
    let mut parts = line.splitn(3, ':');
    let (id, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
    let (mount, file) = if id == "0" && controllers.is_empty() {
        ("sys/fs/cgroup", "memory.max")
    } else if controllers.split(',').any(|name| name == "memory") {
        ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
    } else {
        return None;
    };
    // A parent's limit binds as well. Inside a container the path may be the host's, which does not
    // exist here; the mount's own root is then the container's group, and it is the last to be asked.
    Path::new(path.trim_start_matches('/'))
        .ancestors()
        .filter_map(|group| std::fs::read_to_string(root.join(mount).join(group).join(file)).ok())
        .filter_map(|text| text.trim().parse().ok()) // "max" is no limit
        .min()
}

fn total_memory(root: &Path) -> Option<u64> {
    let info = std::fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        root
    }

    const MEMINFO: (&str, &str) = ("proc/meminfo", "MemTotal:       2048 kB\nMemFree: 1 kB\n");

    #[test]
    fn the_smallest_limit_on_the_way_to_the_root_binds() {
        let root = machine(&[
            ("proc/self/cgroup", "0::/kubepods/pod1/c1\n"),
            ("sys/fs/cgroup/kubepods/pod1/c1/memory.max", "max\n"),
            ("sys/fs/cgroup/kubepods/pod1/memory.max", "4096\n"),
            ("sys/fs/cgroup/kubepods/memory.max", "8192\n"),
            MEMINFO,
        ]);
        assert_eq!(memory_under(root.path()), Some(4096));
    }

    #[test]
    fn a_container_that_sees_the_hosts_path_uses_its_mount() {
        let root = machine(&[
            ("proc/self/cgroup", "4:cpu,cpuacct:/docker/x\n3:memory:/docker/x\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "1000000\n"),
            MEMINFO,
        ]);
        assert_eq!(memory_under(root.path()), Some(1_000_000));
    }

    #[test]
    fn a_v1_group_without_a_limit_leaves_the_machines_memory() {
        let root = machine(&[
            ("proc/self/cgroup", "3:memory:/\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            MEMINFO,
        ]);
        assert_eq!(memory_under(root.path()), Some(2048 * 1024));
    }

    #[test]
    fn nothing_to_read_is_no_limit() {
        assert_eq!(memory_under(machine(&[]).path()), None);
    }
}
