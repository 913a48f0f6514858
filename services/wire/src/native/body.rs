//! A message's bytes and how JSON shows them: text as a string, JSON as the value it is, anything else as base64.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Serialize;
use serde::ser::Error as _;
use serde_json::Value;
use serde_json::value::RawValue;

use super::Body;

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
        STANDARD.decode(text).map(|bytes| Self::Binary(bytes.into()))
    }

    /// Bytes with the encoding that their sender named. What is not what it claims to be is binary.
    pub fn checked(self) -> Self {
        match self {
            Self::Text(bytes) if std::str::from_utf8(&bytes).is_err() => Self::Binary(bytes),
            Self::Json(bytes) if serde_json::from_slice::<&RawValue>(&bytes).is_err() => Self::Binary(bytes),
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
            Body::Json(bytes) => serde_json::from_slice(bytes).ok().map(Shown::Json),
            Body::Binary(_) => None,
        };
        let body_base64 = shown.is_none().then(|| STANDARD.encode(body.bytes()));
        Self { body: shown, body_base64 }
    }
}
