//! Writes the CRDs as the chart `windlass-crds` carries them: `crdgen FOLDER`; `make crds` runs it.
use std::{error::Error, fs, path::PathBuf};

use windlass_crds::schema;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args_os().nth(1).map(PathBuf::from);
    let folder = folder.ok_or("usage: crdgen FOLDER, for example charts/windlass-crds/templates")?;
    for (name, text) in schema::chart_templates()? {
        // Written in full before it replaces the old file.
        let partial = folder.join(format!("{name}.partial"));
        fs::write(&partial, text)?;
        fs::rename(&partial, folder.join(name))?;
    }
    Ok(())
}
