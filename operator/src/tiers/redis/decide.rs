//! Redis and Sentinel: who is the master at the very first start, and which pod takes the new template next.
//!
//! Sentinel alone decides who is the master from then on. Whether a volume may hold data is written on its claim before the first
//! write is allowed ([`BOOTSTRAPPED`](crate::tiers::stateful::BOOTSTRAPPED)), so that nothing is ever begun anew over data; where Sentinels have forgotten the master, the redis
//! that has got furthest becomes it, and only when all of them can be asked.

use crate::api::{Reason, Verdict};

/// Whom a redis follows that nobody has told anything: an empty volume begins like this.
pub(crate) const NOBODY: &str = "nobody.invalid";

/// A person's word that redis may begin with nothing, though it had data: an annotation of the ImCluster, `true`.
pub(crate) const ANEW: &str = "imcluster.io/begin-redis-anew";

/// What a redis says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    /// It is a master.
    pub(crate) master: bool,
    /// Whom it follows otherwise.
    pub(crate) follows: Option<String>,
    /// A replica: whether it is connected to its master and has got everything up to a moment ago.
    pub(crate) in_step: bool,
    /// How far it has got in its history.
    pub(crate) offset: u64,
    /// The history's name (the replication id); a restart begins another one.
    pub(crate) history: String,
    /// How many keys it has.
    pub(crate) keys: u64,
    /// A master: replicas that are connected.
    pub(crate) replicas: usize,
    /// Connected replicas without which it refuses writes, as a master.
    pub(crate) min_replicas: usize,
    /// It is still loading its data, and takes nothing until it has.
    pub(crate) loading: bool,
    /// What is only told.
    pub(crate) stats: Stats,
}

impl Answer {
    /// Why it takes no writes, master or not.
    fn hindrance(&self) -> Option<(Reason, &'static str)> {
        let Stats {
            used_memory,
            max_memory,
            stored,
            ..
        } = self.stats;
        if self.loading {
            Some((Reason::Starting, "is still loading its data"))
        } else if !stored {
            Some((
                Reason::DiskFailing,
                "can't write its file, so it refuses writes: its volume may be full",
            ))
        } else if max_memory > 0 && used_memory >= max_memory {
            Some((
                Reason::MemoryFull,
                "has used up its memory, so it refuses writes: raise its limit or keep less history",
            ))
        } else {
            None
        }
    }
}

/// What is told of a redis beside what is decided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Stats {
    /// Bytes that its data and buffers take.
    pub(crate) used_memory: i64,
    /// Bytes that they may take; 0: as many as there are.
    pub(crate) max_memory: i64,
    /// Connections of clients.
    pub(crate) clients: i64,
    /// Commands it has carried out since it began.
    pub(crate) commands: i64,
    /// Seconds since it began.
    pub(crate) uptime: i64,
    /// The last write of the append-only file went well.
    pub(crate) stored: bool,
}

/// A redis pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server {
    /// Its name in the network.
    pub(crate) host: String,
    /// Its claim has the [`BOOTSTRAPPED`](crate::tiers::stateful::BOOTSTRAPPED).
    pub(crate) bootstrapped: bool,
    /// It is ready.
    pub(crate) ready: bool,
    /// It is about to end, as when its node is drained.
    pub(crate) ending: bool,
    /// It is of an older template.
    pub(crate) outdated: bool,
    /// What it says; `None`: nothing.
    pub(crate) answer: Option<Answer>,
}

impl Server {
    /// Whether it goes by this name in the network. Pods' names are unique in a set, and the domain behind them may change.
    fn is(&self, name: &str) -> bool {
        pod(&self.host) == pod(name)
    }
}

/// The pod's name in a name in the network.
fn pod(host: &str) -> &str {
    host.split('.').next().unwrap_or(host)
}

/// What a Sentinel says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Sentinel {
    /// Nothing.
    Silent,
    /// It knows no master.
    Knows(Option<String>),
}

