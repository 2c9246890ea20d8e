//! Arithmetic of the serving engine: packed weights, quantised activations, matrix products,
//! attention over a paged cache, the passes of decoders and encoders, row operations, and the thread pool that runs them.
//!
//! This is the only crate with `unsafe`, and nothing it exports needs any. Shapes that do not fit
//! together are a bug of the caller and panic; data (files, sizes, values) never does.
//! Every result is the same bit for bit on every instruction set, for every number of threads and
//! for every batch that a row is part of. The crate knows no request, no file and no clock.
#![deny(unsafe_op_in_unsafe_fn)]

mod activations;
mod attention;
mod batch;
mod blocks;
mod buffer;
mod decoder;
mod dense;
mod dequantize;
mod encoder;
mod isa;
mod kv;
mod lanes;
mod layout;
mod matmul;
mod matrix;
mod ops;
mod pool;
pub mod roof;
mod rope;
pub mod speed;
mod store;
mod tensor_type;

#[cfg(test)]
mod sample;

pub use batch::{Batch, Want};
pub use buffer::OutOfMemory;
pub use decoder::{Activation, Decoder, Layer, Projection, Workspace, WorkspaceSizes};
pub use dense::{Dense, GROUP_AFTER_NORM, GROUP_ELSEWHERE, Precision};
pub use dequantize::{DequantizeError, dequantize};
pub use encoder::{Encoder, EncoderLayer, EncoderWork, Norm, Pooling};
pub use isa::{Isa, cpu};
pub use kv::{KvCache, KvError, KvShape, KvType};
pub use matrix::{Matrix, PackError};
pub use ops::{WEIGHTS, argmax, logsumexp, softmax, weights};
pub use pool::Pool;
pub use rope::{Rope, RopeError, RopeStyle};
pub use store::Store;
pub use tensor_type::TensorType;
