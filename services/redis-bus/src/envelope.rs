//! What travels over a room's channel: a fixed header, then the message as protobuf.
//!
//! | bytes | what |
//! |---|---|
//! | 1 | version: 1 |
//! | 1 | kind: 1 logged, 2 signal |
//! | 8 | epoch, big endian; 0 for a signal |
//! | 8 | seq, big endian; 0 for a signal |
//! | rest | `Entry` or `Signal` |
//!
//! The header is not protobuf because the append script writes it: seq and epoch are known there only.

use im_proto::v1::{BusEvent, Entry, Logged, Signal, bus_event::Event};
use im_wire::ids::{Epoch, RoomId, Seq};
use prost::Message;

const VERSION: u8 = 1;
const LOGGED: u8 = 1;
const SIGNAL: u8 = 2;
const HEADER: usize = 18;

/// Why an envelope could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadEnvelope {
    /// It ends within the header.
    #[error("{0} bytes are too few for an envelope")]
    Short(usize),
    /// Written by a release that this one does not understand.
    #[error("version {0} is not known")]
    Version(u8),
    /// Neither logged nor signal.
    #[error("kind {0} is not known")]
    Kind(u8),
    /// The protobuf part is damaged.
    #[error("the message in it is damaged: {0}")]
    Message(#[from] prost::DecodeError),
}

/// Writes and reads envelopes.
#[derive(Debug, Clone, Copy)]
pub struct Envelope;

impl Envelope {
    /// A logged entry, already encoded.
    pub fn logged(epoch: Epoch, seq: Seq, entry: &[u8]) -> Vec<u8> {
        let mut bytes = header(LOGGED, epoch, seq, entry.len());
        bytes.extend_from_slice(entry);
        bytes
    }

    /// A signal.
    pub fn signal(signal: &Signal) -> Vec<u8> {
        let mut bytes = header(SIGNAL, 0, 0, signal.encoded_len());
        signal.encode_raw(&mut bytes);
        bytes
    }

    /// What came over the channel of `room`.
    ///
    /// # Errors
    /// [`BadEnvelope`]: not an envelope of this version.
    pub fn decode(room: &RoomId, bytes: &[u8]) -> Result<BusEvent, BadEnvelope> {
        let (header, message) = bytes
            .split_at_checked(HEADER)
            .ok_or(BadEnvelope::Short(bytes.len()))?;
        if header[0] != VERSION {
            return Err(BadEnvelope::Version(header[0]));
        }
        let event = match header[1] {
            LOGGED => Event::Logged(Logged {
                epoch: number(&header[2..10]),
                seq: number(&header[10..18]),
                entry: Some(Entry::decode(message)?),
            }),
            SIGNAL => Event::Signal(Signal::decode(message)?),
            other => return Err(BadEnvelope::Kind(other)),
        };
        Ok(BusEvent {
            room: room.as_str().to_owned(),
            event: Some(event),
        })
    }
}

fn header(kind: u8, epoch: Epoch, seq: Seq, room_for: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + room_for);
    bytes.extend_from_slice(&[VERSION, kind]);
    bytes.extend_from_slice(&epoch.to_be_bytes());
    bytes.extend_from_slice(&seq.to_be_bytes());
    bytes
}

fn number(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room() -> RoomId {
        RoomId::new("lobby").expect("a good id")
    }

    #[test]
    fn a_logged_entry_comes_back_with_its_place() {
        let entry = Entry {
            id: "1".into(),
            from: "ann".into(),
            body: b"hi".to_vec().into(),
            ..Entry::default()
        };
        let bytes = Envelope::logged(1_700_000_000_123, 42, &entry.encode_to_vec());
        let event = Envelope::decode(&room(), &bytes).expect("readable");
        let logged = Logged {
            epoch: 1_700_000_000_123,
            seq: 42,
            entry: Some(entry),
        };
        assert_eq!(
            event,
            BusEvent {
                room: "lobby".into(),
                event: Some(Event::Logged(logged))
            }
        );
    }

    #[test]
    fn a_signal_comes_back() {
        let signal = Signal {
            from: "ann".into(),
            r#type: "typing".into(),
            ..Signal::default()
        };
        let event = Envelope::decode(&room(), &Envelope::signal(&signal)).expect("readable");
        assert_eq!(event.event, Some(Event::Signal(signal)));
    }

    #[test]
    fn what_is_no_envelope_is_named() {
        let good = Envelope::signal(&Signal::default());
        assert_eq!(
            Envelope::decode(&room(), &good[..17]),
            Err(BadEnvelope::Short(17))
        );
        let with = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            Envelope::decode(&room(), &bytes)
        };
        assert_eq!(with(0, 9), Err(BadEnvelope::Version(9)));
        assert_eq!(with(1, 9), Err(BadEnvelope::Kind(9)));
        let mut damaged = good.clone();
        damaged.push(0xff);
        assert!(matches!(
            Envelope::decode(&room(), &damaged),
            Err(BadEnvelope::Message(_))
        ));
    }
}