impl Sentinel {
    /// It answers and knows a master.
    pub(crate) fn knows_one(&self) -> bool {
        matches!(self, Self::Knows(Some(_)))
    }
}

/// Everything that is looked at. Servers and Sentinels stand at the place of their pods' numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Observed {
    /// The ImCluster's namespace.
    pub(crate) namespace: String,
    /// The ImCluster's name, which Sentinels know the master by.
    pub(crate) name: String,
    /// The redis pods.
    pub(crate) servers: Vec<Server>,
    /// The Sentinels; none with a single redis.
    pub(crate) sentinels: Vec<Sentinel>,
    /// Those of them that are of an older template.
    pub(crate) outdated_sentinels: Vec<usize>,
    /// Sentinels are replacing the master just now.
    pub(crate) failing_over: bool,
    /// Replicas without which the master takes no writes.
    pub(crate) confirming: usize,
    /// The ImCluster's status says that there was data.
    pub(crate) mirrored: bool,
    /// A person has said to begin anew.
    pub(crate) anew: bool,
}

/// One thing to do. They are done in order, and the rest is left when one fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Write on the claim of this redis that it may hold data.
    MarkBootstrapped(usize),
    /// Make this redis the master, and let it write that down.
    Promote(usize),
    /// Let this redis follow another, and write that down.
    ReplicateFrom(usize, String),
    /// Tell this Sentinel the master.
    Monitor(usize, String),
    /// Let this redis, as a master, want so many connected replicas: a hand-over that was cut short has left it with others.
    SetMinReplicas(usize, usize),
    /// Let Sentinel hand over from this master, once its replicas have everything.
    Failover(usize),
    /// End this redis pod, so that it comes back with the new template.
    Restart(usize),
    /// The same for a Sentinel's.
    RestartSentinel(usize),
    /// Take the person's word back, as it was followed.
    RemoveAnnotation,
}

/// A master and those who may take its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Succession {
    /// The name by which Sentinels know the master.
    pub(crate) service: String,
    /// Where the master is found.
    pub(crate) master: String,
    /// The replicas that are in step.
    pub(crate) replicas: Vec<String>,
    /// Sentinels that answer and name the master.
    pub(crate) sentinels: Vec<String>,
    /// The port of every redis.
    pub(crate) redis_port: i32,
    /// The port of every Sentinel.
    pub(crate) sentinel_port: i32,
    /// Replicas without which a master is to take no writes.
    pub(crate) confirming: usize,
}

/// What follows from what is seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Decision {
    /// What to do.
    pub(crate) actions: Vec<Action>,
    /// Whether redis serves.
    pub(crate) verdict: Verdict,
    /// The master's place.
    pub(crate) master: Option<usize>,
}

impl Decision {
    fn wait(verdict: Verdict) -> Self {
        Self {
            actions: Vec::new(),
            verdict,
            master: None,
        }
    }
}

/// Decides. Pure.
pub(crate) fn decide(seen: &Observed) -> Decision {
    if seen.mirrored && !seen.anew && seen.servers.iter().all(|server| !server.bootstrapped) {
        return Decision::wait(Verdict::no(Reason::DataLost, data_lost(seen)));
    }
    let mut decision = by_what_is_said(seen);
    if decision.actions.is_empty() {
        decision.actions.extend(broken(seen));
    }
    if seen.anew
        && decision.actions.is_empty()
        && seen.servers.iter().all(|server| server.bootstrapped)
    {
        decision.actions.push(Action::RemoveAnnotation);
    }
    decision
}

/// One that does not answer and whose template has changed: a template that cannot work is mended by the next one.
fn broken(seen: &Observed) -> Option<Action> {
    let broken = |server: &Server| server.outdated && !server.ready && server.answer.is_none();
    let silent = |ordinal: &&usize| seen.sentinels.get(**ordinal) == Some(&Sentinel::Silent);
    let sentinel = seen
        .outdated_sentinels
        .iter()
        .rev()
        .find(silent)
        .map(|ordinal| Action::RestartSentinel(*ordinal));
    seen.servers
        .iter()
        .rposition(broken)
        .map(Action::Restart)
        .or(sentinel)
}

