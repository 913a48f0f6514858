//! Which of a cluster's 16,384 slots a key or channel belongs to (<https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/>).

/// A slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(u16);

/// How many there are.
pub(crate) const SLOTS: u16 = 16_384;

impl Slot {
    /// The slot of a key: by what stands between its first `{` and the next `}`, if anything does, else by all of it.
    pub fn of(key: &str) -> Self {
        let tag = key
            .split_once('{')
            .and_then(|(_, rest)| rest.split_once('}'))
            .map(|(tag, _)| tag)
            .filter(|tag| !tag.is_empty())
            .unwrap_or(key);
        let crc = tag.bytes().fold(0_u16, |crc, byte| {
            crc << 8 ^ TABLE[usize::from((crc >> 8) as u8 ^ byte)]
        });
        Self(crc % SLOTS)
    }

    /// Its number.
    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// CRC-16/XMODEM: polynomial 0x1021, not reflected, starting at 0.
const TABLE: [u16; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 {
                crc << 1
            } else {
                crc << 1 ^ 0x1021
            };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(Slot::of("123456789").0, 0x31C3 % SLOTS);
        assert_eq!(Slot::of("foo").0, 12182);
        assert_eq!(
            Slot::of("{user1000}.following"),
            Slot::of("{user1000}.followers")
        );
        assert_eq!(Slot::of("foo{{bar}}zap"), Slot::of("{bar"));
        assert_eq!(Slot::of("foo{bar}{zap}"), Slot::of("bar"));
    }
}
