//! What becomes of the characters of a text before it is cut into words.
use serde::Deserialize;
use unicode_normalization::UnicodeNormalization;
use unicode_properties::{GeneralCategory, GeneralCategoryGroup, UnicodeGeneralCategory};

/// As the file says them.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct Rules {
    clean_text: bool,
    handle_chinese_chars: bool,
    strip_accents: Option<bool>,
    lowercase: bool,
}

impl Rules {
    /// Cleans, sets Chinese characters apart, removes accents, lowers the case: in this order.
    pub(super) fn apply(self, text: &str) -> String {
        let kept = text.chars().filter(|&char| !self.clean_text || !is_removed(char));
        let mut out = String::with_capacity(text.len());
        let spaced = kept.flat_map(|char| {
            let space = (self.handle_chinese_chars && is_chinese(char)).then_some(' ');
            space.into_iter().chain([char]).chain(space)
        });
        let mut push = |char: char| {
            if self.lowercase {
                out.extend(char.to_lowercase());
            } else {
                out.push(char);
            }
        };
        if self.strip_accents.unwrap_or(self.lowercase) {
            let is_accent = |char: &char| char.general_category() == GeneralCategory::NonspacingMark;
            spaced.nfd().filter(|char| !is_accent(char)).for_each(&mut push);
        } else {
            spaced.for_each(&mut push);
        }
        out
    }
}

/// Whether cleaning drops it.
fn is_removed(char: char) -> bool {
    let is_space = matches!(char, '\t' | '\n' | '\r');
    let is_other = matches!(
        char.general_category(),
        GeneralCategory::Control | GeneralCategory::Format | GeneralCategory::PrivateUse
    );
    char == '\u{fffd}' || is_other && !is_space
}

/// Whether it is a word by itself.
pub(super) fn is_punctuation(char: char) -> bool {
    char.is_ascii_punctuation() || char.general_category_group() == GeneralCategoryGroup::Punctuation
}

/// The blocks of CJK ideographs.
fn is_chinese(char: char) -> bool {
    matches!(u32::from(char),
        0x4e00..=0x9fff | 0x3400..=0x4dbf | 0x2_0000..=0x2_a6df | 0x2_a700..=0x2_b73f | 0x2_b740..=0x2_b81f
        | 0x2_b920..=0x2_ceaf | 0xf900..=0xfaff | 0x2_f800..=0x2_fa1f)
}
