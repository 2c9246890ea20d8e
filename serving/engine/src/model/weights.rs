//! The tensors a decoder needs: their names and shapes, checked before a byte of them is read, and then
//! packed one after the other. The file must hold these and no others: a tensor that nothing here reads
//! means a model that this would compute wrongly.
use std::collections::HashSet;
use std::fs::File;

use windlass_kernels::{Matrix, TensorType, dequantize};

use super::{Architecture, Bias, Hyperparameters};
use crate::load::gguf::{Gguf, GgufError, TensorInfo};

/// The weights of a decoder.
pub struct Weights {
    /// vocabulary x width.
    pub embedding: Matrix,
    /// vocabulary x width; `None` if the embedding serves as the head.
    pub head: Option<Matrix>,
    /// width.
    pub head_norm: Vec<f32>,
    /// Divides each rotation frequency, where the model has such factors.
    pub rope_factors: Option<Vec<f32>>,
    /// In order.
    pub layers: Vec<Layer>,
}

/// The weights of one layer.
pub struct Layer {
    /// width.
    pub attention_norm: Vec<f32>,
    /// query width x width.
    pub query: Projection,
    /// KV width x width.
    pub key: Projection,
    /// KV width x width.
    pub value: Projection,
    /// width x query width.
    pub output: Projection,
    /// width.
    pub feed_forward_norm: Vec<f32>,
    /// feed-forward x width.
    pub gate: Matrix,
    /// feed-forward x width.
    pub up: Matrix,
    /// width x feed-forward.
    pub down: Matrix,
}

/// A matrix and what is added to its product.
pub struct Projection {
    /// The weights.
    pub matrix: Matrix,
    /// One a row.
    pub bias: Option<Vec<f32>>,
}

/// Checked shapes and sizes of all tensors, before any of them is read.
#[derive(Debug)]
pub struct WeightPlan {
    parts: Parts,
    /// Bytes of the packed form.
    pub packed_bytes: u64,
    /// Bytes of the largest tensor in the file: the buffer that loading needs besides.
    pub largest_tensor: u64,
    /// Elements of all tensors.
    pub parameters: u64,
}

/// Which of the optional tensors the model has.
#[derive(Debug, Clone, Copy)]
struct Parts {
    head: bool,
    output_bias: bool,
    projection_bias: bool,
    rope_factors: bool,
}

impl WeightPlan {
    /// Looks for every tensor of the model, and for tensors that are none of its.
    pub fn new(gguf: &Gguf, architecture: &Architecture, hyper: &Hyperparameters) -> Result<Self, GgufError> {
        let has = |name: &str| gguf.find_tensor(name).is_some();
        let parts = Parts {
            head: has("output.weight"),
            output_bias: has("blk.0.attn_output.bias"),
            projection_bias: architecture.bias == Bias::Required || has("blk.0.attn_q.bias"),
            rope_factors: has("rope_freqs.weight"),
        };
        let mut plan = Self {
            parts,
            packed_bytes: 0,
            largest_tensor: 0,
            parameters: 0,
        };
        let mut expected = HashSet::new();
        parts.visit(hyper, &mut |name, shape| {
            let tensor = checked(gguf, &name, shape)?;
            let bytes = match shape {
                Shape::Vector(length) => Some(length * size_of::<f32>()),
                Shape::Matrix(rows, cols) => Matrix::packed_bytes(element_type(gguf, tensor)?, rows, cols),
            };
            let bytes = bytes.ok_or_else(|| gguf.tensor_error(&name, "is too large"))? as u64;
            plan.packed_bytes = plan.packed_bytes.saturating_add(bytes);
            plan.largest_tensor = plan.largest_tensor.max(tensor.bytes);
            plan.parameters = plan.parameters.saturating_add(tensor.dims.iter().product());
            expected.insert(name);
            Ok(())
        })?;
        match gguf.tensors().iter().find(|tensor| !expected.contains(&tensor.name)) {
            None => Ok(plan),
            Some(stranger) => {
                let problem = format!("is no part of a {} model as this version knows it", architecture.name);
                Err(gguf.tensor_error(&stranger.name, problem))
            }
        }
    }

    /// Reads and packs everything.
    pub fn load(&self, gguf: &Gguf, file: &File, hyper: &Hyperparameters) -> Result<Weights, GgufError> {
        let mut loader = Loader {
            gguf,
            file,
            buffer: Vec::new(),
        };
        let (width, kv, query, inner) = (hyper.width, hyper.kv_width(), hyper.query_width(), hyper.feed_forward);
        let mut layers = Vec::with_capacity(hyper.layers);
        for layer in 0..hyper.layers {
            let name = |part: &str| layer_tensor(layer, part);
            let bias = self.parts.projection_bias;
            layers.push(Layer {
                attention_norm: loader.vector(&name("attn_norm.weight"), width)?,
                query: loader.projection(&name("attn_q"), query, width, bias)?,
                key: loader.projection(&name("attn_k"), kv, width, bias)?,
                value: loader.projection(&name("attn_v"), kv, width, bias)?,
                output: loader.projection(&name("attn_output"), width, query, self.parts.output_bias)?,
                feed_forward_norm: loader.vector(&name("ffn_norm.weight"), width)?,
                gate: loader.matrix(&name("ffn_gate.weight"), inner, width)?,
                up: loader.matrix(&name("ffn_up.weight"), inner, width)?,
                down: loader.matrix(&name("ffn_down.weight"), width, inner)?,
            });
        }
        let head = match self.parts.head {
            false => None,
            true => Some(loader.matrix("output.weight", hyper.vocabulary, width)?),
        };
        let rope_factors = match self.parts.rope_factors {
            true => Some(loader.vector("rope_freqs.weight", hyper.rope_dims / 2)?),
            false => None,
        };
        Ok(Weights {
            embedding: loader.matrix("token_embd.weight", hyper.vocabulary, width)?,
            head,
            head_norm: loader.vector("output_norm.weight", width)?,
            rope_factors,
            layers,
        })
    }
}

