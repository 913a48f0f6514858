//! What went wrong, as people and scripts see it: a sentence, a hint, and an exit code.

use std::io::Write;
use std::process::ExitCode;

use im_client::{BuildError, End, Error, ErrorCode, RequestError, SendError};

/// The exit codes, as `imctl --help` and docs/imctl.md show them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Something else.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// Nobody answers.
    Unreachable = 3,
    /// The server said no.
    Refused = 4,
    /// The message may be stored or not.
    Unknown = 5,
}

/// Why a program ends without having done what was asked.
#[derive(Debug)]
pub struct Failure {
    /// The code to end with.
    pub exit: Exit,
    /// What went wrong, in a sentence.
    pub text: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Failure {
    /// Without a hint.
    pub fn new(exit: Exit, text: impl Into<String>) -> Self {
        Self {
            exit,
            text: text.into(),
            hint: None,
        }
    }

    /// The command line is wrong.
    pub fn usage(text: impl Into<String>) -> Self {
        Self::new(Exit::Usage, text)
    }

    /// With what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The server said no.
    pub fn refused(error: &Error) -> Self {
        let failure = Self::new(
            Exit::Refused,
            format!("the server says {}: {}", error.code, error.text),
        );
        match advice(error.code) {
            Some(advice) => failure.hint(advice),
            None => failure,
        }
    }

    /// Tells it on standard error, as a sentence and a hint or as one JSON object; the code to end with.
    pub fn report(&self, program: &str, json: bool) -> ExitCode {
        let exit = self.exit as u8;
        let text = if json {
            let error = serde_json::json!({"text": self.text, "hint": self.hint, "exit": exit});
            serde_json::json!({ "error": error }).to_string()
        } else {
            let hint = self
                .hint
                .as_ref()
                .map(|hint| format!("\nhint: {hint}"))
                .unwrap_or_default();
            format!("{program}: {}{hint}", self.text)
        };
        // Where standard error is closed there is nobody to tell.
        let _ = writeln!(std::io::stderr(), "{text}");
        ExitCode::from(exit)
    }
}

fn advice(code: ErrorCode) -> Option<&'static str> {
    Some(match code {
        ErrorCode::Unauthenticated => {
            "the token must be signed with the server's secret or key: see `imctl token --help`"
        }
        ErrorCode::TokenExpired => {
            "make a new one with `imctl token`, or give --secret-file and --user"
        }
        ErrorCode::Forbidden => {
            "this needs somebody else's token, or one with more rights: see --admin and --rooms of `imctl token`"
        }
        ErrorCode::NoSuchRoom => {
            "create the room first, or get a token whose --rooms pattern covers it"
        }
        ErrorCode::Banned => {
            "an administrator has banned you, your device or your address: `imctl bans` lists whom"
        }
        ErrorCode::NotAMember => "ask a member to add you",
        ErrorCode::RateLimited | ErrorCode::Unavailable | ErrorCode::NotReplicated => {
            "try again in a moment"
        }
        _ => return None,
    })
}

impl From<BuildError> for Failure {
    fn from(error: BuildError) -> Self {
        Self::usage(error.to_string())
    }
}

impl From<End> for Failure {
    fn from(end: End) -> Self {
        match end {
            End::Refused(error) => Self::refused(&error),
            other => Self::new(Exit::Refused, other.to_string()),
        }
    }
}

impl From<SendError> for Failure {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Refused(error) => Self::refused(&error),
            SendError::Unknown { .. } => Self::new(Exit::Unknown, error.to_string())
                .hint("send again with the same --client-id: it is stored once"),
            SendError::NotStored { last: Some(error) } => Self::refused(&error),
            other => Self::new(Exit::Unreachable, other.to_string()),
        }
    }
}

impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Refused(error) => Self::refused(&error),
            RequestError::Unexpected => Self::new(Exit::Failed, error.to_string()),
            other => Self::new(Exit::Unreachable, other.to_string()),
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(Exit::Failed, error.to_string())
    }
}
