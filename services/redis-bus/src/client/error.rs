//! What became of a call that redis did not do: what matters is whether it may have happened.

use redis::{RedisError, ServerError, Value};

use crate::metrics;

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is no connection to the master: it was not sent.
    #[error("no connection to redis: {0}")]
    Down(String),
    /// It was sent and no answer came: it may or may not have happened.
    #[error("redis did not answer: {0}")]
    Lost(String),
    /// The server is not the one to ask (any more, or not yet): it did not happen.
    #[error("redis is changing over: {0}")]
    Elsewhere(String),
    /// The server takes no writes: memory, disk or too few replicas. It did not happen.
    #[error("redis takes no writes: {0}")]
    Refused(String),
    /// The script is not known to the server: it did not happen. Does not leave this crate.
    #[error("redis does not know the script")]
    NoScript,
    /// Ask this other server once: it did not happen here. Does not leave this crate.
    #[error("redis sends elsewhere: {0}")]
    Ask(String),
    /// The slot is on its way to another master, and what is asked for is partly here and partly there: it did not happen.
    /// Does not leave this crate.
    #[error("redis moves the slot: {0}")]
    Moving(String),
    /// Anything else that the server said.
    #[error("redis refuses: {0}")]
    Failed(String),
}

impl Error {
    /// What a failed exchange with a connection means.
    pub(crate) fn of_connection(error: &RedisError) -> Self {
        match error.code() {
            Some(code) => Self::of_code(code, error.detail().unwrap_or_default()),
            None => Self::Lost(error.to_string()),
        }
    }

    /// What the server's error means.
    pub fn of_server(error: &ServerError) -> Self {
        Self::of_code(error.code(), error.details().unwrap_or_default())
    }

    fn of_code(code: &str, details: &str) -> Self {
        let text = format!("{code} {details}");
        match code {
            // What a command inside a script met comes with a general code in front of its own.
            "ERR" if begins_with_code(details) => {
                let (code, details) = details.split_once(' ').unwrap_or((details, ""));
                Self::of_code(code, details)
            }
            "NOSCRIPT" => Self::NoScript,
            "ASK" => Self::Ask(
                details
                    .split_ascii_whitespace()
                    .nth(1)
                    .unwrap_or_default()
                    .to_owned(),
            ),
            "TRYAGAIN" => Self::Moving(text),
            "MOVED" | "CLUSTERDOWN" | "READONLY" | "LOADING" | "MASTERDOWN" | "BUSY" => {
                Self::Elsewhere(text)
            }
            // A script met a key of a slot that is being moved away.
            _ if details.contains("access a non local key") => Self::Moving(text),
            "OOM" | "MISCONF" | "NOREPLICAS" => Self::Refused(text),
            "UNBLOCKED" => Self::Lost(text),
            _ => Self::Failed(text),
        }
    }

    /// Whether it certainly did not happen, and may on another try soon.
    pub(crate) fn is_safe_to_repeat(&self) -> bool {
        matches!(
            self,
            Self::Down(_) | Self::Elsewhere(_) | Self::NoScript | Self::Ask(_) | Self::Moving(_)
        )
    }

    /// Whether the connections to the master should be looked at.
    pub(crate) fn is_suspicious(&self) -> bool {
        matches!(self, Self::Lost(_) | Self::Elsewhere(_) | Self::Moving(_))
    }

    /// Counts it by kind.
    pub(crate) fn counted(self) -> Self {
        let kind = match self {
            Self::Down(_) => "down",
            Self::Lost(_) => "lost",
            Self::Elsewhere(_) => "elsewhere",
            Self::Refused(_) => "refused",
            Self::NoScript => "no_script",
            Self::Ask(_) => "ask",
            Self::Moving(_) => "moving",
            Self::Failed(_) => "failed",
        };
        metrics::ERRORS.with_label_values(&[kind]).inc();
        self
    }
}

fn begins_with_code(details: &str) -> bool {
    let first = details.split(' ').next().unwrap_or_default();
    first.len() > 2 && first != "ERR" && first.bytes().all(|byte| byte.is_ascii_uppercase())
}

/// Takes a server's error out of a reply.
pub(crate) fn checked(value: Value) -> Result<Value, Error> {
    match value {
        Value::ServerError(error) => Err(Error::of_server(&error)),
        value => Ok(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_tell_what_became_of_a_call() {
        assert!(matches!(
            Error::of_code("READONLY", "x"),
            Error::Elsewhere(_)
        ));
        assert!(matches!(Error::of_code("OOM", "x"), Error::Refused(_)));
        assert!(matches!(
            Error::of_code("NOREPLICAS", "x"),
            Error::Refused(_)
        ));
        assert!(matches!(Error::of_code("WRONGTYPE", "x"), Error::Failed(_)));
        assert!(matches!(
            Error::of_code("ERR", "OOM command not allowed"),
            Error::Refused(_)
        ));
        assert!(matches!(Error::of_code("ERR", "ERR ERR"), Error::Failed(_)));
        assert_eq!(
            Error::of_code("ASK", "7 10.0.0.1:7000"),
            Error::Ask("10.0.0.1:7000".into())
        );
        let moving = "Script attempted to access a non local key in a cluster node";
        assert!(matches!(Error::of_code("ERR", moving), Error::Moving(_)));
        assert!(matches!(
            Error::of_code("TRYAGAIN", "Multiple keys request"),
            Error::Moving(_)
        ));
    }
}
