//! The list of bans, as every process of a cluster keeps it: looked up with each connection and request, brought up to
//! date by differences. No clock: whoever asks says what time it is.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard};

use ipnet::IpNet;

use crate::v1::{AskBans, Ban, BanChanges, LiftedBan};

/// Changes in one answer at most.
pub const PAGE: usize = 1_000;
/// Lifted bans that are remembered; whoever has not heard of one that is forgotten gets the whole list.
pub const REMEMBERED: usize = 1_000;

/// What a ban is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A user, with whatever device.
    User,
    /// One device of one user.
    UserDevice,
    /// Whoever's token carries this device.
    Device,
    /// Where somebody comes from.
    Address,
    /// The tokens that a user had before a moment: a revocation.
    Tokens,
}

impl Kind {
    const COUNT: usize = 5;

    /// The name in metrics and in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::UserDevice => "user_device",
            Self::Device => "device",
            Self::Address => "address",
            Self::Tokens => "tokens",
        }
    }
}

/// Who asks to be let in.
#[derive(Debug, Clone, Copy, Default)]
pub struct Who<'a> {
    /// The user; empty: not known yet.
    pub user: &'a str,
    /// The user's device; empty: none.
    pub device: &'a str,
    /// The token does not carry it: the client may have called itself so.
    pub device_unproven: bool,
    /// When the token was issued, unix milliseconds; 0: it does not say.
    pub issued_ms: u64,
    /// Where from; `None`: not to be looked at.
    pub address: Option<IpAddr>,
}

/// What a ban is about, and under which id it stands; `None`: about nothing.
pub fn subject(ban: &Ban) -> Option<(Kind, String)> {
    let user = ban.user.as_str();
    let device = ban.device.as_str();
    let mut id = String::new();
    let kind = match (user, device, ban.address.as_str()) {
        ("", "", "") => return None,
        ("", "", address) => {
            let net: IpNet = address.parse().ok()?;
            name(&mut id, Kind::Address, &net.trunc(), "");
            Kind::Address
        }
        (user, "", "") if ban.issued_before_ms > 0 => name(&mut id, Kind::Tokens, &user, ""),
        (user, "", "") => name(&mut id, Kind::User, &user, ""),
        ("", device, "") => name(&mut id, Kind::Device, &device, ""),
        (user, device, "") => name(&mut id, Kind::UserDevice, &user, device),
        _ => return None,
    };
    Some((kind, id))
}

/// Writes an id. Neither users nor devices have white space in them.
fn name(id: &mut String, kind: Kind, what: &dyn std::fmt::Display, device: &str) -> Kind {
    id.clear();
    // A String takes whatever is written.
    let _ = match kind {
        Kind::User => write!(id, "user:{what}"),
        Kind::UserDevice => write!(id, "user:{what} device:{device}"),
        Kind::Device => write!(id, "device:{what}"),
        Kind::Address => write!(id, "address:{what}"),
        Kind::Tokens => write!(id, "tokens:{what}"),
    };
    kind
}

/// The list at some version.
#[derive(Debug, Clone, Default)]
pub struct Book {
    version: u64,
    /// Whoever knows less than this may not know of a ban that was lifted.
    floor: u64,
    bans: HashMap<String, Ban>,
    order: BTreeMap<u64, String>,
    lifted: BTreeMap<u64, String>,
    counts: [usize; Kind::COUNT],
    /// How many there are of each length of prefix, IPv4 and IPv6.
    v4: BTreeMap<u8, usize>,
    v6: BTreeMap<u8, usize>,
}

impl Book {
    /// What was written down, as after a restart.
    pub fn restored(version: u64, bans: impl IntoIterator<Item = Ban>) -> Self {
        let mut book = Self {
            version,
            floor: version,
            ..Self::default()
        };
        bans.into_iter().for_each(|ban| book.put(ban));
        book
    }

    /// The list's version; 0: nothing has ever been in it.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// How many there are, those that are over and still noted included.
    pub fn len(&self) -> usize {
        self.bans.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.bans.is_empty()
    }

    /// How many there are of a kind.
    pub fn count(&self, kind: Kind) -> usize {
        self.counts[kind as usize]
    }

    /// The ban of this id.
    pub fn get(&self, id: &str) -> Option<&Ban> {
        self.bans.get(id)
    }

    /// Those made after a version, in order.
    pub fn after(&self, version: u64) -> impl Iterator<Item = &Ban> {
        self.order
            .range(version.saturating_add(1)..)
            .filter_map(|(_, id)| self.bans.get(id))
    }

