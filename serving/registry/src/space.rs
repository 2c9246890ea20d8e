//! Whether a volume has room, asked before the first byte is written.
use std::path::Path;

use crate::failure::FetchFailed;

/// Refuses when the volume of `folder` has less than `needed` bytes for us.
pub fn require(folder: &Path, needed: u64) -> Result<(), FetchFailed> {
    let stat = rustix::fs::statvfs(folder)
        .map_err(|errno| FetchFailed::io("asking for the free space of", folder, errno.into()))?;
    // Saturating: some network file systems answer with absurd counts that mean "plenty".
    let available = stat.f_bavail.saturating_mul(stat.f_frsize);
    if needed > available {
        return Err(FetchFailed::NoRoom { needed, available });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_the_volume_has_is_refused_and_nothing_at_all_is_not() {
        let folder = tempfile::tempdir().unwrap();
        require(folder.path(), 0).unwrap();
        assert!(matches!(
            require(folder.path(), u64::MAX),
            Err(FetchFailed::NoRoom { .. })
        ));
        assert!(matches!(
            require(&folder.path().join("absent"), 0),
            Err(FetchFailed::Io { .. })
        ));
    }
}
