//! The weights of an encoder, packed for the kernels. Tensors are read one at a time, each checked against the shape that
//! the configuration says.
use windlass_kernels::{
    Dense, Encoder, EncoderLayer, EncoderWork, GROUP_AFTER_NORM, GROUP_ELSEWHERE, Norm, Precision, Store,
};

use super::config::Config;
use super::{EmbedLoadError, EmbedderOptions};
use crate::load::safetensors::{SafeTensors, SafeTensorsError};

/// Bytes that weights and working memory take, or somewhat more.
pub(super) fn bytes(config: &Config, options: &EmbedderOptions, longest: usize) -> u64 {
    let plain = (config.vocabulary + config.positions + config.token_types) as u64 * config.width as u64 * 4;
    let work = EncoderWork::bytes(options.threads, config.width, config.inner, longest);
    // One tensor is in memory as it was read, and as f32.
    let reading = (config.vocabulary * config.width).max(config.width * config.inner) as u64 * 8;
    packed_bytes(config, options.precision)
        .unwrap_or(u64::MAX)
        .saturating_add(plain + reading)
        .saturating_add(work)
}

/// Outputs and inputs of the products of a layer: qkv, output, up, down.
fn shapes(config: &Config) -> [(usize, usize); 4] {
    let (width, inner) = (config.width, config.inner);
    [(3 * width, width), (width, width), (inner, width), (width, inner)]
}

fn packed_bytes(config: &Config, precision: Precision) -> Option<u64> {
    let layer = shapes(config).into_iter().try_fold(0u64, |sum, (outputs, inputs)| {
        sum.checked_add(Dense::packed_bytes(precision, outputs, inputs)? as u64)
    });
    layer?.checked_mul(config.layers as u64)
}

/// Reads and packs all weights.
pub(super) fn load(config: &Config, file: &SafeTensors, precision: Precision) -> Result<Encoder, EmbedLoadError> {
    // Some files have the encoder inside a larger model.
    let prefix = match file.contains("bert.embeddings.word_embeddings.weight") {
        true => "bert.",
        false => "",
    };
    let size = packed_bytes(config, precision).and_then(|bytes| usize::try_from(bytes).ok());
    let mut reader = Reader {
        file,
        prefix,
        store: Store::new(size.unwrap_or(usize::MAX))?,
        precision,
    };
    let (width, inner) = (config.width, config.inner);
    let mut positions = reader.read("embeddings.position_embeddings.weight", &[config.positions, width])?;
    let types = reader.read("embeddings.token_type_embeddings.weight", &[config.token_types, width])?;
    for row in positions.chunks_exact_mut(width) {
        row.iter_mut()
            .zip(&types)
            .for_each(|(position, first)| *position += first);
    }
    let mut layers = Vec::new();
    for index in 0..config.layers {
        let name = |part: &str| format!("encoder.layer.{index}.{part}");
        let qkv = ["query", "key", "value"].map(|part| name(&format!("attention.self.{part}")));
        layers.push(EncoderLayer {
            qkv: reader.dense(&qkv, width, width, GROUP_AFTER_NORM)?,
            output: reader.dense(&[name("attention.output.dense")], width, width, GROUP_ELSEWHERE)?,
            attention_norm: reader.norm(&name("attention.output.LayerNorm"), width)?,
            up: reader.dense(&[name("intermediate.dense")], inner, width, GROUP_AFTER_NORM)?,
            down: reader.dense(&[name("output.dense")], width, inner, GROUP_ELSEWHERE)?,
            feed_forward_norm: reader.norm(&name("output.LayerNorm"), width)?,
        });
    }
    Ok(Encoder {
        words: reader.read("embeddings.word_embeddings.weight", &[config.vocabulary, width])?,
        positions,
        embedding_norm: reader.norm("embeddings.LayerNorm", width)?,
        layers,
        heads: config.heads,
        epsilon: config.epsilon,
        pooling: config.pooling,
        normalize: config.normalize,
    })
}

struct Reader<'a> {
    file: &'a SafeTensors,
    prefix: &'static str,
    store: Store,
    precision: Precision,
}

impl Reader<'_> {
    fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, SafeTensorsError> {
        self.file.read(&format!("{}{name}", self.prefix), shape)
    }

    fn norm(&self, name: &str, width: usize) -> Result<Norm, SafeTensorsError> {
        Ok(Norm {
            weight: self.read(&format!("{name}.weight"), &[width])?,
            bias: self.read(&format!("{name}.bias"), &[width])?,
        })
    }

    /// Layers over the same inputs, as one; as bytes, `group` inputs share a scale.
    fn dense(
        &mut self,
        names: &[String],
        outputs: usize,
        inputs: usize,
        group: usize,
    ) -> Result<Dense, EmbedLoadError> {
        let (mut weights, mut bias) = (Vec::new(), Vec::new());
        for name in names {
            weights.extend(self.read(&format!("{name}.weight"), &[outputs, inputs])?);
            bias.extend(self.read(&format!("{name}.bias"), &[outputs])?);
        }
        Ok(Dense::pack(
            &mut self.store,
            self.precision,
            group,
            inputs,
            &weights,
            bias,
        )?)
    }
}
