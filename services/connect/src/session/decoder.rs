//! A client's bytes to what it said: the WebSocket upgrade and frames by the library, TLV frames by im-wire. Holds bytes
//! only while something is incomplete.

use std::io::{self, Read, Write};
use std::net::IpAddr;

use bytes::{Buf, BytesMut};
use im_runtime::limits::address;
use im_wire::code::CloseCode;
use im_wire::dialect::Entrance;
use im_wire::frame::{self, Frame, Malformed};
use tokio_tungstenite::tungstenite::handshake::machine::TryParse;
use tokio_tungstenite::tungstenite::handshake::server::{Request, create_response, write_response};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};

use crate::accept::relay;
use crate::metrics;
use crate::options::Options;

/// The longest request that upgrades to WebSocket, in bytes.
const MAX_UPGRADE: usize = 8 << 10;
/// The library's own read buffer, kept per WebSocket connection.
const READ_BUFFER: usize = 512;
/// What comes before a client's payload in a frame of control: two bytes, and the mask.
const CONTROL_HEADER: usize = 6;

/// Something that a client said.
#[derive(Debug)]
pub(crate) enum Inbound {
    /// Whoever passes the connection on has said whose it is; `None`: its own.
    Proxied(Option<IpAddr>),
    /// The upgrade succeeded; the path tells more. The client's address, as a proxy that is believed may have said it.
    Upgraded(Entrance, IpAddr),
    /// A TLV frame.
    Frame(Frame),
    /// A text frame.
    Text(Utf8Bytes),
    /// A WebSocket ping or pong.
    Control,
    /// The client says goodbye.
    Close,
}

impl Inbound {
    /// How many bytes it took on the way in, about: what a limit in bytes counts.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Frame(frame) => frame::HEADER + frame.body.len(),
            Self::Text(text) => text.len(),
            Self::Proxied(_) | Self::Upgraded(..) | Self::Control | Self::Close => 0,
        }
    }
}

/// What a client sent is not of the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Broken {
    #[error(transparent)]
    Frame(#[from] Malformed),
    #[error("{0}")]
    WebSocket(String),
    #[error("text that is not UTF-8")]
    Utf8,
    #[error("a message of more than {0} bytes")]
    TooLarge(usize),
    #[error(transparent)]
    Relay(#[from] relay::Malformed),
    /// The answer has been written; there is no WebSocket to close.
    #[error("no WebSocket upgrade: {0}")]
    Upgrade(String),
}

impl Broken {
    pub(crate) fn code(&self) -> CloseCode {
        match self {
            Self::Frame(Malformed::TooLarge { .. }) | Self::TooLarge(_) => CloseCode::TooLarge,
            Self::Utf8 => CloseCode::InvalidText,
            Self::Frame(_) | Self::WebSocket(_) | Self::Relay(_) | Self::Upgrade(_) => {
                CloseCode::ProtocolError
            }
        }
    }
}

enum State {
    /// A PROXY protocol header comes first; TCP or WebSocket after it.
    Proxied(bool),
    Tcp,
    Upgrade,
    WebSocket(Box<WebSocketContext>),
}

/// See the module's top.
pub(crate) struct Decoder {
    state: State,
    rest: BytesMut,
    limit: usize,
    /// Of a WebSocket message that is not complete: bytes so far, frame headers included.
    unfinished: usize,
}

/// What the library reads from and writes to.
struct Pipe<'a> {
    input: &'a mut BytesMut,
    output: &'a mut Vec<u8>,
}

impl Read for Pipe<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.input.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let n = into.len().min(self.input.len());
        self.input.split_to(n).copy_to_slice(&mut into[..n]);
        Ok(n)
    }
}

impl Write for Pipe<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl State {
    fn of(tcp: bool) -> Self {
        if tcp { Self::Tcp } else { Self::Upgrade }
    }
}

impl Decoder {
    /// For a connection that came in on the TCP or the WebSocket port, with a PROXY protocol header before it or without;
    /// `limit` is the longest body.
    pub(crate) fn new(tcp: bool, proxied: bool, limit: usize) -> Self {
        let state = if proxied {
            State::Proxied(tcp)
        } else {
            State::of(tcp)
        };
        Self {
            state,
            rest: BytesMut::new(),
            limit,
            unfinished: 0,
        }
    }

    /// Whether there is a WebSocket to close.
    pub(crate) fn is_upgrading(&self) -> bool {
        matches!(self.state, State::Upgrade | State::Proxied(false))
    }

