//! The numbers that shape a decoder, read from the file's metadata and checked against each other, so
//! that everything behind may multiply and divide them. What the forward pass does not compute is refused.
use crate::load::gguf::{Gguf, GgufError};

use super::Architecture;

/// Shape of a decoder.
#[derive(Debug, Clone, PartialEq)]
pub struct Hyperparameters {
    /// Layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub width: usize,
    /// Width inside the feed-forward.
    pub feed_forward: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Tokens of the vocabulary.
    pub vocabulary: usize,
    /// Longest sequence the model was trained for.
    pub context: usize,
    /// Added under the root of the norms.
    pub norm_epsilon: f32,
    /// Elements of a head that rotate.
    pub rope_dims: usize,
    /// Base of the rotation's frequencies.
    pub rope_base: f32,
    /// Linear scaling: positions are divided by it.
    pub rope_factor: f32,
}

/// Over every published decoder by an order of magnitude, and small enough that no product of three overflows.
const MOST: u64 = 1 << 20;
/// Positions that the rotation can tell apart.
const MOST_CONTEXT: u64 = 1 << 28;

impl Hyperparameters {
    /// Reads them for `architecture` and a vocabulary of so many tokens.
    pub fn read(gguf: &Gguf, architecture: &Architecture, vocabulary: usize) -> Result<Self, GgufError> {
        let keys = Keys {
            gguf,
            prefix: architecture.name,
        };
        let layers = keys.count("block_count", MOST)?;
        let width = keys.count("embedding_length", MOST)?;
        let heads = keys.count("attention.head_count", MOST)?;
        let kv_heads = keys.count_or("attention.head_count_kv", heads)?;
        if heads % kv_heads != 0 {
            return keys.refuse(
                "attention.head_count_kv",
                format!("is {kv_heads}, which does not divide {heads} heads"),
            );
        }
        let head_dim = match keys.find("attention.key_length")? {
            Some(length) => keys.checked("attention.key_length", length, MOST)?,
            None if width % heads != 0 => {
                return keys.refuse(
                    "attention.head_count",
                    format!("is {heads}, which does not divide the width {width}"),
                );
            }
            None => width / heads,
        };
        if head_dim % 8 != 0 {
            return keys.refuse(
                "attention.head_count",
                format!("gives heads of {head_dim}; a multiple of 8 is needed"),
            );
        }
        let value_dim = keys.count_or("attention.value_length", head_dim)?;
        if value_dim != head_dim {
            let problem = format!("is {value_dim}; values shaped unlike keys ({head_dim}) are not supported");
            return keys.refuse("attention.value_length", problem);
        }
        let rope_dims = keys.count_or("rope.dimension_count", head_dim)?;
        if rope_dims % 2 != 0 || rope_dims > head_dim {
            let problem = format!("is {rope_dims}; an even number up to the head size {head_dim} is needed");
            return keys.refuse("rope.dimension_count", problem);
        }
        let context = keys.count("context_length", MOST_CONTEXT)?;
        keys.refuse_unsupported(context)?;
        Ok(Self {
            layers,
            width,
            feed_forward: keys.count("feed_forward_length", MOST)?,
            heads,
            kv_heads,
            head_dim,
            vocabulary,
            context,
            norm_epsilon: keys.positive("attention.layer_norm_rms_epsilon", None)?,
            rope_dims,
            rope_base: keys.positive("rope.freq_base", Some(10_000.0))?,
            rope_factor: keys.rope_factor()?,
        })
    }

    /// Width of all query heads together.
    pub fn query_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of all key heads, or all value heads, together.
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }
}

struct Keys<'a> {
    gguf: &'a Gguf,
    prefix: &'static str,
}

impl Keys<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    fn find(&self, name: &str) -> Result<Option<u64>, GgufError> {
        self.gguf.find_u64(&self.key(name))
    }

    fn count(&self, name: &str, most: u64) -> Result<usize, GgufError> {
        self.checked(name, self.gguf.u64(&self.key(name))?, most)
    }

    fn count_or(&self, name: &str, default: usize) -> Result<usize, GgufError> {
        self.find(name)?
            .map_or(Ok(default), |value| self.checked(name, value, MOST))
    }

    fn checked(&self, name: &str, value: u64, most: u64) -> Result<usize, GgufError> {
        if value == 0 || value > most {
            return self.refuse(name, format!("is {value}; 1 to {most} are possible"));
        }
        Ok(value as usize)
    }

    fn positive(&self, name: &str, default: Option<f32>) -> Result<f32, GgufError> {
        let value = match (self.gguf.find_f32(&self.key(name))?, default) {
            (Some(value), _) => value,
            (None, Some(default)) => default,
            (None, None) => self.gguf.f32(&self.key(name))?,
        };
        if !value.is_finite() || value <= 0.0 {
            return self.refuse(name, format!("is {value}; a positive number is needed"));
        }
        Ok(value)
    }

    fn rope_factor(&self) -> Result<f32, GgufError> {
        match self.gguf.find_text(&self.key("rope.scaling.type"))? {
            None | Some("linear") => {}
            Some("none") => return Ok(1.0),
            Some(other) => {
                let problem = format!("is `{other}`; `none`, `linear` and a `rope_freqs` tensor are supported");
                return self.refuse("rope.scaling.type", problem);
            }
        }
        // The older name of the same factor.
        let older = self.positive("rope.scale_linear", Some(1.0))?;
        self.positive("rope.scaling.factor", Some(older))
    }

    /// Refuses what changes the arithmetic and is not computed here.
    fn refuse_unsupported(&self, context: usize) -> Result<(), GgufError> {
        if let Some(experts) = self.find("expert_count")?.filter(|&experts| experts > 0) {
            return self.refuse(
                "expert_count",
                format!("is {experts}; mixtures of experts are not supported"),
            );
        }
        if let Some(window) = self
            .find("attention.sliding_window")?
            .filter(|&window| (1..context as u64).contains(&window))
        {
            let problem = format!("is {window}; sliding windows below the context ({context}) are not supported");
            return self.refuse("attention.sliding_window", problem);
        }
        for name in [
            "attention.logit_softcapping",
            "attention.clamp_kqv",
            "attention.max_alibi_bias",
            "logit_scale",
        ] {
            if self.gguf.find_f32(&self.key(name))?.is_some_and(|value| value != 0.0) {
                return self.refuse(name, "is set, and is not supported".into());
            }
        }
        Ok(())
    }

    fn refuse<T>(&self, name: &str, problem: String) -> Result<T, GgufError> {
        Err(self.gguf.metadata_error(&self.key(name), problem))
    }
}
