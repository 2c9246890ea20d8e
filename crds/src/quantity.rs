//! Kubernetes quantities as the spec carries them: `4`, `"500m"`, `"16Gi"`, `"1e3"`.
//!
//! `Amount` keeps the text as written (the operator passes it on); the number is read on demand and
//! every step of the arithmetic is checked.
use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};

/// The pattern that the API server checks; the one that Kubernetes' own generators emit.
const PATTERN: &str = r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$";

/// A quantity that may have been written as a bare integer, which a custom resource keeps as one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Amount(pub String);

impl Amount {
    /// The value in thousandths: cores to millicores, bytes to a thousandth of a byte.
    ///
    /// # Errors
    /// A sentence about the text, when it is no quantity or does not fit 128 bits.
    pub fn milli(&self) -> Result<i128, String> {
        milli(&self.0)
    }

    /// The value rounded up to whole units, at least zero.
    ///
    /// # Errors
    /// As `milli`.
    pub fn units(&self) -> Result<u128, String> {
        let milli = self.milli()?;
        Ok(u128::try_from(milli).unwrap_or(0).div_ceil(1000))
    }

    /// The same text as the type that Kubernetes' own objects use.
    pub fn to_quantity(&self) -> Quantity {
        Quantity(self.0.clone())
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Integer(i64),
            Text(String),
        }
        Ok(match Written::deserialize(deserializer)? {
            Written::Integer(number) => Self(number.to_string()),
            Written::Text(text) => Self(text),
        })
    }
}

impl JsonSchema for Amount {
    fn schema_name() -> Cow<'static, str> {
        "Amount".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "x-kubernetes-int-or-string": true,
            "pattern": PATTERN,
            "maxLength": 32,
        })
    }
}

/// A quantity in thousandths of its unit, rounded towards zero below that.
///
/// # Errors
/// A sentence about the text, when it is no quantity or does not fit 128 bits.
pub fn milli(text: &str) -> Result<i128, String> {
    let refuse = || format!("`{text}` is not a quantity such as 4, 500m or 16Gi");
    let number_end = text
        .find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-')))
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(number_end);
    let (factor, divisor) = scale(suffix).ok_or_else(refuse)?;

    let (negative, digits) = match number.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, number.strip_prefix('+').unwrap_or(number)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    // 18 digits either side keep every product below within 128 bits.
    if whole.len() + fraction.len() == 0 || whole.len() > 18 || fraction.len() > 18 {
        return Err(refuse());
    }
    if !all_digits(whole) || !all_digits(fraction) {
        return Err(refuse());
    }
    let mantissa: i128 = format!("{whole}{fraction}").parse().map_err(|_| refuse())?;
    let fraction_scale = u32::try_from(fraction.len()).ok().and_then(|n| 10_i128.checked_pow(n));
    let value = mantissa
        .checked_mul(factor)
        .and_then(|v| v.checked_mul(1000))
        .zip(fraction_scale)
        .and_then(|(v, scale)| v.checked_div(scale.checked_mul(divisor)?))
        .ok_or_else(refuse)?;
    Ok(if negative { -value } else { value })
}

/// What a suffix multiplies and divides by.
fn scale(suffix: &str) -> Option<(i128, i128)> {
    Some(match suffix {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1_000),
        "k" => (1_000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        exponent => {
            let digits = exponent.strip_prefix(['e', 'E'])?;
            let power: i32 = digits.parse().ok()?;
            let ten = 10_i128.checked_pow(power.unsigned_abs().min(18))?;
            match power {
                0..=18 => (ten, 1),
                -18..0 => (1, ten),
                _ => return None,
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_in_every_notation() {
        for (text, milli_units) in [
            ("4", 4_000),
            ("500m", 500),
            ("1.5", 1_500),
            (".5", 500),
            ("2e3", 2_000_000),
            ("1E-3", 1),
            ("1Ki", 1_024_000),
            ("16Gi", 16 * 1024_i128.pow(3) * 1000),
            ("-1", -1_000),
            ("1500u", 1),
            ("8Ei", 8 * 1024_i128.pow(6) * 1000),
        ] {
            assert_eq!(milli(text), Ok(milli_units), "{text}");
        }
    }

    #[test]
    fn texts_that_are_no_quantity_are_refused_by_name() {
        for text in [
            "",
            "Gi",
            "1 Gi",
            "1GiB",
            "1.2.3",
            "1-2",
            "e3",
            "1e99",
            "9999999999999999999",
            "٣",
        ] {
            let message = milli(text).expect_err(text);
            assert!(message.contains(text), "{message}");
        }
    }

    #[test]
    fn a_bare_integer_is_an_amount_too() {
        let amount: Amount = serde_json::from_str("4").expect("integer");
        assert_eq!(amount, Amount("4".into()));
        assert_eq!(amount.units(), Ok(4));
        assert_eq!(Amount("4500m".into()).units(), Ok(5));
    }
}
