//! Everything that can go wrong, as clients see it: error codes answer a request, close codes end a connection.
//! `docs/protocol.md` shows both tables and is checked against this file.

macro_rules! codes {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $number:literal, $text:literal, $flag:literal;)* } $flagname:ident: $flagdoc:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum $name { $($(#[$vdoc])* $variant = $number,)* }

        impl $name {
            /// Every code there is, in order of number.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The number on the wire.
            pub const fn number(self) -> u16 {
                self as u16
            }

            /// The name on the wire, in metrics and in logs.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            #[doc = $flagdoc]
            pub const fn $flagname(self) -> bool {
                match self { $(Self::$variant => $flag,)* }
            }

            /// The code with this number.
            pub fn from_number(number: u16) -> Option<Self> {
                Self::ALL.iter().copied().find(|code| code.number() == number)
            }

            /// The code with this name.
            pub fn from_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|code| code.name() == name)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

codes!(
    /// Answers a request that was not carried out. The connection goes on.
    ErrorCode {
        /// A field is missing, of the wrong kind or out of its limits; `field` names it.
        BadRequest = 1, "bad_request", false;
        /// The token is missing, malformed, forged or of an algorithm that is not accepted.
        Unauthenticated = 2, "unauthenticated", false;
        /// The token was good but its time is over.
        TokenExpired = 3, "token_expired", false;
        /// The token does not give this right.
        Forbidden = 4, "forbidden", false;
        /// A group hears and answers its members only.
        NotAMember = 5, "not_a_member", false;
        /// No such room, and the token does not allow to open it.
        NoSuchRoom = 6, "no_such_room", false;
        /// A room of this id exists with another kind.
        Conflict = 7, "conflict", false;
        /// The body is longer than the limit; `text` names the limit.
        TooLarge = 8, "too_large", false;
        /// More requests than the limit of the connection, user or address; wait and retry.
        RateLimited = 9, "rate_limited", true;
        /// The request does not fit the connection's state, e.g. a second auth.
        WrongState = 10, "wrong_state", false;
        /// Logic or the store cannot be reached just now. A send may or may not be stored: retry with the same client id.
        Unavailable = 11, "unavailable", true;
        /// Stored by the master but not confirmed by the configured number of replicas in time: retry with the same client id.
        NotReplicated = 12, "not_replicated", true;
        /// The store refuses writes: read-only, out of memory or disk. Retry later.
        StoreFull = 13, "store_full", true;
        /// A defect of ours; the log says more.
        Internal = 14, "internal", true;
        /// A limit on how many of something there may be (rooms on a connection, members of a group) is reached.
        LimitReached = 15, "limit_reached", false;
        /// User, device or address is banned here.
        Banned = 16, "banned", false;
    }
    retryable: "Whether the same request may succeed later."
);

codes!(
    /// Ends a connection: the WebSocket close code, and the number in the native close frame.
    CloseCode {
        /// The client left, or nothing more is to be said.
        Normal = 1000, "normal", true;
        /// The node is leaving and the client has not moved in time: resume elsewhere.
        GoingAway = 1001, "going_away", true;
        /// A frame that is not of the protocol.
        ProtocolError = 1002, "protocol_error", false;
        /// Text that is not UTF-8.
        InvalidText = 1007, "invalid_text", false;
        /// A frame longer than the limit.
        TooLarge = 1009, "too_large", false;
        /// A defect of ours.
        Internal = 1011, "internal", true;
        /// The handshake or auth did not come in time.
        HandshakeTimeout = 4000, "handshake_timeout", true;
        /// No token, or one that is not accepted.
        Unauthenticated = 4001, "unauthenticated", false;
        /// The token's time is over and no newer one came.
        TokenExpired = 4002, "token_expired", false;
        /// Nothing was heard from the client for the heartbeat timeout.
        HeartbeatTimeout = 4003, "heartbeat_timeout", true;
        /// The client reads too slowly: its outbox reached the bound. Resume.
        SlowReader = 4004, "slow_reader", true;
        /// Far more requests than the limit.
        Flood = 4005, "flood", true;
        /// An administrator ended the connection.
        Kicked = 4006, "kicked", false;
        /// The node or the client's address has as many connections as it may.
        TooManyConnections = 4007, "too_many_connections", true;
        /// The node is draining: connect elsewhere and resume.
        Moved = 4008, "moved", true;
        /// Logic cannot be reached, so nobody can be authenticated.
        Unavailable = 4009, "unavailable", true;
        /// The same device has connected again.
        Replaced = 4010, "replaced", false;
        /// Something other than auth came first, or auth a second time.
        WrongState = 4011, "wrong_state", false;
        /// User, device or address is banned here.
        Banned = 4012, "banned", false;
    }
    reconnect: "Whether the client should connect again by itself, with backoff."
);
