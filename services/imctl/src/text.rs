//! Messages and times as text for people.

use im_cli::failure::Failure;
use im_cli::output::Output;
use im_client::{Body, Message};
use im_wire::native::json::MessageJson;
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// Prints a message: one line, or one JSON object.
pub(crate) fn print(message: &Message, json: bool, output: &mut Output) -> Result<(), Failure> {
    if json {
        output.json(&MessageJson::from(message))
    } else {
        output.line(&message_line(message))
    }
}

/// `2026-11-23 14:03:09 #7 ann: hello`.
fn message_line(message: &Message) -> String {
    let time = local_time(message.time_ms, "%Y-%m-%d %H:%M:%S");
    let from = if message.from.is_empty() {
        "server"
    } else {
        &message.from
    };
    let kind = if message.kind == "text" {
        String::new()
    } else {
        format!(" [{}]", printable(&message.kind))
    };
    format!(
        "{time} {} #{} {}{kind}: {}",
        message.room,
        message.seq,
        printable(from),
        body_text(&message.body)
    )
}

/// A time in unix milliseconds, as the clock on the wall shows it.
pub(crate) fn local_time(unix_ms: u64, format: &str) -> String {
    let timestamp = i64::try_from(unix_ms)
        .ok()
        .and_then(|ms| Timestamp::from_millisecond(ms).ok())
        .unwrap_or_default();
    timestamp
        .to_zoned(TimeZone::system())
        .strftime(format)
        .to_string()
}

/// What a body says, fit for a terminal.
pub(crate) fn body_text(body: &Body) -> String {
    match body {
        Body::Text(bytes) | Body::Json(bytes) => printable(&String::from_utf8_lossy(bytes)),
        Body::Binary(bytes) => format!("({} bytes)", bytes.len()),
    }
}

/// Text of others without what would move the cursor, change colours or set the window's title.
pub(crate) fn printable(text: &str) -> String {
    let shown = |c: char| match c {
        '\n' => Some('\n'),
        '\t' => Some(' '),
        c if c.is_control() => Some('\u{fffd}'),
        // Marks that turn the direction of what follows can make one line look like another.
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => None,
        c => Some(c),
    };
    text.chars().filter_map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_others_cannot_drive_the_terminal() {
        assert_eq!(
            printable("a\x1b[2Jb\r\x07"),
            "a\u{fffd}[2Jb\u{fffd}\u{fffd}"
        );
        assert_eq!(printable("two\nlines\tand a tab"), "two\nlines and a tab");
        assert_eq!(printable("abc\u{202e}dcba"), "abcdcba");
        assert_eq!(printable("\u{9b}31m"), "\u{fffd}31m");
    }

    #[test]
    fn bodies_are_shown_as_what_they_are() {
        assert_eq!(body_text(&Body::Json(r#"{"a":1}"#.into())), r#"{"a":1}"#);
        assert_eq!(body_text(&Body::Binary(vec![0; 12].into())), "(12 bytes)");
    }
}
