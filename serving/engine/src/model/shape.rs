//! The numbers of a model, read from its metadata and checked against each other before anything is
//! allocated. What would silently give wrong results is refused by name.
use windlass_kernels::{KvShape, KvType, Workspace, WorkspaceSizes};

use super::{Family, Positions};
use crate::load::gguf::{Gguf, GgufError};

/// No sensible model has more of anything; bounds every product below.
const MAX_EXTENT: u64 = 1 << 20;

/// The numbers of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Shape {
    /// Layers.
    pub layers: usize,
    /// Elements of a hidden state.
    pub width: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Elements inside the feed-forward network.
    pub feed_forward: usize,
    /// Tokens of the vocabulary.
    pub vocabulary: usize,
    /// Tokens that the model was made for.
    pub context: usize,
    /// Added under the root of the norms.
    pub norm_epsilon: f32,
    /// Whether what attention and feed-forward network give is normalised.
    pub has_post_norms: bool,
    /// Rotations and windows.
    pub positions: Positions,
}

impl Shape {
    /// Reads and checks the numbers of a file with this vocabulary.
    pub fn read(gguf: &Gguf, family: &Family, vocabulary: usize) -> Result<Self, GgufError> {
        let key = |name: &str| format!("{}.{name}", family.name);
        let extent = |name: &str| checked(gguf, &key(name), gguf.u64(&key(name))?);
        let optional = |name: &str, default: usize| match gguf.find_u64(&key(name))? {
            Some(value) => checked(gguf, &key(name), value),
            None => Ok(default),
        };
        if let Some(experts) = gguf.find_u64(&key("expert_count"))?.filter(|&count| count > 0) {
            let problem = format!("is {experts}; mixtures of experts are not supported");
            return Err(gguf.metadata_error(&key("expert_count"), problem));
        }
        for name in ["attn_logit_softcapping", "final_logit_softcapping"] {
            if let Some(cap) = gguf.find_f32(&key(name))?.filter(|&cap| cap != 0.0) {
                let problem = format!("is {cap}; bounded logits are not supported");
                return Err(gguf.metadata_error(&key(name), problem));
            }
        }
        let width = extent("embedding_length")?;
        let heads = extent("attention.head_count")?;
        let kv_heads = optional("attention.head_count_kv", heads)?;
        if !heads.is_multiple_of(kv_heads) {
            let problem = format!("is {kv_heads}, which does not divide the {heads} query heads");
            return Err(gguf.metadata_error(&key("attention.head_count_kv"), problem));
        }
        if gguf.find_u64(&key("attention.key_length"))?.is_none() && !width.is_multiple_of(heads) {
            let problem = format!("is {heads}, which does not divide the {width} elements of a hidden state");
            return Err(gguf.metadata_error(&key("attention.head_count"), problem));
        }
        let head_dim = optional("attention.key_length", width / heads)?;
        if optional("attention.value_length", head_dim)? != head_dim || !head_dim.is_multiple_of(8) {
            let problem = "must equal the key length, a multiple of 8; other heads are not supported";
            return Err(gguf.metadata_error(&key("attention.value_length"), problem));
        }
        let norm_epsilon = gguf.f32(&key("attention.layer_norm_rms_epsilon"))?;
        if !(norm_epsilon.is_finite() && norm_epsilon >= 0.0) {
            return Err(gguf.metadata_error(&key("attention.layer_norm_rms_epsilon"), "is not a positive number"));
        }
        let layers = extent("block_count")?;
        let positions = Positions::read(gguf, family, layers, head_dim)?;
        let context = usize::try_from(gguf.u64(&key("context_length"))?).unwrap_or(usize::MAX);
        let context = context.min(positions.longest);
        if context == 0 {
            return Err(gguf.metadata_error(&key("context_length"), "is 0"));
        }
        Ok(Self {
            layers,
            width,
            heads,
            kv_heads,
            head_dim,
            feed_forward: extent("feed_forward_length")?,
            vocabulary,
            context,
            norm_epsilon,
            has_post_norms: family.post_norms,
            positions,
        })
    }

    /// Elements of all query heads.
    pub fn query_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Elements of all key heads, and of all value heads.
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Bytes of the working memory for batches of `rows` tokens, of which `outputs` give a next one.
    pub fn workspace_bytes(&self, rows: usize, outputs: usize) -> u64 {
        Workspace::bytes(&WorkspaceSizes {
            rows,
            outputs,
            width: self.width,
            query_width: self.query_width(),
            kv_width: self.kv_width(),
            feed_forward: self.feed_forward,
            angles: self.positions.rope_dims * self.positions.ropes().count(),
            has_post_norms: self.has_post_norms,
            vocabulary: self.vocabulary,
        })
    }

    /// Of a cache for the model.
    pub fn cache(&self, block_tokens: usize, ty: KvType) -> KvShape {
        KvShape {
            layers: self.layers,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            block_tokens,
            ty,
        }
    }
}

/// An extent that can be.
pub(super) fn checked(gguf: &Gguf, key: &str, value: u64) -> Result<usize, GgufError> {
    if value == 0 || value > MAX_EXTENT {
        return Err(gguf.metadata_error(key, format!("is {value}; 1 to {MAX_EXTENT} is possible")));
    }
    Ok(value as usize)
}
