//! Why a call was refused, and the one place where that becomes a code: for the wire, for HTTP, for goim and golang-im.

use std::time::Duration;

use im_proto::v1::Fault;
use im_wire::code::ErrorCode;
use im_wire::ids::{BadId, RoomId};

use crate::{auth, store};

mod incident;

/// A call that was not carried out.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// Nobody is believed.
    #[error(transparent)]
    Auth(#[from] auth::Error),
    /// The store did not do it.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// A name that cannot be one.
    #[error(transparent)]
    BadId(#[from] BadId),
    /// A field that is missing, of the wrong kind or out of its limits.
    #[error("{field}: {problem}")]
    BadField {
        /// Which.
        field: String,
        /// What is wrong with it and what to write instead.
        problem: String,
    },
    /// Longer than the limit.
    #[error("{field} has {bytes} bytes: {limit} at most")]
    TooLarge {
        /// Which field.
        field: &'static str,
        /// How long it is.
        bytes: usize,
        /// How long it may be.
        limit: usize,
    },
    /// The token does not give this right.
    #[error("{0}")]
    Forbidden(&'static str),
    /// A group is for its members.
    #[error("you are not a member of {0}")]
    NotAMember(RoomId),
    /// Nothing of this id, and no right to open it.
    #[error("no room {0}")]
    NoSuchRoom(RoomId),
    /// What is asked does not fit what is there.
    #[error("{0}")]
    Conflict(String),
    /// More of something than there may be.
    #[error("{what}: {limit} at most")]
    LimitReached {
        /// Of what.
        what: &'static str,
        /// How many there may be.
        limit: usize,
    },
    /// A field that asks for what the token does not give.
    #[error("{field}: {problem}")]
    NotAllowed {
        /// Which.
        field: &'static str,
        /// What would be needed.
        problem: &'static str,
    },
    /// More bytes than the user may say, or than the room may hear.
    #[error("too many bytes {whose}: wait {} ms and retry", .wait.as_millis())]
    TooManyBytes {
        /// Of whom.
        whose: &'static str,
        /// How long the next takes.
        wait: Duration,
    },
    /// More requests under way than one user, or one address, may have.
    #[error("too many requests of yours are under way: wait for their answers and retry")]
    Crowded,
    /// More requests than the user may make.
    #[error("too many requests: wait {} ms and retry", .0.as_millis())]
    RateLimited(Duration),
    /// More requests under way than this process takes.
    #[error("more requests are under way than this process takes: retry soon")]
    Overloaded,
    /// Not answered in time.
    #[error("no answer within {} ms: it may or may not have been done; retry with the same client id", .0.as_millis())]
    Timeout(Duration),
    /// A defect of ours.
    #[error("{0}")]
    Internal(&'static str),
}

/// The result of a call inside logic.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A field at fault.
    pub(crate) fn bad(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::BadField {
            field: field.into(),
            problem: problem.into(),
        }
    }

    /// The code on the wire. The one place where an error becomes a code.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Auth(auth::Error::Expired) => ErrorCode::TokenExpired,
            Self::Auth(auth::Error::NoKeysYet) => ErrorCode::Unavailable,
            Self::Auth(auth::Error::Banned { .. }) => ErrorCode::Banned,
            Self::Auth(_) => ErrorCode::Unauthenticated,
            Self::Store(error) => store_code(error),
            Self::BadId(_) | Self::BadField { .. } => ErrorCode::BadRequest,
            Self::TooLarge { .. } => ErrorCode::TooLarge,
            Self::Forbidden(_) => ErrorCode::Forbidden,
            Self::NotAMember(_) => ErrorCode::NotAMember,
            Self::NoSuchRoom(_) => ErrorCode::NoSuchRoom,
            Self::Conflict(_) => ErrorCode::Conflict,
            Self::LimitReached { .. } => ErrorCode::LimitReached,
            Self::NotAllowed { .. } => ErrorCode::Forbidden,
            Self::RateLimited(_) | Self::TooManyBytes { .. } | Self::Crowded => {
                ErrorCode::RateLimited
            }
            Self::Overloaded | Self::Timeout(_) => ErrorCode::Unavailable,
            Self::Internal(_) => ErrorCode::Internal,
        }
    }

    /// The field at fault; empty where there is none.
    pub fn field(&self) -> &str {
        match self {
            Self::Auth(error) => error.field(),
            Self::BadId(bad) => bad.field,
            Self::BadField { field, .. } => field,
            Self::TooLarge { field, .. } | Self::NotAllowed { field, .. } => field,
            _ => "",
        }
    }

    /// Whether it is our own fault and worth a line in the log.
    pub(crate) fn is_a_defect(&self) -> bool {
        self.code() == ErrorCode::Internal
    }

    /// How long to wait before the same is asked again, where that is known.
    pub(crate) fn wait(&self) -> Option<Duration> {
        match self {
            Self::RateLimited(wait) | Self::TooManyBytes { wait, .. } => Some(*wait),
            Self::Crowded => Some(Duration::from_secs(1)),
            _ => None,
        }
    }

    /// The text for who asked. What a store says of itself (addresses, files, scripts) is for the log, where its line has
    /// the number that is shown.
    pub(crate) fn shown(&self) -> String {
        let (what, details) = match self {
            Self::Store(store::Error::Unavailable(details)) => {
                (incident::What::Unavailable, details)
            }
            Self::Store(store::Error::Full(details)) => (incident::What::Full, details),
            Self::Store(store::Error::Corrupt(details)) => (incident::What::Corrupt, details),
            _ => return self.to_string(),
        };
        format!("{} (log: {})", what.text(), incident::log(what, details))
    }

    /// As it travels to connect.
    pub fn fault(&self) -> Fault {
        let code = self.code();
        Fault {
            code: code.name().to_owned(),
            text: self.shown(),
            retryable: code.retryable(),
            field: self.field().to_owned(),
        }
    }
}