impl Parts {
    /// Names every tensor with its shape.
    fn visit(
        &self,
        hyper: &Hyperparameters,
        each: &mut dyn FnMut(String, Shape) -> Result<(), GgufError>,
    ) -> Result<(), GgufError> {
        let (width, kv, query, inner) = (hyper.width, hyper.kv_width(), hyper.query_width(), hyper.feed_forward);
        each("token_embd.weight".into(), Shape::Matrix(hyper.vocabulary, width))?;
        each("output_norm.weight".into(), Shape::Vector(width))?;
        if self.head {
            each("output.weight".into(), Shape::Matrix(hyper.vocabulary, width))?;
        }
        if self.rope_factors {
            each("rope_freqs.weight".into(), Shape::Vector(hyper.rope_dims / 2))?;
        }
        for layer in 0..hyper.layers {
            let mut each = |part: &str, shape| each(layer_tensor(layer, part), shape);
            each("attn_norm.weight", Shape::Vector(width))?;
            each("ffn_norm.weight", Shape::Vector(width))?;
            each("attn_q.weight", Shape::Matrix(query, width))?;
            each("attn_k.weight", Shape::Matrix(kv, width))?;
            each("attn_v.weight", Shape::Matrix(kv, width))?;
            each("attn_output.weight", Shape::Matrix(width, query))?;
            each("ffn_gate.weight", Shape::Matrix(inner, width))?;
            each("ffn_up.weight", Shape::Matrix(inner, width))?;
            each("ffn_down.weight", Shape::Matrix(width, inner))?;
            if self.projection_bias {
                each("attn_q.bias", Shape::Vector(query))?;
                each("attn_k.bias", Shape::Vector(kv))?;
                each("attn_v.bias", Shape::Vector(kv))?;
            }
            if self.output_bias {
                each("attn_output.bias", Shape::Vector(width))?;
            }
        }
        Ok(())
    }
}

#[derive(Clone, Copy)]
enum Shape {
    Vector(usize),
    /// Outputs x inputs.
    Matrix(usize, usize),
}

struct Loader<'a> {
    gguf: &'a Gguf,
    file: &'a File,
    buffer: Vec<u8>,
}

impl Loader<'_> {
    fn projection(&mut self, name: &str, rows: usize, cols: usize, bias: bool) -> Result<Projection, GgufError> {
        let matrix = self.matrix(&format!("{name}.weight"), rows, cols)?;
        let bias = if bias {
            Some(self.vector(&format!("{name}.bias"), rows)?)
        } else {
            None
        };
        Ok(Projection { matrix, bias })
    }

    fn matrix(&mut self, name: &str, rows: usize, cols: usize) -> Result<Matrix, GgufError> {
        let kind = self.read(name, Shape::Matrix(rows, cols))?;
        Matrix::pack(kind, rows, cols, &self.buffer)
            .map_err(|error| self.gguf.tensor_error(name, format!("cannot be packed: {error}")))
    }

    fn vector(&mut self, name: &str, length: usize) -> Result<Vec<f32>, GgufError> {
        let kind = self.read(name, Shape::Vector(length))?;
        let mut values = vec![0.0; length];
        dequantize(kind, &self.buffer, &mut values)
            .map_err(|error| self.gguf.tensor_error(name, format!("cannot be read: {error}")))?;
        Ok(values)
    }

    fn read(&mut self, name: &str, shape: Shape) -> Result<TensorType, GgufError> {
        let tensor = checked(self.gguf, name, shape)?;
        self.gguf.read_tensor(self.file, tensor, &mut self.buffer)?;
        element_type(self.gguf, tensor)
    }
}

fn layer_tensor(layer: usize, part: &str) -> String {
    format!("blk.{layer}.{part}")
}

/// The tensor, if its shape is the one needed.
fn checked<'a>(gguf: &'a Gguf, name: &str, shape: Shape) -> Result<&'a TensorInfo, GgufError> {
    let tensor = gguf.tensor(name)?;
    let wanted = match shape {
        Shape::Vector(length) => [length as u64, 1, 1, 1],
        // The file says the innermost extent first.
        Shape::Matrix(rows, cols) => [cols as u64, rows as u64, 1, 1],
    };
    // Trailing extents of 1 may be there or not.
    let found: [u64; 4] = std::array::from_fn(|axis| tensor.dims.get(axis).copied().unwrap_or(1));
    if found != wanted {
        let wanted = match shape {
            Shape::Vector(_) => &wanted[..1],
            Shape::Matrix(..) => &wanted[..2],
        };
        return Err(gguf.tensor_error(
            name,
            format!("has the shape {:?}, and the model needs {wanted:?}", tensor.dims),
        ));
    }
    Ok(tensor)
}

/// The tensor's type, if the kernels compute with it.
fn element_type(gguf: &Gguf, tensor: &TensorInfo) -> Result<TensorType, GgufError> {
    TensorType::from_ggml(tensor.kind.id).ok_or_else(|| {
        let known: Vec<_> = TensorType::ALL.iter().map(|kind| kind.name()).collect();
        let problem = format!("has the type {}; supported are {}", tensor.kind.name, known.join(", "));
        gguf.tensor_error(&tensor.name, problem)
    })
}