    /// Notes a ban, in the place of one about the same. One that is about nothing is passed over.
    pub fn put(&mut self, ban: Ban) {
        let Some((kind, id)) = subject(&ban) else {
            return;
        };
        self.take(&id);
        self.version = self.version.max(ban.version);
        self.counts[kind as usize] += 1;
        if let Some((lengths, length)) = self.lengths(&ban) {
            *lengths.entry(length).or_default() += 1;
        }
        self.order.insert(ban.version, id.clone());
        self.bans.insert(id, ban);
    }

    /// Lifts a ban, as the change of this version. Whether there was one.
    pub fn lift(&mut self, id: &str, version: u64) -> bool {
        let was = self.take(id);
        if was {
            self.version = self.version.max(version);
            self.lifted.insert(version, id.to_owned());
            while self.lifted.len() > REMEMBERED
                && let Some((forgotten, _)) = self.lifted.pop_first()
            {
                self.floor = forgotten;
            }
        }
        was
    }

    fn take(&mut self, id: &str) -> bool {
        let Some(ban) = self.bans.remove(id) else {
            return false;
        };
        self.order.remove(&ban.version);
        if let Some((kind, _)) = subject(&ban) {
            self.counts[kind as usize] -= 1;
        }
        if let Some((lengths, length)) = self.lengths(&ban)
            && let Some(count) = lengths.get_mut(&length)
        {
            *count -= 1;
            if *count == 0 {
                lengths.remove(&length);
            }
        }
        true
    }

    fn lengths(&mut self, ban: &Ban) -> Option<(&mut BTreeMap<u8, usize>, u8)> {
        if ban.address.is_empty() {
            return None;
        }
        let net: IpNet = ban.address.parse().ok()?;
        Some((
            if net.addr().is_ipv4() {
                &mut self.v4
            } else {
                &mut self.v6
            },
            net.prefix_len(),
        ))
    }

    /// From where on changes are to be asked for.
    pub fn known(&self) -> AskBans {
        AskBans {
            since: self.version,
            began: self.floor,
        }
    }

    /// What has changed after a version, [`PAGE`] changes at most.
    pub fn since(&self, ask: &AskBans) -> BanChanges {
        let AskBans { since, began } = *ask;
        let knows = since.max(began);
        let reset = knows > 0 && knows < self.floor || since > self.version;
        let since = if reset { 0 } else { since };
        let mut changes = BanChanges {
            version: self.version,
            upto: self.version,
            reset,
            ..BanChanges::default()
        };
        let mut made = self.order.range(since.saturating_add(1)..).peekable();
        // Whoever knows nothing need not hear of what is no more.
        let first = if since == 0 {
            u64::MAX
        } else {
            since.saturating_add(1)
        };
        let mut lifted = self.lifted.range(first..).peekable();
        for _ in 0..PAGE {
            let next_made = made.peek().map(|(version, _)| **version);
            let next_lifted = lifted.peek().map(|(version, _)| **version);
            match (next_made, next_lifted) {
                (None, None) => {
                    changes.upto = self.version;
                    return changes;
                }
                (Some(version), other) if other.is_none_or(|other| version < other) => {
                    changes.upto = version;
                    changes
                        .bans
                        .extend(made.next().and_then(|(_, id)| self.bans.get(id)).cloned());
                }
                (_, Some(version)) => {
                    changes.upto = version;
                    changes
                        .lifted
                        .extend(lifted.next().map(|(_, id)| LiftedBan {
                            id: id.clone(),
                            version,
                        }));
                }
                (Some(_), None) => return changes,
            }
        }
        if made.peek().is_none() && lifted.peek().is_none() {
            changes.upto = self.version;
        }
        changes
    }

    /// Takes what another process or the store has said. Whether there is more to ask for.
    pub fn apply(&mut self, changes: BanChanges) -> bool {
        let BanChanges {
            version,
            upto,
            reset,
            bans,
            lifted,
        } = changes;
        if reset {
            *self = Self {
                floor: version,
                ..Self::default()
            };
        }
        if self.version == 0 {
            self.floor = self.floor.max(version);
        }
        // One id is in at most one of the two: what was lifted and made again is made.
        for LiftedBan { id, version } in lifted {
            self.lift(&id, version);
        }
        bans.into_iter().for_each(|ban| self.put(ban));
        self.version = upto;
        upto != version
    }

