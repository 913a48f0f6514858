//! A message's bytes and how JSON shows them: text as a string, JSON as the value it is, anything else as base64.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Serialize;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::Error as _;
use serde_json::Value;
use serde_json::value::RawValue;

use super::Body;

/// How deep arrays and objects of a JSON body may lie in each other. Parsers with serde_json's limit read 127 levels; what
/// is around a body in frames and lists takes some of them.
pub const MAX_DEPTH: usize = 100;

/// Whether these bytes are JSON that every reader can be given: one value whose numbers are finite as 64-bit floats, whose
/// strings hold no half of a surrogate pair, and that is no deeper than [`MAX_DEPTH`].
pub fn is_sound_json(bytes: &[u8]) -> bool {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    Strict(MAX_DEPTH).deserialize(&mut json).is_ok() && json.end().is_ok()
}

/// Reads a value with so many levels left, and keeps nothing of it.
#[derive(Clone, Copy)]
struct Strict(usize);

impl Strict {
    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        self.0
            .checked_sub(1)
            .map(Self)
            .ok_or_else(|| E::custom("too deep"))
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let inner = self.deeper()?;
        while list.next_element_seed(inner)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<(), A::Error> {
        let inner = self.deeper()?;
        while object.next_entry_seed(inner, inner)?.is_some() {}
        Ok(())
    }
}

impl Body {
    /// The bytes, whatever they are.
    pub fn bytes(&self) -> &Bytes {
        let (Self::Text(bytes) | Self::Json(bytes) | Self::Binary(bytes)) = self;
        bytes
    }

    /// The body that a JSON value stands for: a string is text, any other value is itself.
    pub fn from_json(value: &Value) -> Self {
        match value {
            Value::String(text) => Self::Text(Bytes::copy_from_slice(text.as_bytes())),
            other => Self::Json(Bytes::from(other.to_string())),
        }
    }

    /// The body that standard base64 stands for.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn from_base64(text: &str) -> Result<Self, base64::DecodeError> {
        STANDARD
            .decode(text)
            .map(|bytes| Self::Binary(bytes.into()))
    }

    /// Bytes with the encoding that their sender named. What is not what it claims to be is binary; so is JSON that not
    /// every reader could read, see [`is_sound_json`].
    pub fn checked(self) -> Self {
        match self {
            Self::Text(bytes) if std::str::from_utf8(&bytes).is_err() => Self::Binary(bytes),
            Self::Json(bytes) if !is_sound_json(&bytes) => Self::Binary(bytes),
            sound => sound,
        }
    }
}

/// The two JSON fields of which a message has one.
#[derive(Debug, Serialize)]
pub struct BodyFields<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<Shown<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
}

#[derive(Debug)]
enum Shown<'a> {
    Text(&'a str),
    Json(&'a RawValue),
}

impl Serialize for Shown<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => serializer.serialize_str(text),
            Self::Json(raw) => raw.serialize(serializer).map_err(S::Error::custom),
        }
    }
}

impl<'a> From<&'a Body> for BodyFields<'a> {
    fn from(body: &'a Body) -> Self {
        let shown = match body {
            Body::Text(bytes) => std::str::from_utf8(bytes).ok().map(Shown::Text),
            // A log may hold what was taken before the rule was as strict as now: it is shown as the bytes that it is.
            Body::Json(bytes) if is_sound_json(bytes) => {
                serde_json::from_slice(bytes).ok().map(Shown::Json)
            }
            Body::Json(_) => None,
            Body::Binary(_) => None,
        };
        let body_base64 = shown.is_none().then(|| STANDARD.encode(body.bytes()));
        Self {
            body: shown,
            body_base64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_what_strict_readers_read() {
        let nested = |levels: usize| [vec![b'['; levels], vec![b']'; levels]].concat();
        let objects = |levels: usize| {
            format!("{}1{}", r#"{"a":"#.repeat(levels), "}".repeat(levels)).into_bytes()
        };
        let sound: [&[u8]; 9] = [
            b"null",
            b" [1, -2.5e3, true] ",
            b"\"\\ud83d\\ude00\"",
            b"1e308",
            b"{}",
            b"{\"a\":{\"b\":[]}}",
            b"18446744073709551615",
            &nested(MAX_DEPTH),
            &objects(MAX_DEPTH),
        ];
        for bytes in sound {
            assert!(is_sound_json(bytes), "{}", String::from_utf8_lossy(bytes));
            assert!(serde_json::from_slice::<Value>(bytes).is_ok());
        }
        let unsound: [&[u8]; 15] = [
            b"",
            b"nul",
            b"1 2",
            b"[1,]",
            b"1e999",
            b"-1e999",
            b"[[1e400]]",
            b"\"\\ud800\"",
            b"\"\\udc00x\"",
            b"{\"\\ud800\":1}",
            b"\"\xff\"",
            b"NaN",
            b"\"\n\"",
            &nested(MAX_DEPTH + 1),
            &objects(MAX_DEPTH + 1),
        ];
        for bytes in unsound {
            assert!(!is_sound_json(bytes), "{}", String::from_utf8_lossy(bytes));
        }
        assert!(
            !is_sound_json(&[b'['; 1 << 20]),
            "and its depth costs no stack"
        );
    }

    #[test]
    fn what_a_log_holds_of_old_is_shown_as_bytes() {
        for old in ["1e999", "\"\\ud800\""] {
            let body = Body::Json(Bytes::from(old));
            let shown = serde_json::to_value(BodyFields::from(&body)).unwrap();
            assert_eq!(
                shown,
                serde_json::json!({"body_base64": STANDARD.encode(old)})
            );
        }
    }
}
