//! What a message of a run carries in its body, so that whoever receives it knows which one it is and when it was due.

use memchr::memmem;

/// What a stamp begins with.
const MARK: &[u8] = b"~imb~";
/// The length of a stamp: the mark and 36 hexadecimal digits. The shortest body.
pub(crate) const LENGTH: usize = MARK.len() + 36;

/// Which message it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// The stretch of the run that it was sent in.
    pub(crate) phase: u8,
    pub(crate) room: u32,
    /// Which of the room's senders sent it.
    pub(crate) sender: u16,
    /// That sender's how-manieth, from 1, in this phase.
    pub(crate) number: u32,
    /// When it was to be sent, on [`super::clock`].
    pub(crate) due: u64,
}

impl Stamp {
    /// A body of `size` bytes, which is at least [`LENGTH`].
    pub(crate) fn body(self, size: usize) -> String {
        let Self { phase, room, sender, number, due } = self;
        let mut body = String::with_capacity(size);
        body.push_str("~imb~");
        body.push_str(&format!("{phase:02x}{:06x}{sender:04x}{number:08x}{due:016x}", room & 0x00ff_ffff));
        body.extend(std::iter::repeat_n('.', size.saturating_sub(body.len())));
        body
    }

    /// Reads the stamp that `body` begins with.
    pub(crate) fn read(body: &[u8]) -> Option<Self> {
        let digits = body.strip_prefix(MARK)?.get(..36)?;
        let number = |from: usize, to: usize| {
            digits[from..to].iter().try_fold(0_u64, |sum, digit| {
                let digit = char::from(*digit).to_digit(16)?;
                Some(sum << 4 | u64::from(digit))
            })
        };
        Some(Self {
            phase: number(0, 2)? as u8,
            room: number(2, 8)? as u32,
            sender: number(8, 12)? as u16,
            number: number(12, 20)? as u32,
            due: number(20, 36)?,
        })
    }

    /// Looks for a stamp anywhere: where a body is somewhere inside a text. With it, the length of the body that it begins.
    pub(crate) fn find(text: &[u8]) -> Option<(Self, usize)> {
        let body = &text[memmem::find(text, MARK)?..];
        let stamp = Self::read(body)?;
        let padding = body[LENGTH..].iter().take_while(|byte| **byte == b'.').count();
        Some((stamp, LENGTH + padding))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_read_as_it_was_written() {
        let stamp = Stamp { phase: 3, room: 9_999, sender: 17, number: 70_000, due: 0x1234_5678_9abc };
        let body = stamp.body(100);
        assert_eq!(body.len(), 100);
        assert_eq!(Stamp::read(body.as_bytes()), Some(stamp));
        assert_eq!(Stamp::find(format!("{{\"body\":\"{body}\"}}").as_bytes()), Some((stamp, 100)));
        assert_eq!(stamp.body(LENGTH).len(), LENGTH);
        assert_eq!(Stamp::read(&body.as_bytes()[..LENGTH - 1]), None);
        assert_eq!(Stamp::read(b"hello"), None);
    }
}