/// Whether it is only the operator that can't reach redis: Kubernetes itself finds pods ready, and none of them answers.
fn is_out_of_reach(seen: &Observed) -> bool {
    let silent = seen.servers.iter().all(|server| server.answer.is_none())
        && seen
            .sentinels
            .iter()
            .all(|sentinel| *sentinel == Sentinel::Silent);
    silent && seen.servers.iter().any(|server| server.ready)
}

fn by_what_is_said(seen: &Observed) -> Decision {
    if is_out_of_reach(seen) {
        let message = "the operator cannot reach redis, though its pods are ready: the state of redis is unknown";
        return Decision::wait(Verdict::unknown(Reason::Unreachable, message));
    }
    if seen.sentinels.is_empty() {
        return single(seen);
    }
    let mut named: Vec<&str> = Vec::new();
    for sentinel in &seen.sentinels {
        if let Sentinel::Knows(Some(master)) = sentinel
            && !named.iter().any(|other| pod(other) == pod(master))
        {
            named.push(master);
        }
    }
    match named.as_slice() {
        [] => without_master(seen),
        [master] => with_master(seen, master),
        _ => Decision::wait(Verdict::no(
            Reason::FailingOver,
            format!(
                "Sentinels disagree on the master ({}): waiting until they agree",
                named.join(" and ")
            ),
        )),
    }
}

fn single(seen: &Observed) -> Decision {
    let Some(server) = seen.servers.first() else {
        return Decision::wait(Verdict::no(Reason::Starting, "redis has no pod yet"));
    };
    if !server.answer.as_ref().is_some_and(|answer| answer.master) {
        return Decision::wait(Verdict::no(Reason::NoMaster, "redis does not answer"));
    }
    let mark = (!server.bootstrapped).then_some(Action::MarkBootstrapped(0));
    let replace = (server.outdated && server.ready && mark.is_none()).then_some(Action::Restart(0));
    let hindrance = server.answer.as_ref().and_then(Answer::hindrance);
    let verdict = match hindrance {
        Some((reason, why)) => Verdict::no(reason, format!("redis {why}")),
        None => Verdict::yes(Reason::AsExpected, "redis takes writes"),
    };
    if hindrance.is_some_and(|(reason, _)| reason == Reason::Starting) {
        return Decision::wait(verdict);
    }
    Decision {
        actions: mark.into_iter().chain(replace).collect(),
        verdict,
        master: Some(0),
    }
}

