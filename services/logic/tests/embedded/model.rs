//! Random operations, compared one by one with a model that a reader can check by looking at it.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use im_logic::store::embedded::EmbeddedStore;
use im_logic::store::{
    Create, Delete, Error, History, Kind, Membership, Messages, Retention, Role, Rooms, Slice,
};
use proptest::prelude::*;

use crate::stage::{in_memory, message_of, room, user};

const ROOMS: [&str; 3] = ["open", "group", "late"];
const USERS: [&str; 3] = ["ann", "bob", "eve"];
const KEPT: u64 = 6;

#[derive(Debug, Clone)]
enum Operation {
    Append {
        room: usize,
        user: usize,
        client_id: u8,
        open: bool,
    },
    Create {
        room: usize,
        group: bool,
        members: Vec<usize>,
    },
    Change {
        room: usize,
        user: usize,
        by: usize,
        role: Option<Role>,
        system: bool,
    },
    Read {
        room: usize,
        user: usize,
        seq: u64,
    },
    Delete {
        room: usize,
    },
    Tail {
        room: usize,
        seq: u64,
        limit: usize,
    },
    Page {
        room: usize,
        slice: Slice,
        limit: usize,
    },
}

fn operations() -> impl Strategy<Value = Operation> {
    let (room, user) = (0..ROOMS.len(), 0..USERS.len());
    let role = prop_oneof![
        Just(None),
        Just(Some(Role::Member)),
        Just(Some(Role::Admin)),
        Just(Some(Role::Owner))
    ];
    let slice = prop_oneof![
        (0_u64..25).prop_map(Slice::After),
        (0_u64..25).prop_map(Slice::Before),
        Just(Slice::Latest)
    ];
    prop_oneof![
        6 => (room.clone(), user.clone(), 0_u8..12, any::<bool>())
            .prop_map(|(room, user, client_id, open)| Operation::Append { room, user, client_id, open }),
        1 => (room.clone(), any::<bool>(), proptest::sample::subsequence(vec![0, 1, 2], 0..=3))
            .prop_map(|(room, group, members)| Operation::Create { room, group, members }),
        3 => (room.clone(), user.clone(), user.clone(), role, any::<bool>())
            .prop_map(|(room, user, by, role, system)| Operation::Change { room, user, by, role, system }),
        1 => (room.clone(), user, 0_u64..25).prop_map(|(room, user, seq)| Operation::Read { room, user, seq }),
        1 => room.clone().prop_map(|room| Operation::Delete { room }),
        2 => (room.clone(), 0_u64..25, 1_usize..12).prop_map(|(room, seq, limit)| Operation::Tail { room, seq, limit }),
        2 => (room, slice, 1_usize..12).prop_map(|(room, slice, limit)| Operation::Page { room, slice, limit }),
    ]
}

struct Room {
    group: bool,
    /// What was appended, the first at 1.
    log: Vec<String>,
    members: BTreeMap<usize, (Role, u64)>,
    reads: HashMap<usize, u64>,
    dedupe: HashMap<(usize, u8), u64>,
}

impl Room {
    fn head(&self) -> u64 {
        self.log.len() as u64
    }

    fn first(&self) -> u64 {
        self.head().saturating_sub(KEPT) + 1
    }

    fn part(&self, from: u64, to: u64) -> Vec<(u64, String)> {
        (from.max(self.first())..=to.min(self.head()))
            .map(|seq| (seq, self.log[seq as usize - 1].clone()))
            .collect()
    }
}

/// How a refusal is called in the comparison.
fn name(error: &Error) -> &'static str {
    match error {
        Error::NoSuchRoom(_) => "no such room",
        Error::NotAMember { .. } => "not a member",
        Error::Forbidden { .. } => "forbidden",
        Error::Conflict { .. } => "conflict",
        _ => "something else",
    }
}

#[derive(Default)]
struct Model(HashMap<usize, Room>);

impl Model {
    fn new_room(&mut self, room: usize, group: bool) -> &mut Room {
        let empty = Room {
            group,
            log: Vec::new(),
            members: BTreeMap::new(),
            reads: HashMap::new(),
            dedupe: HashMap::new(),
        };
        self.0.entry(room).or_insert(empty)
    }

