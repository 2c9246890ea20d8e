//! The models the engine can run. One file an architecture says what is particular to it; the forward
//! pass of the decoder they share is in `decoder`. Nothing here knows a request.
use crate::load::gguf::{Gguf, GgufError};

mod batch;
mod decoder;
mod hyper;
mod llama;
mod qwen2;
mod weights;

pub use batch::{Batch, Row};
pub use decoder::{Decoder, Workspace};
pub use hyper::Hyperparameters;
pub use weights::WeightPlan;

use windlass_kernels::RopeStyle;

/// What sets an architecture apart from the other decoders.
#[derive(Debug, Clone, Copy)]
pub struct Architecture {
    /// Its name in `general.architecture`, which also begins its metadata keys.
    pub name: &'static str,
    /// Which elements of a head rotate together.
    pub rope: RopeStyle,
    /// Whether query, key and value projections have biases.
    pub bias: Bias,
}

/// Whether an architecture's projections have biases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bias {
    /// Some of its models have them.
    Optional,
    /// All of its models have them.
    Required,
}

impl Architecture {
    /// The architecture of a file.
    pub fn of(gguf: &Gguf) -> Result<&'static Self, GgufError> {
        const KEY: &str = "general.architecture";
        let name = gguf.text(KEY)?;
        ALL.iter()
            .copied()
            .find(|architecture| architecture.name == name)
            .ok_or_else(|| {
                let known: Vec<_> = ALL.iter().map(|architecture| architecture.name).collect();
                gguf.metadata_error(KEY, format!("is `{name}`; this version runs {}", known.join(" and ")))
            })
    }
}

const ALL: [&Architecture; 2] = [&llama::ARCHITECTURE, &qwen2::ARCHITECTURE];