/// No Sentinel that answers knows a master: the first start, or all of them have forgotten.
fn without_master(seen: &Observed) -> Decision {
    let unheard = seen
        .sentinels
        .iter()
        .filter(|sentinel| **sentinel == Sentinel::Silent)
        .count();
    if unheard > 0 {
        return Decision::wait(Verdict::no(
            Reason::Starting,
            format!("{unheard} Sentinels do not answer yet"),
        ));
    }
    let silent: Vec<usize> = (0..seen.servers.len())
        .filter(|ordinal| seen.servers[*ordinal].answer.is_none())
        .collect();
    let fresh = seen.servers.iter().all(|server| !server.bootstrapped);
    match silent.as_slice() {
        [] => {}
        _ if fresh => {
            return Decision::wait(Verdict::no(
                Reason::Starting,
                format!("{} redis do not answer yet", silent.len()),
            ));
        }
        [first, ..] => {
            return Decision::wait(Verdict::no(Reason::NeedsDecision, lost(seen, *first)));
        }
    }
    // What one has is not known before it has read its file.
    if let Some(loading) = ordinals(seen, |answer| answer.loading).first() {
        let host = &seen.servers[*loading].host;
        return Decision::wait(Verdict::no(
            Reason::Starting,
            format!("{host} is still loading its data"),
        ));
    }
    let masters: Vec<usize> = ordinals(seen, |answer| answer.master);
    let lead = match masters.as_slice() {
        [] => match furthest(seen) {
            Some(ordinal) => ordinal,
            None => {
                return Decision::wait(Verdict::no(
                    Reason::NeedsDecision,
                    undecided(
                        seen,
                        "several redis have data, and which has more cannot be told",
                    ),
                ));
            }
        },
        [one]
            if keys(seen, *one) == 0
                && (0..seen.servers.len()).any(|ordinal| keys(seen, ordinal) > 0) =>
        {
            return Decision::wait(Verdict::no(
                Reason::NeedsDecision,
                undecided(seen, "the only master is empty while others have data"),
            ));
        }
        [one] => *one,
        _ => {
            return Decision::wait(Verdict::no(
                Reason::NeedsDecision,
                undecided(seen, "more than one redis is a master"),
            ));
        }
    };
    let leader = &seen.servers[lead];
    let master = &leader.host;
    let marks = (0..seen.servers.len())
        .filter(|ordinal| !seen.servers[*ordinal].bootstrapped)
        .map(Action::MarkBootstrapped);
    let mut actions: Vec<Action> = marks.collect();
    if masters.is_empty() {
        actions.push(Action::Promote(lead));
    }
    let astray = |ordinal: &usize| {
        let follows = seen.servers[*ordinal]
            .answer
            .as_ref()
            .and_then(|answer| answer.follows.as_ref());
        *ordinal != lead && !follows.is_some_and(|follows| leader.is(follows))
    };
    let others = (0..seen.servers.len()).filter(astray);
    actions.extend(others.map(|ordinal| Action::ReplicateFrom(ordinal, master.clone())));
    actions
        .extend((0..seen.sentinels.len()).map(|ordinal| Action::Monitor(ordinal, master.clone())));
    let reason = if fresh {
        Reason::Starting
    } else {
        Reason::NoMaster
    };
    let verdict = Verdict::no(reason, format!("promoting {master} to master"));
    Decision {
        actions,
        verdict,
        master: None,
    }
}

fn with_master(seen: &Observed, master: &str) -> Decision {
    let mut actions = Vec::new();
    let ordinal = seen.servers.iter().position(|server| server.is(master));
    for (number, sentinel) in seen.sentinels.iter().enumerate() {
        if *sentinel == Sentinel::Knows(None) {
            actions.push(Action::Monitor(number, master.to_owned()));
        }
    }
    for (number, server) in seen.servers.iter().enumerate() {
        if Some(number) == ordinal {
            continue;
        }
        if server
            .answer
            .as_ref()
            .is_some_and(|answer| answer.follows.as_deref() == Some(NOBODY))
        {
            actions.push(Action::ReplicateFrom(number, master.to_owned()));
        }
    }
    for (number, server) in seen.servers.iter().enumerate() {
        let Some(answer) = server.answer.as_ref().filter(|_| !seen.failing_over) else {
            continue;
        };
        // A master that Sentinels do not name (any more) is about to follow, and takes no writes until then.
        let settled = !answer.master || Some(number) == ordinal;
        if settled && !answer.loading && answer.min_replicas != seen.confirming {
            actions.push(Action::SetMinReplicas(number, seen.confirming));
        }
    }
    // A volume that has become part of the set holds data from its first copy on.
    actions.extend(
        (0..seen.servers.len())
            .filter(|ordinal| !seen.servers[*ordinal].bootstrapped)
            .map(Action::MarkBootstrapped),
    );
    let answer = ordinal.and_then(|ordinal| seen.servers[ordinal].answer.as_ref());
    let Some(answer) = answer.filter(|answer| answer.master) else {
        let verdict = Verdict::no(
            Reason::NoMaster,
            format!("{master} does not serve as the master: Sentinel chooses another"),
        );
        return Decision {
            actions,
            verdict,
            master: None,
        };
    };
    let others = seen.servers.len().saturating_sub(1);
    let verdict = if let Some((reason, why)) = answer.hindrance() {
        Verdict::no(reason, format!("{master} {why}"))
    } else if answer.replicas < seen.confirming {
        Verdict::no(
            Reason::ReplicaMissing,
            format!(
                "{} of {others} replicas are connected, {} are needed for a write",
                answer.replicas, seen.confirming
            ),
        )
    } else if answer.replicas < others {
        Verdict::yes(
            Reason::ReplicaMissing,
            format!(
                "{master} takes writes; {} of {others} replicas are connected",
                answer.replicas
            ),
        )
    } else {
        Verdict::yes(Reason::AsExpected, format!("{master} takes writes"))
    };
    // It has little time left, so this comes first.
    if let Some(ending) =
        ordinal.filter(|ordinal| seen.servers[*ordinal].ending && may_fail_over(seen, *ordinal))
    {
        return Decision {
            actions: vec![Action::Failover(ending)],
            verdict,
            master: ordinal,
        };
    }
    if !actions.is_empty() {
        return Decision {
            actions,
            verdict,
            master: ordinal,
        };
    }
    if answer.hindrance().is_none() && !seen.failing_over && whole(seen, ordinal, answer, others) {
        actions.extend(next(seen, ordinal));
    }
    Decision {
        actions,
        verdict,
        master: ordinal,
    }
}

