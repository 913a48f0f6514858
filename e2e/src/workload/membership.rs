//! Users with several rooms each, whose clients follow all of them: they join groups, leave, are removed, kicked or banned for
//! a while, and start direct rooms, while things break. The acknowledged changes are the model that presence and every
//! client's list of rooms are checked against in the end.

mod api;
mod user;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures::future::join_all;
use hyper::Method;
use im_client::{End, Outgoing};
use im_wire::code::CloseCode;
use im_wire::ids::{RoomId, Seq, UserId};
use rand::RngExt;
use serde_json::{Value, json};
use tokio::sync::{RwLock, RwLockWriteGuard};
use tokio_util::sync::CancellationToken;

use self::user::{User, is_ban};
use crate::servers::ApiAddresses;
use crate::sync::lock;
use crate::token::Signer;
use crate::wait::until;

/// How many workers make changes at the same time, each in its own groups.
const WORKERS: usize = 4;
/// Between two changes of one worker.
const PAUSE: Duration = Duration::from_millis(400);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a ban may take to reach the client, which leaves time to lift it.
const BAN_TIMEOUT: Duration = Duration::from_secs(360);
/// How many users one request for presence may name.
const PRESENCE_USERS: usize = 100;
/// A client that has just connected knows all its rooms within this.
const ROOMS_TIMEOUT: Duration = Duration::from_secs(5);
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_EXAMPLES: usize = 12;

/// What is true according to the acknowledged changes.
#[derive(Debug, Clone, Default)]
struct Model {
    /// The members of each group, as indexes of users.
    groups: HashMap<RoomId, BTreeSet<usize>>,
    /// Direct rooms with an acknowledged message.
    direct: HashMap<RoomId, (usize, usize)>,
    /// Rooms that may exist or not, as the answer was lost.
    unsure: HashSet<RoomId>,
}

#[derive(Debug, Clone, Copy)]
enum Change {
    Join,
    Leave,
    Remove,
    Kick,
    Ban,
    StartDirect,
}

/// The users, their groups and the model.
pub struct MembershipWorkload {
    users: Vec<User>,
    groups: Vec<RoomId>,
    model: Mutex<Model>,
    /// The model when the store was backed up.
    backup: Mutex<Model>,
    next_pair: AtomicUsize,
    changes: AtomicUsize,
    /// Each change holds it for reading.
    changing: RwLock<()>,
    addresses: Vec<String>,
    apis: ApiAddresses,
    signer: Signer,
    admin: String,
}

/// What differs from the model: how many differences, and descriptions of the first few.
#[derive(Debug, Default, serde::Serialize)]
pub struct Findings {
    /// Users whose presence is wrong.
    pub presence: usize,
    /// Rooms that a client wrongly is or is not subscribed to, or does not receive.
    pub rooms: usize,
    /// Descriptions of the first few.
    pub examples: Vec<String>,
}

impl Findings {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.presence + self.rooms == 0
    }

    fn add_presence(&mut self, text: String) {
        self.presence += 1;
        self.example(text);
    }

    fn add_room(&mut self, text: String) {
        self.rooms += 1;
        self.example(text);
    }

    fn example(&mut self, text: String) {
        if self.examples.len() < MAX_EXAMPLES {
            self.examples.push(text);
        }
    }
}

impl MembershipWorkload {
    /// Connects the users and creates the groups, which the first user owns.
    pub(crate) async fn connect(
        users: usize,
        groups: usize,
        addresses: &[String],
        apis: ApiAddresses,
        signer: &Signer,
    ) -> Result<Self> {
        let run: u32 = rand::rng().random();
        let id = |number| UserId::new(format!("p{run:08x}-{number}"));
        let users: Vec<UserId> = (0..users).map(id).collect::<Result<_, _>>()?;
        let admin = signer.token("registrar", "admin", &["*"])?;
        let workload = Self {
            users: users
                .into_iter()
                .map(|id| User::connect(id, addresses, signer))
                .collect::<Result<_>>()?,
            groups: (0..groups)
                .map(|number| RoomId::new(format!("p{run:08x}-g{number}")))
                .collect::<Result<_, _>>()?,
            model: Mutex::default(),
            backup: Mutex::default(),
            next_pair: AtomicUsize::new(0),
            changes: AtomicUsize::new(0),
            changing: RwLock::new(()),
            addresses: addresses.to_vec(),
            apis,
            signer: signer.clone(),
            admin,
        };
        workload.connected().await?;
        workload.create_groups().await?;
        Ok(workload)
    }

