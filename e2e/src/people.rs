//! People with several rooms each, whose clients follow all of them: they join groups, leave them, are removed and thrown
//! out or banned for a while, and begin direct rooms, while things break. What was answered is the model that presence and every client's list of
//! rooms are held against in the end.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use futures::future::join_all;
use hyper::Method;
use im_client::{Client, End, Event, Events, Outgoing};
use im_wire::code::{CloseCode, ErrorCode};
use im_wire::ids::{RoomId, Seq, UserId};
use rand::RngExt;
use serde_json::{Value, json};
use tokio::sync::{RwLock, RwLockWriteGuard};
use tokio_util::sync::CancellationToken;

use crate::cluster::Apis;
use crate::process::until;
use crate::token::Signer;

/// Changes are made by so many at once, each in groups of its own.
const WORKERS: usize = 4;
/// Between two changes of one worker.
const PAUSE: Duration = Duration::from_millis(400);
/// How long a change is tried. Longer than any fault of the test lasts.
const PATIENCE: Duration = Duration::from_secs(420);
/// Nobody is banned here who asks for something: a process that cannot reach the store goes by the last list of bans that it
/// had, for longer than the store is away in any fault.
const LIFTED_WITHIN: Duration = Duration::from_secs(60);
/// How many users one question for presence may name.
const ASKED: usize = 100;
/// So much of what a client was told of a room is remembered.
const REMEMBERED: usize = 12;
/// How many findings are told in words.
const TOLD: usize = 12;

/// Somebody, on one device.
struct Person {
    user: UserId,
    client: Mutex<Client>,
    notes: Arc<Mutex<Notes>>,
    /// Held by a change of this person.
    turn: tokio::sync::Mutex<()>,
    /// Does not come back before the ban is lifted.
    is_banned: AtomicBool,
}

/// What a client has told.
#[derive(Debug, Default)]
struct Notes {
    /// The rooms that it hears, and how far it has heard each.
    rooms: HashMap<RoomId, Seq>,
    /// Why it gave up, where it did.
    ended: Option<End>,
    /// What it was told of each room last, for findings.
    told: HashMap<RoomId, VecDeque<String>>,
}

/// Everybody who has just come back has been told of all their rooms within this.
const TOLD_WITHIN: Duration = Duration::from_secs(5);

/// What is so, as far as it was answered.
#[derive(Debug, Clone, Default)]
struct Model {
    /// By group: who is in it.
    groups: HashMap<RoomId, BTreeSet<usize>>,
    /// Direct rooms in which something was acknowledged.
    direct: HashMap<RoomId, (usize, usize)>,
    /// Rooms of which it was not answered whether they exist.
    unsure: HashSet<RoomId>,
}

/// What may happen to somebody.
#[derive(Debug, Clone, Copy)]
enum Change {
    Join,
    Leave,
    Remove,
    ThrowOut,
    Ban,
    BeginDirect,
}

/// The people.
pub struct People {
    persons: Vec<Person>,
    groups: Vec<RoomId>,
    model: Mutex<Model>,
    /// What was so when the store was copied.
    copy: Mutex<Model>,
    next_pair: AtomicUsize,
    changes: AtomicUsize,
    /// Held by each change; whoever takes it alone has none under way.
    under_way: RwLock<()>,
    addresses: Vec<String>,
    apis: Apis,
    signer: Signer,
    admin: String,
}

/// What is not as it should be, in words; the first few, and how many there are.
#[derive(Debug, Default, serde::Serialize)]
pub struct Findings {
    /// Of presence.
    pub presence: usize,
    /// Of lists of rooms and of what is heard in them.
    pub rooms: usize,
    /// The first few.
    pub examples: Vec<String>,
}

impl Findings {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.presence + self.rooms == 0
    }

    fn add(&mut self, of_presence: bool, text: String) {
        *(if of_presence { &mut self.presence } else { &mut self.rooms }) += 1;
        if self.examples.len() < TOLD {
            self.examples.push(text);
        }
    }
}