    /// What refuses somebody at this time (unix milliseconds).
    pub fn refuses(&self, who: &Who<'_>, now_ms: u64) -> Option<(Kind, &Ban)> {
        if self.bans.is_empty() {
            return None;
        }
        let mut id = String::with_capacity(64);
        let mut find = |kind: Kind, what: &dyn std::fmt::Display, device: &str| {
            if self.count(kind) == 0 {
                return None;
            }
            name(&mut id, kind, what, device);
            let ban = self.bans.get(id.as_str())?;
            (ban.until_ms == 0 || now_ms < ban.until_ms).then_some((kind, ban))
        };
        if !who.user.is_empty() {
            let mut found = find(Kind::User, &who.user, "");
            if !who.device.is_empty() {
                found = found.or_else(|| find(Kind::UserDevice, &who.user, who.device));
            }
            if !who.device_unproven && !who.device.is_empty() {
                found = found.or_else(|| find(Kind::Device, &who.device, ""));
            }
            let revoked = |(_, ban): &(Kind, &Ban)| who.issued_ms < ban.issued_before_ms;
            found = found.or_else(|| find(Kind::Tokens, &who.user, "").filter(revoked));
            if found.is_some() {
                return found;
            }
        }
        let address = who.address?;
        let lengths = if address.is_ipv4() {
            &self.v4
        } else {
            &self.v6
        };
        lengths.keys().find_map(|length| {
            let net = IpNet::new(address, *length).ok()?;
            find(Kind::Address, &net.trunc(), "")
        })
    }
}

/// The list of one process. Read by every connection and request, changed by one task; cheap while there is no ban.
#[derive(Debug, Default)]
pub struct Bans {
    any: AtomicBool,
    book: RwLock<Book>,
    /// A whole list on its way, page by page: until it is complete the one before is in force.
    coming: Mutex<Option<Book>>,
}

impl Bans {
    /// To look around in.
    pub fn read(&self) -> RwLockReadGuard<'_, Book> {
        self.book.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// From where on changes are to be asked for.
    pub fn known(&self) -> AskBans {
        let coming = self.coming.lock().unwrap_or_else(PoisonError::into_inner);
        coming
            .as_ref()
            .map_or_else(|| self.read().known(), Book::known)
    }

    /// Takes the answer to a question for what came after [`Self::known`].
    pub fn apply(&self, changes: BanChanges) -> Applied {
        let mut coming = self.coming.lock().unwrap_or_else(PoisonError::into_inner);
        if changes.reset {
            *coming = Some(Book::default());
        }
        let Some(mut book) = coming.take() else {
            let before = self.read().version();
            let more = self.change(|book| book.apply(changes));
            return if more {
                Applied::More
            } else {
                Applied::All {
                    changed: self.read().version() != before,
                }
            };
        };
        if book.apply(changes) {
            *coming = Some(book);
            return Applied::More;
        }
        self.change(|old| *old = book);
        Applied::All { changed: true }
    }

    /// Changes the list.
    pub fn change<T>(&self, change: impl FnOnce(&mut Book) -> T) -> T {
        let mut book = self.book.write().unwrap_or_else(PoisonError::into_inner);
        let changed = change(&mut book);
        self.any.store(!book.is_empty(), Ordering::Release);
        changed
    }

    /// Whether there is a ban at all.
    pub fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// What refuses somebody at this time (unix milliseconds).
    pub fn refuses(&self, who: &Who<'_>, now_ms: impl FnOnce() -> u64) -> Option<(Kind, Ban)> {
        if !self.any() {
            return None;
        }
        self.read()
            .refuses(who, now_ms())
            .map(|(kind, ban)| (kind, ban.clone()))
    }
}

