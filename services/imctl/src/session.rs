//! From the command line to a connected client: whose token, which device, which room.

use std::time::Duration;

use im_cli::failure::{Exit, Failure};
use im_cli::token::{Claims, Signer, peek, read_secret};
use im_client::{Client, Encoding, Events, Options, Position, RoomId, State, UserId};
use tokio::time::timeout;

use crate::args::{ConnectArgs, RoomArgs};

/// How long a token that imctl signs for itself is good for.
const OWN_TOKEN: Duration = Duration::from_secs(3600);

/// Where tokens come from.
#[derive(Clone)]
pub(crate) enum Credentials {
    Token(String),
    File(std::path::PathBuf),
    Signed {
        signer: Signer,
        user: UserId,
        admin: bool,
    },
}

impl Credentials {
    /// Flags first, then the environment.
    pub(crate) fn new(
        args: &ConnectArgs,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, Failure> {
        let key_given = args.key.secret.is_some()
            || args.key.secret_file.is_some()
            || args.key.key_file.is_some();
        if let Some(token) = &args.token {
            return Ok(Self::Token(token.clone()));
        }
        if let Some(file) = &args.token_file {
            return Ok(Self::File(file.clone()));
        }
        if !key_given {
            if let Some(token) = env("IM_TOKEN").filter(|token| !token.is_empty()) {
                return Ok(Self::Token(token));
            }
            if let Some(file) = env("IM_TOKEN_FILE").filter(|file| !file.is_empty()) {
                return Ok(Self::File(file.into()));
            }
        }
        let nothing = || {
            Failure::usage("no credentials: give --token-file, --token, or --secret-file with --user")
                .hint("IM_TOKEN, IM_TOKEN_FILE and IM_AUTH_HS256_SECRET are read too; `imctl token` makes tokens")
        };
        let signer = Signer::new(&args.key, env)?.ok_or_else(nothing)?;
        let user = args
            .user
            .as_ref()
            .ok_or_else(|| Failure::usage("a secret or key needs --user: who to be"))?;
        let user = UserId::new(user).map_err(|error| Failure::usage(format!("--{error}")))?;
        Ok(Self::Signed {
            signer,
            user,
            admin: args.admin,
        })
    }

    /// A token that is good now.
    pub(crate) fn token(&self) -> Result<String, String> {
        match self {
            Self::Token(token) => Ok(token.trim().to_owned()),
            Self::File(path) => read_secret(path)
                .map(|token| token.trim().to_owned())
                .map_err(|failure| failure.text),
            Self::Signed {
                signer,
                user,
                admin,
            } => {
                let mut claims = Claims::new(user.as_str(), OWN_TOKEN).admin(*admin);
                // Whoever holds the secret may enter any open room.
                claims.rooms = vec!["*".to_owned()];
                signer.sign(&claims)
            }
        }
    }

    /// Who the token is for, as it says itself.
    pub(crate) fn user(&self) -> Option<UserId> {
        UserId::new(peek(&self.token().ok()?, "sub")?).ok()
    }
}

/// The names that rooms go by on the command line.
pub(crate) fn room_id(room: &str) -> Result<RoomId, Failure> {
    RoomId::new(room).map_err(|error| Failure::usage(format!("--{error}")))
}

/// The direct room of the token's user and another.
pub(crate) fn direct_room(me: Option<&UserId>, with: &str) -> Result<RoomId, Failure> {
    let me = me.ok_or_else(|| {
        Failure::usage("--with needs to know who you are, and the token names no user")
    })?;
    let with = UserId::new(with).map_err(|error| Failure::usage(format!("--with: {error}")))?;
    RoomId::direct(me, &with).map_err(|error| Failure::usage(format!("--with: {error}")))
}

/// The one room that a command is about.
pub(crate) fn one_room(args: &RoomArgs, me: Option<&UserId>) -> Result<RoomId, Failure> {
    match (&args.room, &args.with) {
        (Some(room), _) => room_id(room),
        (None, Some(with)) => direct_room(me, with),
        (None, None) => Err(Failure::usage(
            "which room? give --room ID, or --with USER for a direct one",
        )),
    }
}

/// The rooms that a command is about.
pub(crate) fn rooms(
    rooms: &[String],
    with: &[String],
    me: Option<&UserId>,
) -> Result<Vec<RoomId>, Failure> {
    let direct = with.iter().map(|user| direct_room(me, user));
    direct
        .chain(rooms.iter().map(|room| room_id(room)))
        .collect()
}

/// A client that is connecting, and who it will be.
pub(crate) struct Session {
    pub(crate) client: Client,
    pub(crate) events: Events,
    pub(crate) me: Option<UserId>,
}

impl Session {
    /// Starts connecting.
    pub(crate) fn start(
        args: &ConnectArgs,
        credentials: &Credentials,
        positions: Vec<Position>,
        follow_all: bool,
    ) -> Result<Self, Failure> {
        let token = credentials.token().map_err(Failure::usage)?;
        let mut builder = Client::builder()
            .addresses(&args.address)
            .agent(concat!("imctl/", env!("CARGO_PKG_VERSION")))
            .follow_all(follow_all)
            .subscribe(positions)
            .encoding(if args.json_frames {
                Encoding::Json
            } else {
                Encoding::Binary
            })
            .options(Options {
                request_timeout: args.timeout,
                ..Options::default()
            });
        if let Some(device) = &args.device {
            builder = builder.device(device);
        } else if peek(&token, "dev").is_none() {
            builder = builder.device(format!("imctl-{}", std::process::id()));
        }
        let builder = match credentials {
            Credentials::Token(token) => builder.token(token.trim().to_owned()),
            renewable => {
                let renewable = renewable.clone();
                builder.token(im_client::token::from_fn(move || {
                    let token = renewable.token();
                    async move { token.map_err(Into::into) }
                }))
            }
        };
        let (client, events) = builder.build()?;
        Ok(Self {
            client,
            events,
            me: credentials.user(),
        })
    }

