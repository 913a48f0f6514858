//! What a typed line means.

use im_client::RoomId;

/// Shown by `/help`.
pub(crate) const HELP: &[(&str, &str)] = &[
    ("/rooms", "the rooms you hear, with unread messages"),
    ("/join ROOM", "enter a room, or go to it"),
    ("/with USER", "chat with somebody directly"),
    ("/leave [ROOM]", "no longer hear a room (you stay a member)"),
    ("/history [N]", "the N messages before those shown"),
    ("/who", "who is in the room"),
    ("/typing", "say that you are typing"),
    ("/me TEXT", "say what you do"),
    ("//TEXT", "say something that begins with /"),
    ("/quit", "leave (also Ctrl-D)"),
];

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Input {
    Nothing,
    Say(String),
    Emote(String),
    Rooms,
    Join(RoomId),
    With(String),
    Leave(Option<RoomId>),
    History(u32),
    Who,
    Typing,
    Help,
    Quit,
    /// What is wrong with it.
    Wrong(String),
}

impl Input {
    pub(crate) fn parse(line: &str) -> Self {
        let line = line.trim();
        if line.is_empty() {
            return Self::Nothing;
        }
        let Some(command) = line.strip_prefix('/') else {
            return Self::Say(line.to_owned());
        };
        if command.starts_with('/') {
            return Self::Say(command.to_owned());
        }
        let (name, rest) = command
            .split_once(char::is_whitespace)
            .unwrap_or((command, ""));
        let rest = rest.trim();
        match (name, rest) {
            ("me", "") => Self::Wrong("/me needs a text: /me waves".to_owned()),
            ("me", text) => Self::Emote(text.to_owned()),
            ("rooms", "") => Self::Rooms,
            ("join", room) => Self::room(room, Self::Join),
            ("with", "") => Self::Wrong("/with needs a user: /with bob".to_owned()),
            ("with", user) => Self::With(user.trim_start_matches('@').to_owned()),
            ("leave", "") => Self::Leave(None),
            ("leave", room) => Self::room(room, |room| Self::Leave(Some(room))),
            ("history", "") => Self::History(20),
            ("history", count) => match count.parse() {
                Ok(count @ 1..=1000) => Self::History(count),
                _ => Self::Wrong("/history takes a number from 1 to 1000".to_owned()),
            },
            ("who", "") => Self::Who,
            ("typing", "") => Self::Typing,
            ("help" | "?", _) => Self::Help,
            ("quit" | "exit" | "q", "") => Self::Quit,
            ("rooms" | "who" | "typing" | "quit" | "exit" | "q", _) => {
                Self::Wrong(format!("/{name} takes nothing more"))
            }
            _ => Self::Wrong(format!("/{name} is not known: /help shows what is")),
        }
    }

    fn room(name: &str, input: impl FnOnce(RoomId) -> Self) -> Self {
        match RoomId::new(name.strip_prefix('#').unwrap_or(name)) {
            Ok(room) => input(room),
            Err(bad) => Self::Wrong(bad.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_mean_what_help_says() {
        let room = |name: &str| RoomId::new(name).unwrap();
        assert_eq!(
            Input::parse("  hello there "),
            Input::Say("hello there".to_owned())
        );
        assert_eq!(Input::parse("   "), Input::Nothing);
        assert_eq!(
            Input::parse("//etc is full"),
            Input::Say("/etc is full".to_owned())
        );
        assert_eq!(Input::parse("/me  waves"), Input::Emote("waves".to_owned()));
        assert_eq!(
            Input::parse("/join live://1000"),
            Input::Join(room("live://1000"))
        );
        assert_eq!(Input::parse("/join #lobby"), Input::Join(room("lobby")));
        assert_eq!(Input::parse("/with @bob"), Input::With("bob".to_owned()));
        assert_eq!(Input::parse("/leave"), Input::Leave(None));
        assert_eq!(Input::parse("/history"), Input::History(20));
        assert_eq!(Input::parse("/history 5"), Input::History(5));
        assert_eq!(Input::parse("/quit"), Input::Quit);
    }

    #[test]
    fn what_cannot_be_meant_is_explained() {
        for wrong in [
            "/join",
            "/join a b",
            "/with",
            "/me",
            "/history many",
            "/history 0",
            "/shout",
            "/quit now",
            "/leave a b",
        ] {
            assert!(matches!(Input::parse(wrong), Input::Wrong(_)), "{wrong}");
        }
    }

    #[test]
    fn every_command_of_the_help_is_understood() {
        for (command, _) in HELP {
            let line = command
                .replace(" [ROOM]", "")
                .replace(" [N]", "")
                .replace("USER", "bob")
                .replace("ROOM", "lobby");
            assert!(!matches!(Input::parse(&line), Input::Wrong(_)), "{command}");
        }
    }
}
