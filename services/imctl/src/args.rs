//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use im_cli::duration::duration;
use im_cli::token::KeyArgs;

const EXIT_CODES: &str = "Exit codes: 0 done; 1 failed; 2 wrong command line; 3 nobody answers; 4 the server refused; \
5 a message may be stored or not.";

/// Talks to an ImCluster: makes tokens, chats, sends, follows and reads rooms, looks at nodes.
#[derive(Debug, Parser)]
#[command(name = "imctl", version, after_help = EXIT_CODES, max_term_width = 100)]
pub(crate) struct Imctl {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a token and print it.
    Token(TokenArgs),
    /// Chat in the terminal.
    Chat(ChatArgs),
    /// Send one message (or one per line) and wait until it is stored.
    Send(SendArgs),
    /// Print messages as they are said.
    Tail(TailArgs),
    /// Print what was said.
    History(HistoryArgs),
    /// List the user's rooms.
    Rooms(ListArgs),
    /// List the user's conversations, the latest first, with unread counts.
    Conversations(ListArgs),
    /// Delete a room with all that was said there; whoever hears it is told.
    Delete(DeleteArgs),
    /// List the connect nodes, or look at one process.
    Node(NodeArgs),
    /// Ban a user, one device or an address: open connections end, new ones and HTTP are refused.
    Ban(BanArgs),
    /// Lift a ban, or take back a revocation.
    Unban(UnbanArgs),
    /// List bans and revocations in force.
    Bans(ListArgs),
    /// Refuse the tokens that a user has so far: a newer one is needed.
    Revoke(RevokeArgs),
    /// Measure servers: throughput, latency, losses, CPU time and memory; against the least that this machine can do.
    #[command(disable_help_flag = true)]
    Bench {
        /// As `imctl bench --help` lists them.
        #[arg(
            trailing_var_arg = true,
            allow_hyphen_values = true,
            value_name = "OPTIONS"
        )]
        args: Vec<OsString>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct TokenArgs {
    #[command(flatten)]
    pub(crate) key: KeyArgs,
    /// Who the token is for.
    #[arg(long, short)]
    pub(crate) user: String,
    /// The only device that may use it.
    #[arg(long)]
    pub(crate) device: Option<String>,
    /// How long it is good for: 90s, 15m, 1h, 7d, or several added up (1h30m).
    #[arg(long, default_value = "1h", value_parser = duration)]
    pub(crate) ttl: Duration,
    /// May do everything.
    #[arg(long)]
    pub(crate) admin: bool,
    /// Open rooms it may enter: patterns in which * stands for anything.
    #[arg(long, value_name = "PATTERN", num_args = 1..)]
    pub(crate) rooms: Vec<String>,
    /// The `iss` claim, where the server wants one.
    #[arg(long)]
    pub(crate) issuer: Option<String>,
    /// The `aud` claim, where the server wants one.
    #[arg(long)]
    pub(crate) audience: Option<String>,
    /// Print an object with the token and its claims.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Where to connect, and as whom.
#[derive(Debug, Clone, Args)]
pub(crate) struct ConnectArgs {
    /// tcp://host:3101 or ws://host:3102/ws; may be given several times.
    #[arg(
        long,
        short,
        env = "IM_ADDRESS",
        value_delimiter = ',',
        default_value = "tcp://localhost:3101"
    )]
    pub(crate) address: Vec<String>,
    /// The HTTP API; without, port 3111 of the first address's host.
    #[arg(long, env = "IM_HTTP", value_name = "URL")]
    pub(crate) http: Option<String>,
    /// Token; also from IM_TOKEN. Other users of this machine may see the flag in the process list.
    #[arg(long, conflicts_with_all = ["token_file", "secret", "secret_file", "key_file"])]
    pub(crate) token: Option<String>,
    /// File with the token, read again whenever a new one is needed; also from IM_TOKEN_FILE.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["secret", "secret_file", "key_file"])]
    pub(crate) token_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) key: KeyArgs,
    /// Who to be, where a secret or key is given.
    #[arg(long, short)]
    pub(crate) user: Option<String>,
    /// The device to be; without, the token's, or one of this process.
    #[arg(long)]
    pub(crate) device: Option<String>,
    /// With a secret or key: sign a token that may do everything.
    #[arg(long)]
    pub(crate) admin: bool,
    /// JSON instead of binary frames; needs ws://.
    #[arg(long)]
    pub(crate) json_frames: bool,
    /// How long to wait for a connection or an answer.
    #[arg(long, default_value = "10s", value_parser = duration)]
    pub(crate) timeout: Duration,
    /// Print one JSON object per line.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which room.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct RoomArgs {
    /// The room's id.
    #[arg(long, short, conflicts_with = "with")]
    pub(crate) room: Option<String>,
    /// The direct room with this user.
    #[arg(long, value_name = "USER")]
    pub(crate) with: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ChatArgs {
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
    /// Rooms to enter; the last one is where you begin.
    #[arg(long, short)]
    pub(crate) room: Vec<String>,
    /// Users to chat with directly.
    #[arg(long, value_name = "USER")]
    pub(crate) with: Vec<String>,
    /// When to use colours.
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) color: Color,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    Always,
    Never,
}