    fn append(
        &mut self,
        room: usize,
        user: usize,
        client_id: u8,
        open: bool,
    ) -> Result<(u64, bool), &'static str> {
        if !self.0.contains_key(&room) && !open {
            return Err("no such room");
        }
        let room = self.new_room(room, false);
        match room.group {
            true if !room.members.contains_key(&user) => return Err("not a member"),
            false if !open => return Err("forbidden"),
            _ => {}
        }
        if let Some(seq) = room.dedupe.get(&(user, client_id)) {
            return Ok((*seq, true));
        }
        room.log.push(format!("c{client_id}"));
        let seq = room.head();
        room.dedupe.insert((user, client_id), seq);
        Ok((seq, false))
    }

    fn create(
        &mut self,
        room: usize,
        group: bool,
        members: &[usize],
    ) -> Result<bool, &'static str> {
        let members: BTreeMap<_, _> = members
            .iter()
            .map(|user| (*user, (Role::Owner, 0)))
            .collect();
        if let Some(known) = self.0.get(&room) {
            let same = known
                .members
                .iter()
                .map(|(user, (role, _))| (user, role))
                .eq(members.iter().map(|(user, (role, _))| (user, role)));
            return if known.group == group && (!group || same) {
                Ok(false)
            } else {
                Err("conflict")
            };
        }
        let room = self.new_room(room, group);
        if group {
            room.members = members;
        }
        Ok(true)
    }

    fn change(
        &mut self,
        room: usize,
        user: usize,
        by: usize,
        role: Option<Role>,
        system: bool,
    ) -> Result<Option<u64>, &'static str> {
        let room = self.0.get_mut(&room).ok_or("no such room")?;
        if !room.group {
            return Err("conflict");
        }
        let had = room.members.get(&user).map(|(role, _)| *role);
        if !system {
            let (rank, _) = room.members.get(&by).ok_or("not a member")?;
            let leaves = by == user && role.is_none();
            let owners = had == Some(Role::Owner) || role == Some(Role::Owner);
            if !leaves && (*rank == Role::Member || *rank == Role::Admin && owners) {
                return Err("forbidden");
            }
        }
        if had == role {
            return Ok(None);
        }
        room.log.push(String::new());
        let seq = room.head();
        match role {
            Some(role) => {
                let joined = room.members.get(&user).map_or(seq, |(_, joined)| *joined);
                room.members.insert(user, (role, joined));
            }
            None => {
                room.members.remove(&user);
                room.reads.remove(&user);
            }
        }
        Ok(Some(seq))
    }

    fn read(&mut self, room: usize, user: usize, seq: u64) -> Result<(u64, u64), &'static str> {
        let room = self.0.get_mut(&room).ok_or("no such room")?;
        if room.group && !room.members.contains_key(&user) {
            return Err("not a member");
        }
        let head = room.head();
        let read = room.reads.entry(user).or_insert(0);
        *read = (*read).max(seq.min(head));
        Ok((*read, head))
    }

    /// Head, what is gone, what is there.
    fn tail(&self, room: usize, seq: u64, limit: usize) -> Answer {
        let Some(room) = self.0.get(&room) else {
            return (0, None, Vec::new());
        };
        let after = seq.min(room.head());
        let gone = (after + 1 < room.first()).then(|| (after + 1, room.first() - 1));
        (
            room.head(),
            gone,
            room.part(after + 1, u64::MAX)
                .into_iter()
                .take(limit)
                .collect(),
        )
    }

    fn page(&self, number: usize, slice: Slice, limit: usize) -> Answer {
        let Some(room) = self.0.get(&number) else {
            return (0, None, Vec::new());
        };
        let to = match slice {
            Slice::After(seq) => return self.tail(number, seq, limit),
            Slice::Before(seq) => room.head().min(seq.max(1) - 1),
            Slice::Latest => room.head(),
        };
        let from = (to + 1).saturating_sub(limit as u64).max(1);
        let gone = (from <= to && from < room.first()).then(|| (from, to.min(room.first() - 1)));
        (room.head(), gone, room.part(from, to))
    }
}

type Answer = (u64, Option<(u64, u64)>, Vec<(u64, String)>);

fn parts(entries: Vec<im_proto::v1::LogEntry>) -> Vec<(u64, String)> {
    entries
        .into_iter()
        .map(|one| (one.seq, one.entry.unwrap_or_default().client_id))
        .collect()
}