/// What became of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// There is more to ask for.
    More,
    /// The list is as whoever was asked has it.
    All {
        /// Another one than before the last answer.
        changed: bool,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ban(version: u64, user: &str, device: &str, address: &str) -> Ban {
        let text = str::to_owned;
        let ban = Ban {
            version,
            user: text(user),
            device: text(device),
            address: text(address),
            ..Ban::default()
        };
        Ban {
            id: subject(&ban).expect("about something").1,
            ..ban
        }
    }

    fn revoked(version: u64, user: &str, issued_before_ms: u64) -> Ban {
        let ban = Ban {
            issued_before_ms,
            ..ban(version, user, "", "")
        };
        Ban {
            id: subject(&ban).expect("about something").1,
            ..ban
        }
    }

    fn book(bans: impl IntoIterator<Item = Ban>) -> Book {
        let mut book = Book::default();
        bans.into_iter().for_each(|ban| book.put(ban));
        book
    }

    fn who<'a>(user: &'a str, device: &'a str, address: &str) -> Who<'a> {
        let address = (!address.is_empty()).then(|| address.parse().expect("an address"));
        Who {
            user,
            device,
            device_unproven: true,
            issued_ms: 1_000,
            address,
        }
    }

    fn kind(book: &Book, who: &Who<'_>) -> Option<Kind> {
        book.refuses(who, 500).map(|(kind, _)| kind)
    }

    #[test]
    fn each_kind_of_ban_refuses_those_it_is_about_and_no_others() {
        let book = book([
            ban(1, "ann", "", ""),
            ban(2, "bob", "phone", ""),
            ban(3, "", "stolen", ""),
            ban(4, "", "", "192.0.2.0/24"),
            ban(5, "", "", "2001:db8::/32"),
            ban(6, "", "", "198.51.100.7/32"),
            revoked(7, "cat", 1_001),
            revoked(8, "dan", 1_000),
        ]);
        let signed = Who {
            device_unproven: false,
            ..who("eve", "stolen", "")
        };
        for (who, expected) in [
            (who("ann", "any", ""), Some(Kind::User)),
            (who("anna", "any", ""), None),
            (who("bob", "phone", ""), Some(Kind::UserDevice)),
            (who("bob", "laptop", ""), None),
            (who("eve", "phone", ""), None),
            (signed, Some(Kind::Device)),
            (who("eve", "stolen", ""), None),
            (who("eve", "", "192.0.2.200"), Some(Kind::Address)),
            (who("eve", "", "192.0.3.1"), None),
            (who("", "", "2001:db8:1::1"), Some(Kind::Address)),
            (who("", "", "2001:db9::1"), None),
            (who("", "", "198.51.100.7"), Some(Kind::Address)),
            (who("", "", "198.51.100.8"), None),
            (who("cat", "", ""), Some(Kind::Tokens)),
            (
                Who {
                    issued_ms: 1_001,
                    ..who("cat", "", "")
                },
                None,
            ),
            (who("dan", "", ""), None),
            (
                Who {
                    issued_ms: 0,
                    ..who("dan", "", "")
                },
                Some(Kind::Tokens),
            ),
        ] {
            assert_eq!(kind(&book, &who), expected, "{who:?}");
        }
    }

    #[test]
    fn a_ban_ends_by_itself() {
        let book = book([Ban {
            until_ms: 500,
            ..ban(1, "ann", "", "")
        }]);
        assert!(book.refuses(&who("ann", "", ""), 499).is_some());
        assert!(book.refuses(&who("ann", "", ""), 500).is_none());
    }

    #[test]
    fn a_second_ban_about_the_same_takes_the_firsts_place() {
        let mut book = book([
            ban(1, "", "", "10.1.2.3/8"),
            Ban {
                reason: "again".into(),
                ..ban(2, "", "", "10.9.9.9/8")
            },
        ]);
        assert_eq!(
            (
                book.len(),
                book.get("address:10.0.0.0/8")
                    .map(|ban| ban.reason.as_str())
            ),
            (1, Some("again"))
        );
        assert!(book.lift("address:10.0.0.0/8", 3) && !book.lift("address:10.0.0.0/8", 4));
        assert!(
            kind(&book, &who("", "", "10.0.0.1")).is_none()
                && book.v4.is_empty()
                && book.is_empty()
        );
    }

    /// Brings a copy up to date; how many answers it took.
    fn follow(copy: &mut Book, of: &Book) -> usize {
        let mut answers = 1;
        while copy.apply(of.since(&copy.known())) {
            answers += 1;
            assert!(answers < 100, "it has an end");
        }
        answers
    }

    fn same(one: &Book, other: &Book) -> bool {
        one.version == other.version
            && one.bans == other.bans
            && one.v4 == other.v4
            && one.counts == other.counts
    }

    #[test]
    fn a_copy_follows_by_differences_whatever_it_has_missed() {
        let mut book = Book::default();
        let mut close = Book::default();
        let mut far = Book::default();
        let mut of_far = Book::default();
        let mut version = 0;
        for round in 0..40_u64 {
            for number in 0..100 {
                version += 3;
                let user = format!("u{}", (round * 37 + number) % 700);
                if (round + number) % 3 == 0 {
                    book.lift(&format!("user:{user}"), version);
                } else {
                    book.put(ban(version, &user, "", ""));
                }
            }
            book.put(ban(version + 1, "", "", &format!("10.{round}.0.0/16")));
            assert_eq!(
                follow(&mut close, &book),
                1,
                "few changes fit into one answer"
            );
            assert!(same(&close, &book));
            if round % 13 == 0 {
                follow(&mut far, &book);
                assert!(
                    same(&far, &book),
                    "also by the whole list, where too much was lifted meanwhile"
                );
            }
            follow(&mut of_far, &far);
            assert!(same(&of_far, &far), "a copy of a copy");
        }
        // More than one answer, from nothing.
        book = Book::restored(
            5_000,
            (0..2_500).map(|number| ban(number + 1, &format!("u{number}"), "", "")),
        );
        let mut new = Book::default();
        assert_eq!(follow(&mut new, &book), 3);
        assert!(same(&new, &book));
    }

    #[test]
    fn a_list_that_has_gone_back_is_taken_as_it_is() {
        let older = book([ban(1, "ann", "", "")]);
        let mut copy = book([ban(1, "ann", "", ""), ban(2, "bob", "", "")]);
        follow(&mut copy, &older);
        assert!(same(&copy, &older));
        follow(&mut copy, &Book::default());
        assert!(copy.is_empty());
    }
}