    /// Takes bytes from the socket.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
    }

    /// The next whole thing, and what is to be written because of it (pongs, the upgrade's answer).
    pub(crate) fn next(
        &mut self,
        output: &mut Vec<u8>,
        options: &Options,
        peer: IpAddr,
    ) -> Result<Option<Inbound>, Broken> {
        let next = match &mut self.state {
            State::Proxied(tcp) => match relay::read(&self.rest)? {
                Some((length, address)) => {
                    self.rest.advance(length);
                    self.state = State::of(*tcp);
                    Some(Inbound::Proxied(address))
                }
                None => None,
            },
            State::Tcp => frame::decode(&mut self.rest, self.limit)?.map(Inbound::Frame),
            State::Upgrade => self.upgrade(output, options, peer)?,
            State::WebSocket(context) => {
                let pipe = Pipe {
                    input: &mut self.rest,
                    output,
                };
                read_websocket(context, pipe, self.limit, &mut self.unfinished)?
            }
        };
        if next.is_none() && self.rest.is_empty() {
            self.rest = BytesMut::new();
        }
        Ok(next)
    }

    fn upgrade(
        &mut self,
        output: &mut Vec<u8>,
        options: &Options,
        peer: IpAddr,
    ) -> Result<Option<Inbound>, Broken> {
        let refuse = |output: &mut Vec<u8>, status: &str, why: String| {
            let text = format!(
                "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{why}",
                why.len()
            );
            output.extend_from_slice(text.as_bytes());
            Err(Broken::Upgrade(why))
        };
        let request = match Request::try_parse(&self.rest) {
            Ok(None) if self.rest.len() > MAX_UPGRADE => {
                return refuse(
                    output,
                    "431 Request Header Fields Too Large",
                    format!("more than {MAX_UPGRADE} bytes"),
                );
            }
            Ok(None) => return Ok(None),
            Ok(Some((length, request))) => {
                self.rest.advance(length);
                request
            }
            Err(error) => return refuse(output, "400 Bad Request", error.to_string()),
        };
        let entrance = match request.uri().path() {
            "/sub" => Entrance::Sub,
            "/ws" => Entrance::Ws,
            _ => return refuse(output, "404 Not Found", "use /ws or /sub".to_owned()),
        };
        if !may_upgrade(
            request.headers().get(http::header::ORIGIN),
            &options.ws_allowed_origins,
        ) {
            metrics::REFUSED.with_label_values(&["origin"]).inc();
            return refuse(
                output,
                "403 Forbidden",
                "this origin is not in ws_allowed_origins".to_owned(),
            );
        }
        let values: Vec<&[u8]> = request
            .headers()
            .get_all("x-forwarded-for")
            .iter()
            .map(http::HeaderValue::as_bytes)
            .collect();
        let client = match address::client(peer, values.into_iter(), &options.forwarded_from) {
            Ok(client) => client,
            Err(malformed) => return refuse(output, "400 Bad Request", malformed.to_string()),
        };
        let response = match create_response(&request) {
            Ok(response) => response,
            Err(error) => return refuse(output, "400 Bad Request", error.to_string()),
        };
        if let Err(error) = write_response(&mut *output, &response) {
            return Err(Broken::Upgrade(error.to_string()));
        }
        let longest = Some(self.limit + frame::HEADER + 4096);
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(0)
            .max_message_size(longest)
            .max_frame_size(longest);
        self.state = State::WebSocket(Box::new(WebSocketContext::new(Role::Server, Some(config))));
        Ok(Some(Inbound::Upgraded(entrance, client)))
    }
}

/// Browsers say where their page is from, and cannot leave it out; other clients say nothing and are not meant.
fn may_upgrade(origin: Option<&http::HeaderValue>, allowed: &[String]) -> bool {
    let Some(origin) = origin.filter(|_| !allowed.is_empty()) else {
        return true;
    };
    allowed
        .iter()
        .any(|allowed| allowed == "*" || origin.as_bytes().eq_ignore_ascii_case(allowed.as_bytes()))
}

/// Every frame of control is something that the client said, and counts as such. Frames that only continue a message
/// without adding to it are bounded by what the whole may take on the way in.
fn read_websocket(
    context: &mut WebSocketContext,
    mut pipe: Pipe<'_>,
    limit: usize,
    unfinished: &mut usize,
) -> Result<Option<Inbound>, Broken> {
    let before = pipe.input.len();
    let read = context.read(&mut pipe);
    *unfinished += before - pipe.input.len();
    match read {
        Ok(Message::Binary(bytes)) => {
            *unfinished = 0;
            Ok(Some(Inbound::Frame(frame::decode_exact(bytes, limit)?)))
        }
        Ok(Message::Text(text)) => {
            *unfinished = 0;
            Ok(Some(Inbound::Text(text)))
        }
        Ok(Message::Close(_)) => Ok(Some(Inbound::Close)),
        Ok(Message::Ping(payload)) => {
            *unfinished = unfinished.saturating_sub(CONTROL_HEADER + payload.len());
            // The library has queued the pong: it leaves with the rest.
            let _flushed = context.flush(&mut pipe);
            Ok(Some(Inbound::Control))
        }
        Ok(Message::Pong(payload)) => {
            *unfinished = unfinished.saturating_sub(CONTROL_HEADER + payload.len());
            Ok(Some(Inbound::Control))
        }
        Ok(Message::Frame(_)) => Ok(Some(Inbound::Control)),
        Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
            if *unfinished > 2 * limit + MAX_UPGRADE {
                return Err(Broken::WebSocket("a message in too many frames".to_owned()));
            }
            Ok(None)
        }
        Err(Error::ConnectionClosed | Error::AlreadyClosed) => Ok(Some(Inbound::Close)),
        Err(Error::Utf8(_)) => Err(Broken::Utf8),
        Err(Error::Capacity(_)) => Err(Broken::TooLarge(limit)),
        Err(error) => Err(Broken::WebSocket(error.to_string())),
    }
}
