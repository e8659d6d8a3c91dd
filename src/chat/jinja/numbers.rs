//! Numbers as Python has them: floats that are written with an exponent, and the filters `int`,
//! `float` and `round`.

use std::fmt::{self, Formatter};
use std::sync::Arc;

use minijinja::value::{Kwargs, Object, ObjectRepr, ValueKind};
use minijinja::{Error, ErrorKind, Value};

/// A float of the conversation or its variables that Python writes with an exponent. The engine
/// writes a number where it stands alone, in lists and beside text, each in its own way, and
/// an object as it says itself.
#[derive(Debug)]
pub(super) struct Exponent {
    pub(super) number: f64,
    text: String,
}

impl Exponent {
    /// The value of a float.
    pub(super) fn or_float(number: f64) -> Value {
        match exponent(number) {
            Some(text) => Value::from_object(Self { number, text }),
            None => Value::from(number),
        }
    }

    /// The float that a value is.
    pub(super) fn number(value: &Value) -> Option<f64> {
        value.downcast_object_ref::<Self>().map(|float| float.number)
    }
}

impl Object for Exponent {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn render(self: &Arc<Self>, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What Python writes of a float that has an exponent there: `1e-05`, where others write `1e-5`
/// or `0.00001`. Nothing of others.
pub(super) fn exponent(number: f64) -> Option<String> {
    let text = format!("{number:?}");
    let (digits, exponent) = text.split_once('e')?;
    let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |exponent| ('-', exponent));
    Some(format!("{digits}e{sign}{exponent:0>2}"))
}

/// A number, or the number that a text says.
fn number(value: &Value) -> Option<f64> {
    let of_text = |text: &str| {
        let text = text.trim();
        let is_number = text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.'));
        text.parse().ok().filter(|_| is_number)
    };
    match value.as_str() {
        Some(text) => of_text(text),
        None if value.kind() == ValueKind::Bool => Some(f64::from(u8::from(value.is_true()))),
        None => Exponent::number(value).or_else(|| f64::try_from(value.clone()).ok()),
    }
}

/// Jinja's filter `int`, which gives the default for what is no number.
#[allow(clippy::needless_pass_by_value, reason = "minijinja gives a filter its arguments so")]
pub(super) fn int(
    value: &Value,
    default: Option<Value>,
    base: Option<u32>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
    let default = default.or(kwargs.get("default")?).unwrap_or(Value::from(0));
    let base = base.or(kwargs.get("base")?).filter(|base| (2..=36).contains(base)).unwrap_or(10);
    kwargs.assert_all_used()?;
    if value.is_integer() {
        return Ok(value.clone());
    }
    let text = value.as_str().map(|text| text.trim().to_ascii_lowercase());
    let digits = text.as_deref().map(|text| match base {
        2 => text.replacen("0b", "", 1),
        8 => text.replacen("0o", "", 1),
        16 => text.replacen("0x", "", 1),
        _ => text.to_owned(),
    });
    if let Some(number) = digits.and_then(|digits| i128::from_str_radix(&digits, base).ok()) {
        return Ok(Value::from(number));
    }
    let found = number(value).filter(|found| found.abs() < 1e38);
    Ok(found.map_or(default, |found| Value::from(found as i128)))
}

/// Jinja's filter `float`.
pub(super) fn to_float(value: &Value, default: Option<Value>) -> Value {
    match number(value) {
        Some(number) => Exponent::or_float(number),
        None => default.unwrap_or(Value::from(0.0)),
    }
}

/// Jinja's filter `round`: to even where both are as near, and downwards or upwards a float.
#[allow(clippy::needless_pass_by_value, reason = "minijinja gives a filter its arguments so")]
pub(super) fn round(
    value: &Value,
    precision: Option<i32>,
    method: Option<&str>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
    let precision = precision.or(kwargs.get("precision")?).unwrap_or(0);
    let method = method.or(kwargs.get("method")?).unwrap_or("common");
    let invalid = |reason| Err(Error::new(ErrorKind::InvalidOperation, reason));
    let Some(number) = number(value).filter(|_| value.as_str().is_none()) else {
        return invalid("round: no number");
    };
    let scale = 10_f64.powi(precision);
    kwargs.assert_all_used()?;
    Ok(match method {
        "common" if value.is_integer() && precision >= 0 => value.clone(),
        "common" if value.kind() == ValueKind::Bool => Value::from(i64::from(value.is_true())),
        "common" if (0..=99).contains(&precision) => {
            let text = format!("{number:.*}", precision as usize);
            Exponent::or_float(text.parse().unwrap_or(number))
        }
        "floor" => Exponent::or_float((number * scale).floor() / scale),
        "ceil" => Exponent::or_float((number * scale).ceil() / scale),
        "common" => return invalid("round: a precision is 0 to 99"),
        _ => return invalid("round: a method is common, ceil or floor"),
    })
}

/// A number that is no integer.
pub(super) fn float(value: &Value) -> Option<f64> {
    let is_float = value.kind() == ValueKind::Number && !value.is_integer();
    Exponent::number(value).or_else(|| f64::try_from(value.clone()).ok().filter(|_| is_float))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_pythons() {
        // Of Python's repr.
        for (number, expected) in [
            (1e-5, "1e-05"),
            (-2.5e-7, "-2.5e-07"),
            (1e20, "1e+20"),
            (1.5e300, "1.5e+300"),
            (1e16, "1e+16"),
            (9e15, "9000000000000000.0"),
            (0.0001, "0.0001"),
            (0.5, "0.5"),
        ] {
            let value = Exponent::or_float(number);
            assert_eq!(value.to_string(), expected);
            assert_eq!(Value::from(vec![value]).to_string(), format!("[{expected}]"));
        }
    }
}