/// What the store's refusals mean to who asked.
fn store_code(error: &store::Error) -> ErrorCode {
    match error {
        store::Error::NoSuchRoom(_) => ErrorCode::NoSuchRoom,
        store::Error::NotAMember { .. } => ErrorCode::NotAMember,
        store::Error::Forbidden { .. } => ErrorCode::Forbidden,
        store::Error::Conflict { .. } => ErrorCode::Conflict,
        store::Error::TooManyMembers { .. } => ErrorCode::LimitReached,
        store::Error::NotReplicated { .. } => ErrorCode::NotReplicated,
        store::Error::Full(_) => ErrorCode::StoreFull,
        store::Error::Unavailable(_) => ErrorCode::Unavailable,
        store::Error::Corrupt(_) => ErrorCode::Internal,
    }
}

/// The HTTP status of a code, in the native API.
pub(crate) fn http_status(code: ErrorCode) -> u16 {
    match code {
        ErrorCode::BadRequest => 400,
        ErrorCode::Unauthenticated | ErrorCode::TokenExpired => 401,
        ErrorCode::Forbidden | ErrorCode::NotAMember | ErrorCode::Banned => 403,
        ErrorCode::NoSuchRoom => 404,
        ErrorCode::Conflict | ErrorCode::WrongState | ErrorCode::LimitReached => 409,
        ErrorCode::TooLarge => 413,
        ErrorCode::RateLimited => 429,
        ErrorCode::Unavailable | ErrorCode::NotReplicated | ErrorCode::StoreFull => 503,
        _ => 500,
    }
}

/// goim's and golang-im's code: (goim: -400 the request's fault, -500 ours; golang-im: -1 always).
pub(crate) fn compat_codes(code: ErrorCode) -> (i32, i32) {
    let goim = if http_status(code) < 500 { -400 } else { -500 };
    (goim, -1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_status_of_its_kind() {
        for code in ErrorCode::ALL {
            let status = http_status(*code);
            let ours = matches!(
                code,
                ErrorCode::Unavailable
                    | ErrorCode::NotReplicated
                    | ErrorCode::StoreFull
                    | ErrorCode::Internal
            );
            assert_eq!(status >= 500, ours, "{code} is {status}");
            assert_eq!(compat_codes(*code), (if ours { -500 } else { -400 }, -1));
        }
    }

    #[test]
    fn a_fault_carries_code_text_and_field() {
        let fault = Error::bad("limit", "must be a number").fault();
        assert_eq!(
            (fault.code.as_str(), fault.field.as_str(), fault.retryable),
            ("bad_request", "limit", false)
        );
        assert_eq!(fault.text, "limit: must be a number");
        let fault = Error::from(store::Error::NotReplicated {
            confirmed: 0,
            wanted: 2,
        })
        .fault();
        assert_eq!(
            (fault.code.as_str(), fault.retryable),
            ("not_replicated", true)
        );
    }

    #[test]
    fn an_expired_token_is_told_apart_from_a_bad_one() {
        assert_eq!(
            Error::from(auth::Error::Expired).code(),
            ErrorCode::TokenExpired
        );
        assert_eq!(
            Error::from(auth::Error::Forged).code(),
            ErrorCode::Unauthenticated
        );
    }
}