/// Whether one may be taken away: all are there, in step, and known to every Sentinel.
fn whole(seen: &Observed, master: Option<usize>, answer: &Answer, others: usize) -> bool {
    let fit = |(ordinal, server): (usize, &Server)| {
        server.ready
            && (Some(ordinal) == master
                || server
                    .answer
                    .as_ref()
                    .is_some_and(|one| keeps_up(one, answer)))
    };
    answer.replicas >= others
        && seen.sentinels.iter().all(Sentinel::knows_one)
        && seen.servers.iter().enumerate().all(fit)
}

/// What a replica in step may lack: both are asked at the same time, not at the same instant.
const LAG: u64 = 1024 * 1024;

fn keeps_up(replica: &Answer, master: &Answer) -> bool {
    replica.in_step && replica.offset.saturating_add(LAG) >= master.offset
}

/// Those that may take the master's place: they stay, and lack nothing.
fn successors(seen: &Observed, master: usize) -> impl Iterator<Item = &Server> {
    let from = seen.servers.get(master);
    seen.servers.iter().filter(move |server| {
        let both = server
            .answer
            .as_ref()
            .zip(from.and_then(|from| from.answer.as_ref()));
        let follows = |answer: &Answer| {
            answer
                .follows
                .as_deref()
                .zip(from)
                .is_some_and(|(name, from)| from.is(name))
        };
        !server.ending
            && both.is_some_and(|(replica, master)| follows(replica) && keeps_up(replica, master))
    })
}

/// Whether somebody is there to take the master's place, and nobody is taking it already.
fn may_fail_over(seen: &Observed, master: usize) -> bool {
    !seen.failing_over
        && seen.sentinels.iter().any(Sentinel::knows_one)
        && successors(seen, master).next().is_some()
}

impl Observed {
    /// The master at this place and those who may take it; `sentinel` says where a Sentinel is found.
    pub(crate) fn succession(
        &self,
        master: usize,
        sentinel: impl Fn(usize) -> String,
    ) -> Succession {
        let knowing = self
            .sentinels
            .iter()
            .enumerate()
            .filter(|(_, sentinel)| sentinel.knows_one());
        Succession {
            service: self.name.clone(),
            master: self
                .servers
                .get(master)
                .map(|server| server.host.clone())
                .unwrap_or_default(),
            replicas: successors(self, master)
                .map(|server| server.host.clone())
                .collect(),
            sentinels: knowing.map(|(ordinal, _)| sentinel(ordinal)).collect(),
            redis_port: crate::build::REDIS_PORT,
            sentinel_port: crate::build::SENTINEL_PORT,
            confirming: self.confirming,
        }
    }
}