async fn compare(store: &EmbeddedStore, model: &mut Model, operation: Operation) {
    match operation.clone() {
        Operation::Append {
            room: at,
            user: by,
            client_id,
            open,
        } => {
            let mut append = message_of(USERS[by], ROOMS[at], &format!("c{client_id}"));
            append.access.open = open;
            let done = store
                .append(append)
                .await
                .map(|appended| (appended.seq, appended.duplicate));
            assert_eq!(
                done.map_err(|error| name(&error)),
                model.append(at, by, client_id, open),
                "{operation:?}"
            );
        }
        Operation::Create {
            room: at,
            group,
            members,
        } => {
            let kind = if group { Kind::Group } else { Kind::Open };
            let named = if group {
                members
                    .iter()
                    .map(|by| (user(USERS[*by]), Role::Owner))
                    .collect()
            } else {
                Vec::new()
            };
            let done = store
                .create(Create {
                    room: room(ROOMS[at]),
                    kind,
                    members: named,
                    time_ms: 1,
                })
                .await;
            assert_eq!(
                done.map_err(|error| name(&error)),
                model.create(at, group, &members),
                "{operation:?}"
            );
        }
        Operation::Change {
            room: at,
            user: whom,
            by,
            role,
            system,
        } => {
            let mut append = message_of(USERS[by], ROOMS[at], "c0");
            (append.access.open, append.access.system) = (false, system);
            append.entry.client_id.clear();
            let (access, entry) = (append.access, append.entry);
            let change = Membership {
                room: room(ROOMS[at]),
                user: user(USERS[whom]),
                role,
                access,
                entry,
            };
            let done = store
                .change_membership(change)
                .await
                .map(|appended| appended.map(|appended| appended.seq));
            assert_eq!(
                done.map_err(|error| name(&error)),
                model.change(at, whom, by, role, system),
                "{operation:?}"
            );
        }
        Operation::Read {
            room: at,
            user: by,
            seq,
        } => {
            let done = store
                .mark_read(&room(ROOMS[at]), &user(USERS[by]), seq)
                .await;
            let done = done.map(|position| (position.read, position.head));
            assert_eq!(
                done.map_err(|error| name(&error)),
                model.read(at, by, seq),
                "{operation:?}"
            );
        }
        Operation::Delete { room: at } => {
            let entry = message_of("root", ROOMS[at], "end").entry;
            let done = store
                .delete(Delete {
                    room: room(ROOMS[at]),
                    entry,
                })
                .await;
            let done = done.map(|deleted| (deleted.seq, deleted.members.len()));
            let expected = model
                .0
                .remove(&at)
                .map(|room| (room.head() + 1, room.members.len()));
            assert_eq!(
                done.map_err(|error| name(&error)),
                expected.ok_or("no such room"),
                "{operation:?}"
            );
        }
        Operation::Tail {
            room: at,
            seq,
            limit,
        } => {
            let tail = store
                .tail(&room(ROOMS[at]), 0, seq, limit, usize::MAX)
                .await
                .expect("readable");
            assert_eq!(
                tail.reset_to,
                (seq > tail.head).then_some(tail.head),
                "{operation:?}"
            );
            assert_eq!(
                (tail.head, tail.truncated, parts(tail.entries)),
                model.tail(at, seq, limit),
                "{operation:?}"
            );
        }
        Operation::Page {
            room: at,
            slice,
            limit,
        } => {
            let page = store
                .page(&room(ROOMS[at]), slice, limit)
                .await
                .expect("readable");
            assert_eq!(
                (page.head, page.truncated, parts(page.entries)),
                model.page(at, slice, limit),
                "{operation:?}"
            );
        }
    }
}

async fn compare_views(store: &EmbeddedStore, model: &Model) {
    for (number, name) in USERS.iter().enumerate() {
        let views = store
            .views(&ROOMS.map(room), &user(name))
            .await
            .expect("views");
        for (at, view) in views.into_iter().enumerate() {
            let seen = view.map(|view| (view.head, view.role, view.joined, view.read));
            let expected = model.0.get(&at).map(|room| {
                let member = room.members.get(&number);
                let read = room.reads.get(&number).copied().unwrap_or(0);
                (
                    room.head(),
                    member.map(|(role, _)| *role),
                    member.map_or(0, |(_, joined)| *joined),
                    read,
                )
            });
            assert_eq!(seen, expected, "{name} in {}", ROOMS[at]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn it_does_what_the_model_does(operations in proptest::collection::vec(operations(), 1..120)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let store = in_memory(Retention { max_entries: KEPT, max_age: Duration::ZERO, ..Retention::default() });
            let mut model = Model::default();
            for operation in operations {
                compare(&store, &mut model, operation).await;
            }
            compare_views(&store, &model).await;
        });
    }
}
