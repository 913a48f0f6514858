//! Reading the fields of a JSON object, each refusal naming the field and the fix.

use serde_json::{Map, Value};

use super::{Body, Error, Position};
use crate::code::ErrorCode;
use crate::ids::{BadId, Epoch, RoomId, Seq};

/// A request that cannot be understood, and can be answered.
pub(crate) fn bad(field: &str, text: String) -> Error {
    Error {
        code: ErrorCode::BadRequest,
        text,
        retryable: false,
        field: Some(field.to_owned()),
    }
}

impl From<BadId> for Error {
    fn from(bad_id: BadId) -> Self {
        bad(bad_id.field, bad_id.to_string())
    }
}

/// One object's fields.
pub(crate) struct Fields<'a>(pub(crate) &'a Map<String, Value>);

impl<'a> Fields<'a> {
    fn read<T>(
        &self,
        name: &str,
        wanted: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => read(value)
                .map(Some)
                .ok_or_else(|| bad(name, format!("{name} must be {wanted}"))),
        }
    }

    pub(crate) fn text(&self, name: &str) -> Result<Option<String>, Error> {
        self.read(name, "a string", |value| value.as_str().map(str::to_owned))
    }

    pub(crate) fn needed_text(&self, name: &str) -> Result<String, Error> {
        self.text(name)?.ok_or_else(|| missing(name, "a string"))
    }

    pub(crate) fn number(&self, name: &str) -> Result<Option<u64>, Error> {
        self.read(name, "a whole number from 0", Value::as_u64)
    }

    pub(crate) fn needed_number(&self, name: &str) -> Result<u64, Error> {
        self.number(name)?
            .ok_or_else(|| missing(name, "a whole number from 0"))
    }

    pub(crate) fn small(&self, name: &str) -> Result<Option<u32>, Error> {
        self.read(name, "a whole number from 0 to 4294967295", |value| {
            value.as_u64()?.try_into().ok()
        })
    }

    pub(crate) fn integer(&self, name: &str) -> Result<Option<i32>, Error> {
        self.read(name, "a whole number of 32 bits", |value| {
            value.as_i64()?.try_into().ok()
        })
    }

    pub(crate) fn flag(&self, name: &str) -> Result<bool, Error> {
        Ok(self
            .read(name, "true or false", Value::as_bool)?
            .unwrap_or(false))
    }

    pub(crate) fn list(&self, name: &str) -> Result<&'a [Value], Error> {
        Ok(self
            .read(name, "a list", |value| value.as_array().map(Vec::as_slice))?
            .unwrap_or(&[]))
    }

    pub(crate) fn object(&self, name: &str) -> Result<Option<Fields<'a>>, Error> {
        self.read(name, "an object", |value| value.as_object().map(Fields))
    }

    pub(crate) fn objects(&self, name: &str) -> Result<Vec<Fields<'a>>, Error> {
        let objects = self
            .list(name)?
            .iter()
            .map(|value| value.as_object().map(Fields));
        objects
            .collect::<Option<_>>()
            .ok_or_else(|| bad(name, format!("{name} must be a list of objects")))
    }

    pub(crate) fn texts(&self, name: &str) -> Result<Vec<String>, Error> {
        let texts = self
            .list(name)?
            .iter()
            .map(|value| value.as_str().map(str::to_owned));
        texts
            .collect::<Option<_>>()
            .ok_or_else(|| bad(name, format!("{name} must be a list of strings")))
    }

    pub(crate) fn room(&self) -> Result<RoomId, Error> {
        Ok(RoomId::new(self.needed_text("room")?)?)
    }

    pub(crate) fn body(&self) -> Result<Body, Error> {
        if let Some(text) = self.text("body_base64")? {
            let decoded = Body::from_base64(&text);
            return decoded.map_err(|error| {
                bad(
                    "body_base64",
                    format!("body_base64 must be base64: {error}"),
                )
            });
        }
        let body = self
            .0
            .get("body")
            .ok_or_else(|| missing("body", "a string or another JSON value"))?;
        Ok(Body::from_json(body))
    }

    /// A list of positions: objects, or plain room ids, which mean "from now on".
    pub(crate) fn positions(&self, name: &str) -> Result<Vec<Position>, Error> {
        let position = |value: &'a Value| match value {
            Value::String(room) => Ok(Position {
                room: RoomId::new(room)?,
                epoch: 0,
                seq: None,
            }),
            Value::Object(fields) => {
                let fields = Fields(fields);
                let (epoch, seq): (Option<Epoch>, Option<Seq>) =
                    (fields.number("epoch")?, fields.number("seq")?);
                Ok(Position {
                    room: fields.room()?,
                    epoch: epoch.unwrap_or(0),
                    seq,
                })
            }
            _ => Err(bad(
                name,
                format!("{name} must be a list of room ids or of {{\"room\", \"epoch\", \"seq\"}}"),
            )),
        };
        self.list(name)?.iter().map(position).collect()
    }
}

pub(crate) fn missing(name: &str, wanted: &str) -> Error {
    bad(name, format!("{name} is missing: give {wanted}"))
}