/// Sentinels first, then replicas; the master hands over and then is one.
fn next(seen: &Observed, master: Option<usize>) -> Option<Action> {
    if let Some(sentinel) = seen.outdated_sentinels.last() {
        return Some(Action::RestartSentinel(*sentinel));
    }
    let outdated: Vec<usize> = (0..seen.servers.len())
        .filter(|ordinal| seen.servers[*ordinal].outdated)
        .collect();
    let replica = outdated
        .iter()
        .rev()
        .find(|ordinal| Some(**ordinal) != master);
    replica
        .map(|ordinal| Action::Restart(*ordinal))
        .or_else(|| outdated.first().map(|ordinal| Action::Failover(*ordinal)))
}

fn ordinals(seen: &Observed, which: impl Fn(&Answer) -> bool) -> Vec<usize> {
    let servers = seen.servers.iter().enumerate();
    servers
        .filter(|(_, server)| server.answer.as_ref().is_some_and(&which))
        .map(|(ordinal, _)| ordinal)
        .collect()
}

/// The one whose data counts: the first where none has any, the only one that has some, or of those with the same history the
/// one that has got furthest. `None`: that cannot be told, as after a restart, which begins a history of its own.
fn furthest(seen: &Observed) -> Option<usize> {
    let full = ordinals(seen, |answer| answer.keys > 0);
    let answer = |ordinal: &usize| seen.servers[*ordinal].answer.as_ref();
    match full.as_slice() {
        [] => Some(0),
        [one] => Some(*one),
        [first, ..] => {
            let history = answer(first).map(|answer| &answer.history);
            let same = full
                .iter()
                .all(|ordinal| answer(ordinal).map(|answer| &answer.history) == history);
            let offset = |ordinal: &&usize| answer(ordinal).map_or(0, |answer| answer.offset);
            full.iter()
                .rev()
                .max_by_key(offset)
                .copied()
                .filter(|_| same)
        }
    }
}

fn keys(seen: &Observed, ordinal: usize) -> u64 {
    seen.servers[ordinal]
        .answer
        .as_ref()
        .map_or(0, |answer| answer.keys)
}

fn data_lost(seen: &Observed) -> String {
    let (namespace, name) = (&seen.namespace, &seen.name);
    let claims: Vec<String> = (0..seen.servers.len())
        .map(|ordinal| format!("data-{name}-redis-{ordinal}"))
        .collect();
    format!(
        "redis had data, and its volumes ({}) are new: all messages, groups and read positions are gone unless the old volumes are brought back under these names. To begin with nothing: kubectl -n {namespace} annotate imc {name} {ANEW}=true",
        claims.join(", ")
    )
}

fn lost(seen: &Observed, ordinal: usize) -> String {
    let (namespace, name) = (&seen.namespace, &seen.name);
    format!(
        "no Sentinel knows the master, and {name}-redis-{ordinal} does not answer, which may have the newest data. It goes on by itself when all answer. If that volume is lost for good: kubectl -n {namespace} delete pvc data-{name}-redis-{ordinal} --wait=false && kubectl -n {namespace} delete pod {name}-redis-{ordinal}"
    )
}

fn undecided(seen: &Observed, why: &str) -> String {
    let (namespace, name) = (&seen.namespace, &seen.name);
    format!(
        "no Sentinel knows the master, and {why}. Let all but the one that counts follow it (N follows M): kubectl -n {namespace} exec {name}-redis-N -c redis -- redis-cli --tls --cert /etc/imcluster/tls/tls.crt --key /etc/imcluster/tls/tls.key --cacert /etc/imcluster/tls/ca.crt --askpass REPLICAOF {name}-redis-M.{name}-redis.{namespace}.svc 6379; and the one that counts, nobody: REPLICAOF NO ONE"
    )
}

#[cfg(test)]
mod tests;