#[derive(Debug, Args)]
pub(crate) struct SendArgs {
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
    #[command(flatten)]
    pub(crate) room: RoomArgs,
    /// The text; without, standard input.
    pub(crate) text: Vec<String>,
    /// The message's type.
    #[arg(long = "type", default_value = "text")]
    pub(crate) kind: String,
    /// The text is JSON, to be sent as the value it is.
    #[arg(long, conflicts_with = "binary")]
    pub(crate) json_body: bool,
    /// Standard input is any bytes.
    #[arg(long, conflicts_with_all = ["text", "lines"])]
    pub(crate) binary: bool,
    /// Each line of standard input is a message.
    #[arg(long, conflicts_with_all = ["text", "client_id"])]
    pub(crate) lines: bool,
    /// The sender's id for it: sent again with the same one, it is stored once.
    #[arg(long)]
    pub(crate) client_id: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct TailArgs {
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
    /// Rooms to follow.
    #[arg(long, short)]
    pub(crate) room: Vec<String>,
    /// Users whose direct rooms to follow.
    #[arg(long, value_name = "USER")]
    pub(crate) with: Vec<String>,
    /// Follow every room of the user, now and later.
    #[arg(long)]
    pub(crate) all: bool,
    /// Begin after this seq; 0: from the beginning.
    #[arg(long, value_name = "SEQ", conflicts_with = "last")]
    pub(crate) after: Option<u64>,
    /// Begin with so many of the latest.
    #[arg(long, value_name = "N")]
    pub(crate) last: Option<u32>,
    /// End after so many messages.
    #[arg(long, value_name = "N")]
    pub(crate) count: Option<u64>,
    /// Show signals (typing, pushes) too.
    #[arg(long)]
    pub(crate) signals: bool,
}

#[derive(Debug, Args)]
pub(crate) struct HistoryArgs {
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
    #[command(flatten)]
    pub(crate) room: RoomArgs,
    /// Messages with a greater seq, the oldest of them.
    #[arg(long, value_name = "SEQ", conflicts_with = "before")]
    pub(crate) after: Option<u64>,
    /// Messages with a smaller seq, the newest of them.
    #[arg(long, value_name = "SEQ")]
    pub(crate) before: Option<u64>,
    /// At most so many.
    #[arg(long, short = 'n', default_value_t = 50)]
    pub(crate) limit: u32,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

#[derive(Debug, Args)]
pub(crate) struct NodeArgs {
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
    /// The admin address of one process, like http://localhost:9100: its readiness and figures. Needs no token.
    #[arg(long, value_name = "URL")]
    pub(crate) at: Option<String>,
}

/// Whom a ban is about.
#[derive(Debug, Args)]
pub(crate) struct WhomArgs {
    /// The user.
    #[arg(value_name = "USER")]
    pub(crate) whom: Option<String>,
    /// Only this device of the user; without a user: whoever's token carries it.
    #[arg(long, value_name = "DEVICE")]
    pub(crate) banned_device: Option<String>,
    /// An address or a range of them: 192.0.2.7, 192.0.2.0/24, 2001:db8::/32.
    #[arg(long, value_name = "ADDRESS", conflicts_with_all = ["whom", "banned_device"])]
    pub(crate) from: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
    /// The room's id.
    #[arg(value_name = "ROOM")]
    pub(crate) room: String,
}

#[derive(Debug, Args)]
pub(crate) struct BanArgs {
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
    #[command(flatten)]
    pub(crate) whom: WhomArgs,
    /// How long: 90s, 15m, 1h, 7d; without: for ever.
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    pub(crate) length: Option<Duration>,
    /// Why; for the list and the audit log.
    #[arg(long)]
    pub(crate) reason: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct UnbanArgs {
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
    #[command(flatten)]
    pub(crate) whom: WhomArgs,
    /// The ban's id, as `imctl bans` shows it; the way to take back a revocation.
    #[arg(long, conflicts_with_all = ["whom", "banned_device", "from"])]
    pub(crate) id: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct RevokeArgs {
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
    /// The user.
    #[arg(value_name = "USER")]
    pub(crate) whom: String,
    /// Only tokens that were issued longer ago than this; without: all so far.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) older_than: Option<Duration>,
    /// How long that is remembered: as long as your tokens live; without: for ever.
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    pub(crate) length: Option<Duration>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Imctl::command().debug_assert();
    }

    #[test]
    fn the_documented_token_line_is_understood() {
        let line =
            "imctl token --secret S --user U --device D --ttl 1h --admin --rooms live://* news";
        let Command::Token(token) = Imctl::try_parse_from(line.split(' ')).unwrap().command else {
            panic!()
        };
        assert_eq!(
            (token.user.as_str(), token.rooms.len(), token.admin),
            ("U", 2, true)
        );
    }

    #[test]
    fn bans_are_about_somebody_else_than_who_makes_them() {
        let line = "imctl ban eve --banned-device phone --for 1h --reason spam --secret S --user root --admin";
        let Command::Ban(ban) = Imctl::try_parse_from(line.split(' ')).unwrap().command else {
            panic!()
        };
        assert_eq!(
            (ban.whom.whom.as_deref(), ban.connect.user.as_deref()),
            (Some("eve"), Some("root"))
        );
        assert!(
            Imctl::try_parse_from("imctl ban eve --from 10.0.0.1 --token T".split(' ')).is_err()
        );
    }

    #[test]
    fn credentials_exclude_each_other() {
        let line = "imctl chat --token T --secret S";
        assert!(Imctl::try_parse_from(line.split(' ')).is_err());
    }
}
