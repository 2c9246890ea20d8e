//! The weights of a model, packed for the kernels. Each tensor is checked against the model's shape; the
//! file's bytes are read one tensor at a time and dropped once packed.
use std::fs::File;

use windlass_kernels::{Decoder, Layer, Matrix, Projection, Rope, Store, TensorType, dequantize};

use super::{Family, Rotation, Shape};
use crate::engine::LoadError;
use crate::load::gguf::{Gguf, GgufError, TensorInfo};

/// Bytes that the matrices of a file take once packed.
pub fn packed_bytes(gguf: &Gguf) -> u64 {
    let packed = gguf.tensors().iter().map(|tensor| match tensor.dims[..] {
        [cols, rows] => match (
            TensorType::from_ggml(tensor.kind.id),
            usize::try_from(rows),
            usize::try_from(cols),
        ) {
            (Some(ty), Ok(rows), Ok(cols)) => {
                Matrix::packed_bytes(ty, rows, cols).map_or(u64::MAX, |bytes| bytes as u64)
            }
            // Of a type that is refused when the tensor is read.
            _ => 0,
        },
        _ => 0,
    });
    packed.fold(0, u64::saturating_add)
}

/// Reads and packs all weights.
pub fn load(gguf: &Gguf, file: &File, family: &Family, shape: &Shape) -> Result<Decoder, LoadError> {
    let size = usize::try_from(packed_bytes(gguf)).unwrap_or(usize::MAX);
    let mut reader = Reader {
        gguf,
        file,
        store: Store::new(size)?,
        bytes: Vec::new(),
    };
    let embedding = reader.matrix("token_embd.weight", shape.vocabulary, shape.width)?;
    let head = match gguf.find_tensor("output.weight") {
        Some(_) => Some(reader.matrix("output.weight", shape.vocabulary, shape.width)?),
        None => None,
    };
    let layers = (0..shape.layers)
        .map(|index| reader.layer(index, shape, family))
        .collect::<Result<_, _>>()?;
    Ok(Decoder {
        embedding,
        head,
        layers,
        final_norm: reader.vector("output_norm.weight", shape.width)?,
        ropes: reader.ropes(shape, family)?,
        embedding_scale: if family.scaled_embeddings {
            (shape.width as f32).sqrt()
        } else {
            1.0
        },
        attention_scale: (family.attention_scale)(shape),
        activation: family.activation,
        heads: shape.heads,
        kv_heads: shape.kv_heads,
        head_dim: shape.head_dim,
        norm_epsilon: shape.norm_epsilon,
    })
}

struct Reader<'a> {
    gguf: &'a Gguf,
    file: &'a File,
    store: Store,
    bytes: Vec<u8>,
}

impl Reader<'_> {
    fn layer(&mut self, index: usize, shape: &Shape, family: &Family) -> Result<Layer, GgufError> {
        let name = |part: &str| format!("blk.{index}.{part}.weight");
        let (width, inner) = (shape.width, shape.feed_forward);
        let bias = family.attention_bias;
        Ok(Layer {
            attention_norm: self.vector(&name("attn_norm"), width)?,
            q: self.projection(&format!("blk.{index}.attn_q"), shape.query_width(), width, bias)?,
            k: self.projection(&format!("blk.{index}.attn_k"), shape.kv_width(), width, bias)?,
            v: self.projection(&format!("blk.{index}.attn_v"), shape.kv_width(), width, bias)?,
            o: self.matrix(&name("attn_output"), width, shape.query_width())?,
            q_norm: self.norm(family.head_norms, &name("attn_q_norm"), shape.head_dim)?,
            k_norm: self.norm(family.head_norms, &name("attn_k_norm"), shape.head_dim)?,
            post_attention_norm: self.norm(family.post_norms, &name("post_attention_norm"), width)?,
            feed_forward_norm: self.vector(&name("ffn_norm"), width)?,
            gate: self.matrix(&name("ffn_gate"), inner, width)?,
            up: self.matrix(&name("ffn_up"), inner, width)?,
            down: self.matrix(&name("ffn_down"), width, inner)?,
            post_feed_forward_norm: self.norm(family.post_norms, &name("post_ffw_norm"), width)?,
            rope: shape.positions.rope_of(index),
            window: shape.positions.windows[index],
        })
    }

    /// A norm that only some families have.
    fn norm(&mut self, is_wanted: bool, name: &str, len: usize) -> Result<Option<Vec<f32>>, GgufError> {
        is_wanted.then(|| self.vector(name, len)).transpose()
    }

    fn projection(&mut self, name: &str, rows: usize, cols: usize, bias: bool) -> Result<Projection, GgufError> {
        let bias_name = format!("{name}.bias");
        let bias = match self.gguf.find_tensor(&bias_name) {
            None if !bias => None,
            _ => Some(self.vector(&bias_name, rows)?),
        };
        let matrix = self.matrix(&format!("{name}.weight"), rows, cols)?;
        Ok(Projection { matrix, bias })
    }

    fn matrix(&mut self, name: &str, rows: usize, cols: usize) -> Result<Matrix, GgufError> {
        let (tensor, ty) = self.read(name, &[cols as u64, rows as u64])?;
        Matrix::pack(&mut self.store, ty, rows, cols, &self.bytes)
            .map_err(|error| self.gguf.tensor_error(&tensor.name, format!("cannot be used: {error}")))
    }

    fn vector(&mut self, name: &str, len: usize) -> Result<Vec<f32>, GgufError> {
        let (tensor, ty) = self.read(name, &[len as u64])?;
        let mut values = vec![0.0; len];
        dequantize(ty, &self.bytes, &mut values)
            .map_err(|error| self.gguf.tensor_error(&tensor.name, format!("cannot be used: {error}")))?;
        Ok(values)
    }

    fn ropes(&mut self, shape: &Shape, family: &Family) -> Result<Vec<Rope>, GgufError> {
        const FACTORS: &str = "rope_freqs.weight";
        let dims = shape.positions.rope_dims;
        let factors = match self.gguf.find_tensor(FACTORS) {
            Some(_) => self.vector(FACTORS, dims / 2)?,
            None => vec![1.0; dims / 2],
        };
        let rope = |Rotation { base, scale }| {
            let factors: Vec<f32> = factors.iter().map(|factor| factor * scale).collect();
            Rope::new(family.rope, shape.head_dim, dims, base, Some(&factors)).map_err(|error| {
                self.gguf.metadata_error(
                    &format!("{}.rope.dimension_count", family.name),
                    format!("cannot be used: {error}"),
                )
            })
        };
        shape.positions.ropes().map(rope).collect()
    }

    /// Reads a tensor of known extents into `self.bytes`.
    fn read(&mut self, name: &str, dims: &[u64]) -> Result<(TensorInfo, TensorType), GgufError> {
        let tensor = self.gguf.tensor(name)?;
        if tensor.dims != dims {
            let problem = format!("has the extents {:?}; the metadata asks for {dims:?}", tensor.dims);
            return Err(self.gguf.tensor_error(name, problem));
        }
        let ty = TensorType::from_ggml(tensor.kind.id).ok_or_else(|| {
            let problem = format!(
                "has the type {}, which this engine does not compute with",
                tensor.kind.name
            );
            self.gguf.tensor_error(name, problem)
        })?;
        self.gguf.read_tensor(self.file, tensor, &mut self.bytes)?;
        Ok((tensor.clone(), ty))
    }
}
