//! How a model knows where its tokens stand: the rotations of its heads, and how far back each layer attends.
use std::num::NonZeroUsize;

use super::Family;
use super::shape::checked;
use crate::load::gguf::{Gguf, GgufError, Value};

/// Rotations and windows of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Positions {
    /// Rotated elements of a head.
    pub rope_dims: usize,
    /// The rotation of layers that attend to all positions, and of all where there is no other.
    pub rope: Rotation,
    /// The rotation of layers with a window, if it is another.
    pub local_rope: Option<Rotation>,
    /// For each layer, how many positions a token attends to; all if there is none.
    pub windows: Vec<Option<NonZeroUsize>>,
    /// Longer contexts cannot be computed: the file has a window and does not say for which layers.
    pub longest: usize,
}

/// What one rotation is made of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rotation {
    /// Base of the frequencies.
    pub base: f32,
    /// Positions are divided by it (linear scaling); 1 for none.
    pub scale: f32,
}

impl Positions {
    /// Reads and checks what a file with so many layers says.
    pub fn read(gguf: &Gguf, family: &Family, layers: usize, head_dim: usize) -> Result<Self, GgufError> {
        let key = |name: &str| format!("{}.{name}", family.name);
        let rope_dims = match gguf.find_u64(&key("rope.dimension_count"))? {
            Some(value) => checked(gguf, &key("rope.dimension_count"), value)?,
            None => head_dim,
        };
        let mut positions = Self {
            rope_dims,
            rope: Rotation {
                base: gguf.find_f32(&key("rope.freq_base"))?.unwrap_or(10_000.0),
                scale: rope_scale(gguf, &key)?,
            },
            local_rope: None,
            windows: vec![None; layers],
            longest: usize::MAX,
        };
        let window = key("attention.sliding_window");
        let Some(value) = gguf.find_u64(&window)?.filter(|&window| window > 0) else {
            return Ok(positions);
        };
        let window = checked(gguf, &window, value)?;
        let Some(is_local) = local_layers(gguf, &key("attention.sliding_window_pattern"), family, layers)? else {
            // Inside the first window, attention with and without it is the same.
            positions.longest = window;
            return Ok(positions);
        };
        for (layer, is_local) in positions.windows.iter_mut().zip(is_local) {
            *layer = NonZeroUsize::new(window).filter(|_| is_local);
        }
        if let Some(base) = family.local_rope_base {
            let base = gguf.find_f32(&key("rope.freq_base_swa"))?.unwrap_or(base);
            positions.local_rope = Some(Rotation { base, scale: 1.0 });
        }
        Ok(positions)
    }

    /// All rotations.
    pub fn ropes(&self) -> impl Iterator<Item = Rotation> {
        [self.rope].into_iter().chain(self.local_rope)
    }

    /// Which of `ropes` a layer has.
    pub fn rope_of(&self, layer: usize) -> usize {
        usize::from(self.local_rope.is_some() && self.windows[layer].is_some())
    }
}

/// Which layers have the window: as the file says, with a flag for each or one number, or as the family does.
fn local_layers(gguf: &Gguf, key: &str, family: &Family, layers: usize) -> Result<Option<Vec<bool>>, GgufError> {
    if let Some(Value::Numbers(numbers)) = gguf.get(key) {
        let flags = numbers.to_i64s().filter(|flags| flags.len() >= layers);
        let problem = || gguf.metadata_error(key, format!("must hold a flag for each of the {layers} layers"));
        let flags = flags.ok_or_else(problem)?.into_iter().take(layers);
        return Ok(Some(flags.map(|flag| flag != 0).collect()));
    }
    let every = match gguf.find_u64(key)? {
        Some(every) => Some(usize::try_from(every).unwrap_or(usize::MAX)),
        None => family.global_every,
    };
    Ok(every.map(|every| {
        (1..=layers)
            .map(|count| every == 0 || !count.is_multiple_of(every))
            .collect()
    }))
}

fn rope_scale(gguf: &Gguf, key: &impl Fn(&str) -> String) -> Result<f32, GgufError> {
    let kind = key("rope.scaling.type");
    let factor = key("rope.scaling.factor");
    let scale = match gguf.find_text(&kind)? {
        Some("none") => None,
        Some("linear") => Some(gguf.f32(&factor)?),
        // A factor without a type is one of linear scaling; 0 stands for none.
        None => gguf.find_f32(&factor)?.filter(|&factor| factor != 0.0),
        Some(other) => {
            let problem = format!("is `{other}`; `linear` and the rope_freqs tensor are supported");
            return Err(gguf.metadata_error(&kind, problem));
        }
    };
    match scale {
        None => Ok(1.0),
        Some(scale) if scale.is_finite() && scale > 0.0 => Ok(scale),
        Some(_) => Err(gguf.metadata_error(&factor, "is not a positive number")),
    }
}
