//! Standard output: lines for people or one JSON object per line. A reader that has gone away ends the program quietly.

use std::io::{self, Write};

use serde::Serialize;

use crate::failure::Failure;

/// Standard output.
pub struct Output {
    out: Box<dyn Write + Send>,
}

impl Output {
    /// This process's.
    pub fn stdout() -> Self {
        Self {
            out: Box::new(io::stdout()),
        }
    }

    /// One line.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn line(&mut self, line: &str) -> Result<(), Failure> {
        match writeln!(self.out, "{line}").and_then(|()| self.out.flush()) {
            // `imctl tail | head`: whoever read has enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
            written => Ok(written?),
        }
    }

    /// One JSON object in one line.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        let line = serde_json::to_string(value).map_err(io::Error::from)?;
        self.line(&line)
    }
}
