//! Takes redis' replies apart. What is not understood is [`Error::Corrupt`]: something else writes under the same prefix.

use im_redis_bus::Error as BusError;
use redis::{FromRedisValue, Value};

use crate::store::{Error, Result};

/// What a failed call means to the store's callers.
pub(super) fn error(error: BusError) -> Error {
    match error {
        BusError::Refused(_) => Error::Full(error.to_string()),
        BusError::Failed(ref text) if text.starts_with("WRONGTYPE") || text.starts_with("ERR") => {
            Error::Corrupt(error.to_string())
        }
        _ => Error::Unavailable(error.to_string()),
    }
}

/// The reply, or what its failure means.
pub(super) fn value(outcome: std::result::Result<Value, BusError>) -> Result<Value> {
    outcome.map_err(error)
}

/// The reply as some type.
pub(super) fn parsed<T: FromRedisValue>(value: Value) -> Result<T> {
    redis::from_redis_value(value).map_err(|error| Error::Corrupt(error.to_string()))
}

/// The reply of a call as some type.
pub(super) fn read<T: FromRedisValue>(outcome: std::result::Result<Value, BusError>) -> Result<T> {
    parsed(value(outcome)?)
}

/// Elements of a reply, one after the other.
pub(super) struct Fields(std::vec::IntoIter<Value>);

impl Fields {
    /// Of an array.
    pub(super) fn of(value: Value) -> Result<Self> {
        match value {
            Value::Array(values) => Ok(Self(values.into_iter())),
            Value::ServerError(failed) => Err(error(BusError::of_server(&failed))),
            other => Err(Error::Corrupt(format!(
                "an array is expected where redis says {other:?}"
            ))),
        }
    }

    /// The next element.
    pub(super) fn value(&mut self) -> Result<Value> {
        self.0
            .next()
            .ok_or_else(|| Error::Corrupt("a reply of redis ends too early".to_owned()))
    }

    /// The next element as some type.
    pub(super) fn take<T: FromRedisValue>(&mut self) -> Result<T> {
        parsed(self.value()?)
    }

    /// Whether nothing is left.
    pub(super) fn is_empty(&self) -> bool {
        self.0.as_slice().is_empty()
    }
}