impl People {
    /// Connects everybody and makes the groups, whose owner is the first person.
    pub async fn gather(
        persons: usize,
        groups: usize,
        addresses: &[String],
        apis: Apis,
        signer: &Signer,
    ) -> Result<Self> {
        let run: u32 = rand::rng().random();
        let user = |number| UserId::new(format!("p{run:08x}-{number}"));
        let users: Vec<UserId> = (0..persons).map(user).collect::<Result<_, _>>()?;
        let admin = signer.token("registrar", "admin", &["*"])?;
        let people = Self {
            persons: users.into_iter().map(|user| enter(user, addresses, signer)).collect::<Result<_>>()?,
            groups: (0..groups).map(|number| RoomId::new(format!("p{run:08x}-g{number}"))).collect::<Result<_, _>>()?,
            model: Mutex::default(),
            copy: Mutex::default(),
            next_pair: AtomicUsize::new(0),
            changes: AtomicUsize::new(0),
            under_way: RwLock::new(()),
            addresses: addresses.to_vec(),
            apis,
            signer: signer.clone(),
            admin,
        };
        people.connected().await?;
        people.found().await?;
        Ok(people)
    }

    async fn connected(&self) -> Result<()> {
        let until = Instant::now() + Duration::from_secs(60);
        for person in &self.persons {
            loop {
                let client = person.client();
                let left = until.saturating_duration_since(Instant::now());
                let connected = tokio::time::timeout(left, client.connected()).await;
                let told = || format!("{} does not get in: {:?}", person.user, client.state());
                match connected.with_context(told)? {
                    Ok(()) => break,
                    // A node may have heard of the end of a ban a second after the client came back.
                    Err(end) if Instant::now() > until => return Err(end).with_context(told),
                    Err(_) => self.return_who_was_thrown_out()?,
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
        Ok(())
    }

    /// Makes the groups.
    async fn found(&self) -> Result<()> {
        for group in &self.groups {
            let members = json!([{"user": self.persons[0].user.as_str(), "role": "owner"}]);
            let body = json!({"kind": "group", "id": group.as_str(), "members": members});
            self.insist(Method::POST, "/v1/rooms", &self.admin, &body).await?;
            lock(&self.model).groups.insert(group.clone(), BTreeSet::from([0]));
        }
        Ok(())
    }

    /// How many changes were made so far.
    pub fn changes(&self) -> usize {
        self.changes.load(Ordering::Relaxed)
    }

    /// Changes one thing after the other until `stop`, then waits until each is answered.
    pub async fn live(&self, stop: &CancellationToken) -> Result<()> {
        let workers = (0..WORKERS).map(async |worker| {
            let own: Vec<&RoomId> = self.groups.iter().skip(worker).step_by(WORKERS).collect();
            while !stop.is_cancelled() {
                let under_way = self.under_way.read().await;
                self.change(&own).await?;
                drop(under_way);
                self.return_who_was_thrown_out()?;
                tokio::select! {
                    () = tokio::time::sleep(PAUSE) => {}
                    () = stop.cancelled() => {}
                }
            }
            Ok(())
        });
        join_all(workers).await.into_iter().collect::<Result<()>>()?;
        self.return_who_was_thrown_out()
    }

    async fn change(&self, groups: &[&RoomId]) -> Result<()> {
        let (change, group, who) = {
            let mut random = rand::rng();
            let who = random.random_range(1..self.persons.len());
            let group = groups.get(random.random_range(0..groups.len().max(1))).copied();
            let is_member = group.is_some_and(|group| lock(&self.model).groups[group].contains(&who));
            let change = match random.random_range(0..10) {
                0 => Change::ThrowOut,
                1 => Change::Ban,
                2 | 3 => Change::BeginDirect,
                _ if !is_member => Change::Join,
                _ if random.random() => Change::Leave,
                _ => Change::Remove,
            };
            (change, group, who)
        };
        let _turn = self.persons[who].turn.lock().await;
        let user = self.persons[who].user.as_str();
        match (change, group) {
            (Change::BeginDirect, _) => self.begin_direct().await,
            (Change::Ban, _) => self.ban(&self.persons[who]).await,
            (Change::ThrowOut, _) => {
                self.insist(Method::POST, "/v1/kick", &self.admin, &json!({"user": user})).await.map(drop)
            }
            (_, None) => Ok(()),
            (Change::Join, Some(group)) => {
                let path = format!("/v1/rooms/{group}/members");
                self.insist(Method::POST, &path, &self.admin, &json!({"user": user})).await?;
                self.noted(group, |members| members.insert(who));
                Ok(())
            }
            (Change::Leave, Some(group)) => {
                let token = self.signer.token(user, "", &[])?;
                let left = self.insist(Method::POST, &format!("/v1/rooms/{group}/leave"), &token, &json!({})).await;
                match left {
                    // Done by a try whose answer was lost.
                    Err(error) if error.to_string().contains("not_a_member") => {}
                    left => drop(left?),
                }
                self.noted(group, |members| members.remove(&who));
                Ok(())
            }
            (Change::Remove, Some(group)) => {
                let path = format!("/v1/rooms/{group}/members/{user}");
                self.insist(Method::DELETE, &path, &self.admin, &json!({})).await?;
                self.noted(group, |members| members.remove(&who));
                Ok(())
            }
        }
    }

    /// Bans somebody until the client has felt it. A ban finds whoever is there or comes back, whatever is broken meanwhile.
    async fn ban(&self, person: &Person) -> Result<()> {
        person.is_banned.store(true, Ordering::SeqCst);
        let ban = json!({"user": person.user.as_str(), "reason": "a test"});
        let made = self.insist(Method::POST, "/v1/bans", &self.admin, &ban).await?;
        let id = made["id"].as_str().with_context(|| format!("no id in {made}"))?;
        let felt = || lock(&person.notes).ended.as_ref().is_some_and(is_ban);
        let patience = PATIENCE.saturating_sub(Duration::from_secs(60));
        until("who is banned is sent away", patience, async || felt().then_some(())).await?;
        self.insist(Method::DELETE, &format!("/v1/bans/{id}"), &self.admin, &json!({})).await?;
        person.is_banned.store(false, Ordering::SeqCst);
        self.changes.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn noted(&self, group: &RoomId, change: impl FnOnce(&mut BTreeSet<usize>) -> bool) {
        self.changes.fetch_add(1, Ordering::Relaxed);
        lock(&self.model).groups.get_mut(group).map(change);
    }

    /// Two who have not talked yet begin to. Once all have, nothing happens.
    async fn begin_direct(&self) -> Result<()> {
        let number = self.next_pair.fetch_add(1, Ordering::Relaxed);
        let mut pairs = (0..self.persons.len()).flat_map(|one| (0..one).map(move |other| (one, other)));
        let Some((one, other)) = pairs.nth(number) else { return Ok(()) };
        let room = RoomId::direct(&self.persons[one].user, &self.persons[other].user)?;
        let client = self.persons[one].client();
        let said = client.send(Outgoing::text(room.clone(), "hello").deadline(PATIENCE)).await;
        let mut model = lock(&self.model);
        match said {
            Ok(_) => _ = model.direct.insert(room, (one, other)),
            Err(error) => {
                // Thrown out before it was answered.
                tracing::debug!(%room, %error, "it is not known whether a direct room has begun");
                model.unsure.insert(room);
            }
        }
        self.changes.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Whoever was thrown out, or is banned no more, comes back. Whoever gave up for another reason is a finding.
    fn return_who_was_thrown_out(&self) -> Result<()> {
        for person in &self.persons {
            let mut client = lock(&person.client);
            let Some(ended) = lock(&person.notes).ended.clone() else { continue };
            match ended {
                end if is_ban(&end) && person.is_banned.load(Ordering::SeqCst) => continue,
                end if is_ban(&end) => {}
                End::ByServer { code: CloseCode::Kicked, .. } => {}
                end => bail!("{} gave up: {end}", person.user),
            }
            *client = connect(&person.user, &self.addresses, &self.signer, &person.notes)?;
        }
        Ok(())
    }

    /// The store has lost everything: so has the model, and the groups are made again.
    pub async fn forget_rooms(&self) -> Result<()> {
        *lock(&self.model) = Model::default();
        self.found().await
    }

    /// Waits until every change is answered. None is made until what is returned is dropped.
    pub async fn quiet(&self) -> RwLockWriteGuard<'_, ()> {
        self.under_way.write().await
    }

    /// The store is copied.
    pub fn remember_rooms(&self) {
        lock(&self.copy).clone_from(&lock(&self.model));
    }

    /// The copy is put back.
    pub fn recall_rooms(&self) {
        lock(&self.model).clone_from(&lock(&self.copy));
    }

    /// What of presence and of rooms is not as it was answered. Nothing may be going on meanwhile but what `crowd` hears.
    pub async fn findings(&self, crowd: &[String]) -> Result<Findings> {
        self.connected().await?;
        let mut findings = Findings::default();
        self.compare_presence(crowd, &mut findings).await?;
        self.compare_rooms(&mut findings).await?;
        Ok(findings)
    }

    /// Everybody is there once, on the one device that they have.
    async fn compare_presence(&self, crowd: &[String], findings: &mut Findings) -> Result<()> {
        let persons = self.persons.iter().map(|person| person.user.as_str());
        let everybody: Vec<&str> = crowd.iter().map(String::as_str).chain(persons).collect();
        for users in everybody.chunks(ASKED) {
            let path = format!("/v1/presence?users={}", users.join(","));
            let answer = self.insist(Method::GET, &path, &self.admin, &json!({})).await?;
            let told = answer["users"].as_array().context("a list of users")?;
            ensure!(told.len() == users.len(), "{} of {} users are told of", told.len(), users.len());
            for one in told {
                let connections = one["connections"].as_array().map_or(0, Vec::len);
                if one["online"] != true || connections != 1 {
                    findings.add(true, format!("presence: one connection is open, and it is told: {one}"));
                }
            }
        }
        Ok(())
    }

    /// Everybody's client hears the rooms that its user is in, and no other.
    async fn compare_rooms(&self, findings: &mut Findings) -> Result<()> {
        let (mut wanted, unsure) = {
            let model = lock(&self.model);
            let mut wanted: Vec<BTreeSet<RoomId>> = vec![BTreeSet::new(); self.persons.len()];
            for (group, members) in &model.groups {
                members.iter().for_each(|member| _ = wanted[*member].insert(group.clone()));
            }
            for (room, (one, other)) in &model.direct {
                wanted[*one].insert(room.clone());
                wanted[*other].insert(room.clone());
            }
            (wanted, model.unsure.clone())
        };
        // Whoever was sent away and is back a moment ago is being told of the rooms.
        let until = Instant::now() + TOLD_WITHIN;
        for (person, wanted) in self.persons.iter().zip(&mut wanted) {
            wanted.retain(|room| !unsure.contains(room));
            let heard =
                || -> BTreeSet<RoomId> { person.places().into_keys().filter(|room| !unsure.contains(room)).collect() };
            while !wanted.is_subset(&heard()) && Instant::now() < until {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            let heard = heard();
            for room in wanted.difference(&heard) {
                let told = person.told(room);
                findings.add(false, format!("{} is in {room} and its client does not hear it: {told}", person.user));
            }
            // One's own direct rooms may be heard before anything is said there, or again after that was taken back.
            for room in heard.difference(wanted).filter(|room| !room.is_direct()) {
                let told = person.told(room);
                findings.add(false, format!("{} is not in {room} and its client hears it: {told}", person.user));
            }
        }
        self.say_everywhere(&wanted, findings).await
    }

    /// What is said in a room now reaches everybody in it.
    async fn say_everywhere(&self, wanted: &[BTreeSet<RoomId>], findings: &mut Findings) -> Result<()> {
        let mut heads: HashMap<&RoomId, Seq> = HashMap::new();
        for room in wanted.iter().flatten() {
            if heads.contains_key(room) {
                continue;
            }
            let path = format!("/v1/rooms/{room}/messages");
            let said = self.insist(Method::POST, &path, &self.admin, &json!({"body": "is everybody here?"})).await?;
            heads.insert(room, said["seq"].as_u64().context("a seq")?);
        }
        let until = Instant::now() + Duration::from_secs(10);
        for (person, rooms) in self.persons.iter().zip(wanted) {
            let deaf = || {
                let places = person.places();
                rooms.iter().find(|room| places.get(*room).is_none_or(|seq| *seq < heads[*room])).cloned()
            };
            while deaf().is_some() && Instant::now() < until {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            if let Some(room) = deaf() {
                findings.add(false, format!("{} does not hear what is said in {room}", person.user));
            }
        }
        Ok(())
    }

    /// A request to the HTTP API, again and again until it is answered, wherever that is.
    async fn insist(&self, method: Method, path: &str, token: &str, body: &Value) -> Result<Value> {
        let body = if method == Method::GET { Bytes::new() } else { Bytes::from(body.to_string()) };
        let begun = Instant::now();
        loop {
            for address in self.apis.all() {
                match crate::http::call(method.clone(), &address, path, Some(token), body.clone()).await {
                    Ok((200 | 201, answer)) => return Ok(serde_json::from_str(&answer)?),
                    // Later, or elsewhere.
                    Ok((429 | 500..=599, _)) | Err(_) => {}
                    Ok((403, answer)) if answer.contains("\"banned\"") && begun.elapsed() < LIFTED_WITHIN => {}
                    Ok((status, answer)) => bail!("{method} {path}: {status}: {answer}"),
                }
            }
            ensure!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {method} {path}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

impl Person {
    fn client(&self) -> Client {
        lock(&self.client).clone()
    }

    /// What its client was told of a room last.
    fn told(&self, room: &RoomId) -> String {
        let notes = lock(&self.notes);
        notes.told.get(room).map(|told| told.iter().cloned().collect::<Vec<_>>().join(", ")).unwrap_or_default()
    }

    /// How far each room was heard.
    fn places(&self) -> HashMap<RoomId, Seq> {
        lock(&self.notes).rooms.clone()
    }
}

/// Said to a connection that stands, or to one that begins.
fn is_ban(end: &End) -> bool {
    match end {
        End::ByServer { code, .. } => *code == CloseCode::Banned,
        End::Refused(error) => error.code == ErrorCode::Banned,
        _ => false,
    }
}

fn enter(user: UserId, addresses: &[String], signer: &Signer) -> Result<Person> {
    let notes = Arc::default();
    let client = Mutex::new(connect(&user, addresses, signer, &notes)?);
    Ok(Person { user, client, notes, turn: tokio::sync::Mutex::default(), is_banned: AtomicBool::new(false) })
}

fn connect(user: &UserId, addresses: &[String], signer: &Signer, notes: &Arc<Mutex<Notes>>) -> Result<Client> {
    *lock(notes) = Notes::default();
    let token = signer.token(user.as_str(), "", &[])?;
    let builder = Client::builder().addresses(addresses).token(token).device("one").follow_all(true);
    let (client, events) = builder.build()?;
    tokio::spawn(listen(events, Arc::clone(notes)));
    Ok(client)
}

async fn listen(mut events: Events, notes: Arc<Mutex<Notes>>) {
    while let Some(event) = events.next().await {
        lock(&notes).note(event);
    }
}

impl Notes {
    fn remember(&mut self, event: &Event) {
        let (room, what) = match event {
            Event::Subscribed { room, after, .. } => (room, format!("subscribed after {after}")),
            Event::Message(message) => (&message.room, format!("{} {} {}", message.kind, message.epoch, message.seq)),
            Event::Reset { room, seq, .. } => (room, format!("reset to {seq}")),
            Event::RoomChanged { room, subscribed, reason } => (room, format!("changed {subscribed} {reason}")),
            Event::Refused { room, error } => (room, format!("refused {}", error.code)),
            Event::Unsubscribed { room } => (room, "unsubscribed".to_owned()),
            _ => return,
        };
        let told = self.told.entry(room.clone()).or_default();
        if told.len() >= REMEMBERED {
            told.pop_front();
        }
        told.push_back(what);
    }

    fn note(&mut self, event: Event) {
        self.remember(&event);
        match event {
            Event::Subscribed { room, after, .. } => _ = self.rooms.insert(room, after),
            Event::Message(message) => _ = self.rooms.insert(message.room, message.seq),
            Event::Reset { room, seq, .. } => {
                self.rooms.entry(room).and_modify(|had| *had = seq.min(*had));
            }
            Event::RoomChanged { room, subscribed: true, .. } => {
                self.rooms.entry(room).or_default();
            }
            // A member all the same, if only to be heard on a connection that was asked to.
            Event::RoomChanged { reason, .. } if matches!(reason.as_str(), "joined" | "created") => {}
            Event::Refused { error, .. } if error.retryable => {}
            Event::RoomChanged { room, .. } | Event::Refused { room, .. } | Event::Unsubscribed { room } => {
                self.rooms.remove(&room);
            }
            Event::Ended(end) => self.ended = Some(end),
            _ => {}
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
