//! What a message of a run carries in its body, so that whoever receives it knows which one it is: everything else, its
//! room, its sender and when it was due, follows from the run's plan ([`crate::plan::Phase::due`]).

/// What a stamp begins with.
const MARK: u8 = b'~';
/// The digits of the message's number.
const DIGITS: usize = 8;
/// The length of a stamp: the mark, a digit for the phase, and the number. The shortest body.
pub(crate) const LENGTH: usize = 2 + DIGITS;
/// How many phases can be told apart.
pub(crate) const PHASES: usize = ALPHABET.len();

/// Digits of six bits; none has a meaning in JSON, none is the mark or the padding.
const ALPHABET: &[u8; 64] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_";
/// The value of each digit, and [`NONE`] for every other byte.
const VALUES: [u8; 256] = values();
const NONE: u8 = 0xff;

const fn values() -> [u8; 256] {
    let mut values = [NONE; 256];
    let mut value = 0;
    while value < ALPHABET.len() {
        values[ALPHABET[value] as usize] = value as u8;
        value += 1;
    }
    values
}

/// Which message it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// The stretch of the run that it was sent in, below [`PHASES`].
    pub(crate) phase: u8,
    /// The how-manieth of the phase over all rooms, from 0.
    pub(crate) message: u64,
}

impl Stamp {
    /// A body of `size` bytes, which is at least [`LENGTH`].
    pub(crate) fn body(self, size: usize) -> String {
        let digit = |value: u64| char::from(ALPHABET[value as usize % ALPHABET.len()]);
        let mut body = String::with_capacity(size);
        body.push(char::from(MARK));
        body.push(digit(self.phase.into()));
        body.extend(
            (0..DIGITS)
                .rev()
                .map(|place| digit(self.message >> (6 * place))),
        );
        body.extend(std::iter::repeat_n('.', size.saturating_sub(body.len())));
        body
    }

    /// Reads the stamp that `body` begins with.
    pub(crate) fn read(body: &[u8]) -> Option<Self> {
        let [MARK, phase, number @ ..] = body.first_chunk::<LENGTH>()? else {
            return None;
        };
        let value = |digit: &u8| Some(VALUES[usize::from(*digit)]).filter(|value| *value != NONE);
        let message = number
            .iter()
            .try_fold(0, |sum, digit| Some(sum << 6 | u64::from(value(digit)?)))?;
        Some(Self {
            phase: value(phase)?,
            message,
        })
    }

    /// Looks for a stamp anywhere: where a body is somewhere inside a text. With it, the length of the body that it begins.
    pub(crate) fn find(text: &[u8]) -> Option<(Self, usize)> {
        memchr::memchr_iter(MARK, text).find_map(|at| {
            let body = &text[at..];
            let padding = || {
                body[LENGTH..]
                    .iter()
                    .take_while(|byte| **byte == b'.')
                    .count()
            };
            Self::read(body).map(|stamp| (stamp, LENGTH + padding()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_read_as_it_was_written() {
        for message in [0, 1, 63, 64, 0x1234_5678_9abc, (1 << 48) - 1] {
            let stamp = Stamp { phase: 63, message };
            let body = stamp.body(100);
            assert_eq!(body.len(), 100);
            assert_eq!(Stamp::read(body.as_bytes()), Some(stamp));
            assert_eq!(
                Stamp::find(format!("{{\"from\":\"~\",\"body\":\"{body}\"}}").as_bytes()),
                Some((stamp, 100))
            );
        }
    }

    #[test]
    fn the_shortest_body_is_a_stamp_of_ten_bytes() {
        let stamp = Stamp {
            phase: 3,
            message: 70_000,
        };
        let body = stamp.body(LENGTH);
        assert_eq!((body.len(), LENGTH), (10, 10));
        assert_eq!(Stamp::find(body.as_bytes()), Some((stamp, LENGTH)));
        assert_eq!(Stamp::read(&body.as_bytes()[..LENGTH - 1]), None);
        assert_eq!(Stamp::read(b"hello, world"), None);
        assert_eq!(Stamp::read(b"~0000000 00"), None);
    }
}
