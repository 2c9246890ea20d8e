//! Prints the CRDs as the chart `windlass-crds` carries them:
//! `cargo run -p windlass-crds --bin crdgen > charts/windlass-crds/templates/modeldeployments.yaml`.
use std::io::Write;

use windlass_crds::schema;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    std::io::stdout().write_all(schema::chart_template()?.as_bytes())?;
    Ok(())
}
