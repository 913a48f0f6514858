//! The scripts. Each file says which keys and arguments it takes and what it replies.

use std::sync::LazyLock;

use redis::Cmd;

/// What the first number of a reply of `append`, `member` and `delete` means; the same names stand in `scripts/room.lua`.
pub mod answer {
    /// Stored.
    pub const NEW: i64 = 0;
    /// Stored before.
    pub const REPEATED: i64 = 1;
    /// Nothing to change.
    pub const UNCHANGED: i64 = 2;
    /// No such room, and no right to create it.
    pub const NO_ROOM: i64 = 10;
    /// Not a member of this group.
    pub const NOT_A_MEMBER: i64 = 11;
    /// The access does not cover it.
    pub const FORBIDDEN: i64 = 12;
    /// As many members as may be.
    pub const FULL: i64 = 13;
    /// A room of another kind.
    pub const OTHER_KIND: i64 = 14;
}

/// A script and the hash under which redis knows it.
#[derive(Debug)]
pub struct Script {
    code: String,
    hash: String,
}

impl Script {
    fn new(parts: &[&str]) -> Self {
        let code = parts.concat();
        let hash = redis::Script::new(&code).get_hash().to_owned();
        Self { code, hash }
    }

    /// The beginning of a call: keys and arguments are to follow. `keys` is how many of them are keys.
    pub fn call(&self, keys: usize) -> Cmd {
        let mut command = Cmd::with_capacity(64, 1024);
        command.arg("EVALSHA").arg(&self.hash).arg(keys);
        command
    }

    /// Makes redis know it.
    pub(crate) fn load(&self) -> Cmd {
        let mut command = redis::cmd("SCRIPT");
        command.arg("LOAD").arg(&self.code);
        command
    }
}

macro_rules! scripts {
    ($($(#[$doc:meta])* $name:ident = $($file:literal)+;)+) => {
        $(
            $(#[$doc])*
            pub fn $name() -> &'static Script {
                static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(&[$(include_str!($file)),+]));
                &SCRIPT
            }
        )+
    };
}

scripts! {
    /// Stores messages.
    append = "scripts/room.lua" "scripts/append.lua";
    /// Changes a membership.
    member = "scripts/room.lua" "scripts/member.lua";
    /// Creates a room.
    create = "scripts/room.lua" "scripts/create.lua";
    /// Deletes a room.
    delete = "scripts/room.lua" "scripts/delete.lua";
    /// Reads a part of a log.
    log = "scripts/log.lua";
    /// Moves a read position.
    read = "scripts/read.lua";
    /// Lists members.
    members = "scripts/members.lua";
    /// A node lives on.
    beat = "scripts/beat.lua";
    /// Lists nodes.
    nodes = "scripts/nodes.lua";
    /// Notes when a user was seen.
    seen = "scripts/seen.lua";
    /// Changes the list of bans.
    ban = "scripts/ban.lua";
    /// Reads what has changed in it.
    bans = "scripts/bans.lua";
}