    /// Waits until it is connected.
    pub(crate) async fn connected(&self, args: &ConnectArgs) -> Result<(), Failure> {
        if let Ok(ended) = timeout(args.timeout, self.client.connected()).await {
            return Ok(ended?);
        }
        let why = match self.client.state() {
            State::Connecting {
                last_failure: Some(reason),
            } => reason,
            _ => "no answer".to_owned(),
        };
        let failure = Failure::new(
            Exit::Unreachable,
            format!("cannot connect to {}: {why}", args.address.join(", ")),
        );
        Err(failure.hint("is the server running there? --address or IM_ADDRESS name another; --timeout waits longer"))
    }

    /// Starts, and waits until it is connected.
    pub(crate) async fn open(
        args: &ConnectArgs,
        credentials: &Credentials,
    ) -> Result<Self, Failure> {
        let session = Self::start(args, credentials, Vec::new(), false)?;
        session.connected(args).await?;
        Ok(session)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Command, Imctl};

    fn credentials(line: &str, env: &[(&str, &str)]) -> Result<Credentials, Failure> {
        let line = format!("imctl history --room r {line}");
        let Command::History(args) = Imctl::try_parse_from(line.split_whitespace())
            .unwrap()
            .command
        else {
            panic!()
        };
        let env = |name: &str| {
            env.iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| (*value).to_owned())
        };
        Credentials::new(&args.connect, env)
    }

    #[test]
    fn flags_come_before_the_environment() {
        let env = [
            ("IM_TOKEN", "e"),
            ("IM_TOKEN_FILE", "f"),
            ("IM_AUTH_HS256_SECRET", "s"),
        ];
        assert!(
            matches!(credentials("--token t", &env), Ok(Credentials::Token(token)) if token == "t")
        );
        assert!(matches!(credentials("", &env), Ok(Credentials::Token(token)) if token == "e"));
        assert!(
            matches!(credentials("", &env[1..]), Ok(Credentials::File(file)) if file.as_os_str() == "f")
        );
        assert!(matches!(
            credentials("--secret s --user ann", &env),
            Ok(Credentials::Signed { .. })
        ));
        assert!(matches!(
            credentials("--user ann", &env[2..]),
            Ok(Credentials::Signed { .. })
        ));
    }

    #[test]
    fn what_is_missing_is_said() {
        let nothing = credentials("", &[]).err().unwrap();
        assert!(nothing.text.contains("no credentials") && nothing.hint.is_some());
        let nobody = credentials("--secret s", &[]).err().unwrap();
        assert!(nobody.text.contains("--user"));
        assert_eq!(nobody.exit, Exit::Usage);
    }

    #[test]
    fn a_signed_token_says_who_it_is_for() {
        let signed = credentials("--secret s --user ann", &[]).unwrap();
        assert_eq!(signed.user().unwrap().as_str(), "ann");
        let room = direct_room(signed.user().as_ref(), "bob").unwrap();
        assert_eq!(room.as_str(), "direct:3:ann:bob");
    }
}