    async fn connected(&self) -> Result<()> {
        let deadline = Instant::now() + CONNECT_TIMEOUT;
        for user in &self.users {
            loop {
                let client = user.client();
                let left = deadline.saturating_duration_since(Instant::now());
                let connected = tokio::time::timeout(left, client.connected()).await;
                let what = || format!("{} cannot connect: {:?}", user.id, client.state());
                match connected.with_context(what)? {
                    Ok(()) => break,
                    // A node may learn up to a second later that a ban was lifted.
                    Err(end) if Instant::now() > deadline => return Err(end).with_context(what),
                    Err(_) => self.reconnect_kicked()?,
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
        Ok(())
    }

    async fn create_groups(&self) -> Result<()> {
        for group in &self.groups {
            let members = json!([{"user": self.users[0].id.as_str(), "role": "owner"}]);
            let body = json!({"kind": "group", "id": group.as_str(), "members": members});
            self.request(Method::POST, "/v1/rooms", &body).await?;
            lock(&self.model)
                .groups
                .insert(group.clone(), BTreeSet::from([0]));
        }
        Ok(())
    }

    /// How many changes were made so far.
    pub(crate) fn changes(&self) -> usize {
        self.changes.load(Ordering::Relaxed)
    }

    /// Makes changes until `stop`, then waits until each is answered.
    pub(crate) async fn run(&self, stop: &CancellationToken) -> Result<()> {
        let workers = (0..WORKERS).map(async |worker| {
            let own: Vec<&RoomId> = self.groups.iter().skip(worker).step_by(WORKERS).collect();
            while !stop.is_cancelled() {
                let changing = self.changing.read().await;
                self.change(&own).await?;
                drop(changing);
                self.reconnect_kicked()?;
                tokio::select! {
                    () = tokio::time::sleep(PAUSE) => {}
                    () = stop.cancelled() => {}
                }
            }
            Ok(())
        });
        join_all(workers)
            .await
            .into_iter()
            .collect::<Result<()>>()?;
        self.reconnect_kicked()
    }

    async fn change(&self, groups: &[&RoomId]) -> Result<()> {
        let (change, group, index) = {
            let mut random = rand::rng();
            let index = random.random_range(1..self.users.len());
            let group = groups
                .get(random.random_range(0..groups.len().max(1)))
                .copied();
            let is_member =
                group.is_some_and(|group| lock(&self.model).groups[group].contains(&index));
            let change = match random.random_range(0..10) {
                0 => Change::Kick,
                1 => Change::Ban,
                2 | 3 => Change::StartDirect,
                _ if !is_member => Change::Join,
                _ if random.random() => Change::Leave,
                _ => Change::Remove,
            };
            (change, group, index)
        };
        let user = &self.users[index];
        let _changing = user.changing.lock().await;
        let id = user.id.as_str();
        match (change, group) {
            (Change::StartDirect, _) => self.start_direct().await,
            (Change::Ban, _) => self.ban(user).await,
            (Change::Kick, _) => self
                .request(Method::POST, "/v1/kick", &json!({"user": id}))
                .await
                .map(drop),
            (_, None) => Ok(()),
            (Change::Join, Some(group)) => {
                let path = format!("/v1/rooms/{group}/members");
                self.request(Method::POST, &path, &json!({"user": id}))
                    .await?;
                self.changed(group, |members| members.insert(index));
                Ok(())
            }
            (Change::Leave, Some(group)) => {
                let token = self.signer.token(id, "", &[])?;
                let path = format!("/v1/rooms/{group}/leave");
                match api::request(&self.apis, Method::POST, &path, &token, &json!({})).await {
                    // An earlier try succeeded and its answer was lost.
                    Err(error) if error.to_string().contains("not_a_member") => {}
                    left => drop(left?),
                }
                self.changed(group, |members| members.remove(&index));
                Ok(())
            }
            (Change::Remove, Some(group)) => {
                let path = format!("/v1/rooms/{group}/members/{id}");
                self.request(Method::DELETE, &path, &json!({})).await?;
                self.changed(group, |members| members.remove(&index));
                Ok(())
            }
        }
    }

    /// Bans a user until the client is closed, whatever is broken meanwhile.
    async fn ban(&self, user: &User) -> Result<()> {
        user.is_banned.store(true, Ordering::SeqCst);
        let ban = json!({"user": user.id.as_str(), "reason": "a test"});
        let made = self.request(Method::POST, "/v1/bans", &ban).await?;
        let id = made["id"]
            .as_str()
            .with_context(|| format!("no id in {made}"))?;
        let closed = async || user.ended().as_ref().is_some_and(is_ban).then_some(());
        until("the banned user is disconnected", BAN_TIMEOUT, closed).await?;
        self.request(Method::DELETE, &format!("/v1/bans/{id}"), &json!({}))
            .await?;
        user.is_banned.store(false, Ordering::SeqCst);
        self.changes.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn changed(&self, group: &RoomId, change: impl FnOnce(&mut BTreeSet<usize>) -> bool) {
        self.changes.fetch_add(1, Ordering::Relaxed);
        lock(&self.model).groups.get_mut(group).map(change);
    }

    /// Sends the first message between two users without a direct room; does nothing once every pair has one.
    async fn start_direct(&self) -> Result<()> {
        let number = self.next_pair.fetch_add(1, Ordering::Relaxed);
        let mut pairs =
            (0..self.users.len()).flat_map(|one| (0..one).map(move |other| (one, other)));
        let Some((one, other)) = pairs.nth(number) else {
            return Ok(());
        };
        let room = RoomId::direct(&self.users[one].id, &self.users[other].id)?;
        let client = self.users[one].client();
        let sent = client
            .send(Outgoing::text(room.clone(), "hello").deadline(api::TIMEOUT))
            .await;
        let mut model = lock(&self.model);
        match sent {
            Ok(_) => _ = model.direct.insert(room, (one, other)),
            Err(error) => {
                // The user was kicked before the acknowledgement came.
                tracing::debug!(%room, %error, "unknown whether the direct room exists");
                model.unsure.insert(room);
            }
        }
        self.changes.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Reconnects users who were kicked or whose ban is lifted. A client that gave up for another reason is an error.
    fn reconnect_kicked(&self) -> Result<()> {
        for user in &self.users {
            let Some(end) = user.ended() else { continue };
            match end {
                end if is_ban(&end) && user.is_banned.load(Ordering::SeqCst) => continue,
                end if is_ban(&end) => {}
                End::ByServer {
                    code: CloseCode::Kicked,
                    ..
                } => {}
                end => bail!("{} gave up: {end}", user.id),
            }
            user.reconnect(&self.addresses, &self.signer)?;
        }
        Ok(())
    }

    /// Starts over after the store lost everything: an empty model and new groups.
    pub(crate) async fn reset(&self) -> Result<()> {
        *lock(&self.model) = Model::default();
        self.create_groups().await
    }

    /// Waits until every change is answered, and prevents new ones until the guard is dropped.
    pub(crate) async fn pause(&self) -> RwLockWriteGuard<'_, ()> {
        self.changing.write().await
    }

    /// Call this when the store is backed up.
    pub(crate) fn back_up_model(&self) {
        lock(&self.backup).clone_from(&lock(&self.model));
    }

    /// Call this when the backup of the store is restored.
    pub(crate) fn restore_model(&self) {
        lock(&self.model).clone_from(&lock(&self.backup));
    }

    /// Compares presence and rooms with the model. `others` are users who are online besides; nothing else may happen meanwhile.
    pub(crate) async fn check(&self, others: &[String]) -> Result<Findings> {
        self.connected().await?;
        let mut findings = Findings::default();
        self.check_presence(others, &mut findings).await?;
        let rooms = self.check_subscriptions(&mut findings).await;
        self.check_delivery(&rooms, &mut findings).await?;
        Ok(findings)
    }

    /// Every user must be online with exactly one connection.
    async fn check_presence(&self, others: &[String], findings: &mut Findings) -> Result<()> {
        let own = self.users.iter().map(|user| user.id.as_str());
        let all: Vec<&str> = others.iter().map(String::as_str).chain(own).collect();
        for users in all.chunks(PRESENCE_USERS) {
            let path = format!("/v1/presence?users={}", users.join(","));
            let answer = self.request(Method::GET, &path, &json!({})).await?;
            let answered = answer["users"].as_array().context("no list of users")?;
            ensure!(
                answered.len() == users.len(),
                "presence of {} users, not {}",
                answered.len(),
                users.len()
            );
            for user in answered {
                let connections = user["connections"].as_array().map_or(0, Vec::len);
                if user["online"] != true || connections != 1 {
                    findings
                        .add_presence(format!("one connection is open, but presence says {user}"));
                }
            }
        }
        Ok(())
    }

    /// The rooms that each user is in by the model.
    fn expected_rooms(&self, model: &Model) -> Vec<BTreeSet<RoomId>> {
        let mut expected = vec![BTreeSet::new(); self.users.len()];
        for (group, members) in &model.groups {
            members
                .iter()
                .for_each(|member| _ = expected[*member].insert(group.clone()));
        }
        for (room, (one, other)) in &model.direct {
            expected[*one].insert(room.clone());
            expected[*other].insert(room.clone());
        }
        expected
            .iter_mut()
            .for_each(|rooms| rooms.retain(|room| !model.unsure.contains(room)));
        expected
    }

    /// Every client must be subscribed to the rooms of its user and to no others. Returns the expected rooms of each user.
    async fn check_subscriptions(&self, findings: &mut Findings) -> Vec<BTreeSet<RoomId>> {
        let model = lock(&self.model).clone();
        let all = self.expected_rooms(&model);
        let deadline = Instant::now() + ROOMS_TIMEOUT;
        for (user, expected) in self.users.iter().zip(&all) {
            let subscribed = || -> BTreeSet<RoomId> {
                user.positions()
                    .into_keys()
                    .filter(|room| !model.unsure.contains(room))
                    .collect()
            };
            while !expected.is_subset(&subscribed()) && Instant::now() < deadline {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            let subscribed = subscribed();
            for room in expected.difference(&subscribed) {
                let events = user.last_events(room);
                findings.add_room(format!(
                    "{} is in {room}, its client is not subscribed: {events}",
                    user.id
                ));
            }
            // A client may be subscribed to a direct room before its first message, and after that was taken back.
            for room in subscribed
                .difference(expected)
                .filter(|room| !room.is_direct())
            {
                let events = user.last_events(room);
                findings.add_room(format!(
                    "{} is not in {room}, its client is subscribed: {events}",
                    user.id
                ));
            }
        }
        all
    }

    /// A message to each room must reach all its members.
    async fn check_delivery(
        &self,
        expected: &[BTreeSet<RoomId>],
        findings: &mut Findings,
    ) -> Result<()> {
        let mut heads: HashMap<&RoomId, Seq> = HashMap::new();
        for room in expected.iter().flatten() {
            if heads.contains_key(room) {
                continue;
            }
            let path = format!("/v1/rooms/{room}/messages");
            let sent = self
                .request(Method::POST, &path, &json!({"body": "is everybody here?"}))
                .await?;
            heads.insert(room, sent["seq"].as_u64().context("no seq")?);
        }
        let deadline = Instant::now() + DELIVERY_TIMEOUT;
        for (user, rooms) in self.users.iter().zip(expected) {
            let missing = || {
                let positions = user.positions();
                rooms
                    .iter()
                    .find(|room| positions.get(*room).is_none_or(|seq| *seq < heads[*room]))
                    .cloned()
            };
            while missing().is_some() && Instant::now() < deadline {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            if let Some(room) = missing() {
                findings.add_room(format!("{} does not receive messages of {room}", user.id));
            }
        }
        Ok(())
    }

    /// A request with the rights of an admin: see [`api::request`].
    async fn request(&self, method: Method, path: &str, body: &Value) -> Result<Value> {
        api::request(&self.apis, method, path, &self.admin, body).await
    }
}
