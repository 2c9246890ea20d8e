//! Writes what is generated from the kinds, the CRDs of the chart `windlass-crds` and the API reference:
//! `crdgen ROOT`, with the root of the repository; `make crds` runs it.
use std::{error::Error, fs, path::PathBuf};

use windlass_crds::schema;

fn main() -> Result<(), Box<dyn Error>> {
    let root = std::env::args_os().nth(1).map(PathBuf::from);
    let root = root.ok_or("usage: crdgen ROOT, the root of the repository, for example crdgen .")?;
    for (path, text) in schema::generated()? {
        // Written in full before it replaces the old file.
        let path = root.join(path);
        let partial = path.with_added_extension("partial");
        fs::write(&partial, text)?;
        fs::rename(&partial, path)?;
    }
    Ok(())
}
