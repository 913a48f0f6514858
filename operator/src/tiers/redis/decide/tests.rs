use super::*;
use crate::api::ConditionStatus;

fn host(ordinal: usize) -> String {
    format!("demo-redis-{ordinal}")
}

fn answer(master: bool, follows: Option<&str>) -> Answer {
    Answer {
        master,
        follows: follows.map(str::to_owned),
        in_step: !master && follows != Some(NOBODY),
        offset: 0,
        history: "h".to_owned(),
        keys: 0,
        replicas: 0,
        min_replicas: 1,
        loading: false,
        stats: Stats {
            stored: true,
            ..Stats::default()
        },
    }
}

fn fresh() -> Observed {
    let server = |ordinal| Server {
        host: host(ordinal),
        bootstrapped: false,
        ready: true,
        ending: false,
        outdated: false,
        answer: Some(answer(false, Some(NOBODY))),
    };
    let sentinels = vec![Sentinel::Knows(None); 3];
    Observed {
        namespace: "chat".to_owned(),
        name: "demo".to_owned(),
        servers: (0..3).map(server).collect(),
        sentinels,
        outdated_sentinels: Vec::new(),
        failing_over: false,
        confirming: 1,
        mirrored: false,
        anew: false,
    }
}

/// What a cluster becomes when this is done to it.
fn act(seen: &mut Observed, action: &Action) {
    match action {
        Action::MarkBootstrapped(ordinal) => seen.servers[*ordinal].bootstrapped = true,
        Action::Promote(ordinal) => seen.servers[*ordinal].answer = Some(answer(true, None)),
        Action::ReplicateFrom(ordinal, master) => {
            seen.servers[*ordinal].answer = Some(answer(false, Some(master)))
        }
        Action::Monitor(ordinal, master) => {
            seen.sentinels[*ordinal] = Sentinel::Knows(Some(master.clone()))
        }
        Action::Restart(ordinal) => seen.servers[*ordinal].outdated = false,
        Action::RestartSentinel(ordinal) => {
            seen.outdated_sentinels.retain(|other| other != ordinal)
        }
        Action::RemoveAnnotation => seen.anew = false,
        Action::SetMinReplicas(ordinal, replicas) => {
            seen.servers[*ordinal].answer.as_mut().unwrap().min_replicas = *replicas
        }
        Action::Failover(ordinal) => {
            let next = (*ordinal + 1) % 3;
            for (number, server) in seen.servers.iter_mut().enumerate() {
                let follows = host(next);
                server.answer = Some(answer(
                    number == next,
                    (number != next).then_some(follows.as_str()),
                ));
            }
            seen.sentinels = vec![Sentinel::Knows(Some(host(next))); 3];
        }
    }
    // Replicas that follow a master are connected to it.
    let followers: Vec<Option<String>> = seen
        .servers
        .iter()
        .map(|server| {
            server
                .answer
                .as_ref()
                .and_then(|answer| answer.follows.clone())
        })
        .collect();
    for server in &mut seen.servers {
        let name = server.host.clone();
        if let Some(answer) = server.answer.as_mut().filter(|answer| answer.master) {
            answer.replicas = followers
                .iter()
                .flatten()
                .filter(|follows| **follows == name)
                .count();
        }
    }
}

/// Decides and acts until nothing is left to do; the operator dies after `lives` actions each time.
fn settle(seen: &mut Observed, lives: usize) -> Decision {
    for _ in 0..200 {
        let decision = decide(seen);
        if decision.actions.is_empty() {
            return decision;
        }
        for action in decision.actions.iter().take(lives) {
            if matches!(action, Action::Promote(_)) {
                assert!(
                    seen.servers.iter().all(|server| server.bootstrapped),
                    "no write may be allowed before it is marked"
                );
                let masters = seen
                    .servers
                    .iter()
                    .filter(|server| server.answer.as_ref().is_some_and(|answer| answer.master));
                assert_eq!(masters.count(), 0, "a second master");
            }
            act(seen, action);
        }
    }
    panic!("it never comes to rest: {seen:?}");
}

#[test]
fn the_first_start_ends_the_same_wherever_the_operator_dies() {
    for lives in 1..12 {
        let mut seen = fresh();
        let end = settle(&mut seen, lives);
        assert_eq!(end.master, Some(0), "dying after {lives}");
        assert_eq!(end.verdict.status, ConditionStatus::True);
        assert!(
            seen.servers[1..]
                .iter()
                .all(|server| server.answer.as_ref().unwrap().follows == Some(host(0)))
        );
        assert!(
            seen.sentinels
                .iter()
                .all(|sentinel| *sentinel == Sentinel::Knows(Some(host(0))))
        );
    }
}

#[test]
fn nothing_begins_while_one_is_silent() {
    let mut seen = fresh();
    seen.servers[2].answer = None;
    assert_eq!(
        (decide(&seen).actions, decide(&seen).verdict.reason),
        (Vec::new(), Reason::Starting)
    );
    seen = fresh();
    seen.sentinels[1] = Sentinel::Silent;
    assert_eq!(
        (decide(&seen).actions, decide(&seen).verdict.reason),
        (Vec::new(), Reason::Starting)
    );
}

#[test]
fn where_data_may_be_a_person_decides_unless_all_are_there() {
    let mut seen = fresh();
    seen.servers[0].bootstrapped = true;
    seen.servers[1].answer = None;
    let decision = decide(&seen);
    assert_eq!(
        (decision.actions, decision.verdict.reason),
        (Vec::new(), Reason::NeedsDecision)
    );
    let command = "kubectl -n chat delete pvc data-demo-redis-1 --wait=false && kubectl -n chat delete pod demo-redis-1";
    assert!(
        decision.verdict.message.ends_with(command),
        "{}",
        decision.verdict.message
    );
    seen.sentinels[0] = Sentinel::Silent;
    assert_eq!(
        decide(&seen).verdict.reason,
        Reason::Starting,
        "it may know the master"
    );
}

#[test]
fn where_all_sentinels_forgot_data_leads_and_nothing_is_guessed() {
    let with = |told: [(&str, u64, u64); 3]| {
        let mut seen = fresh();
        for (server, (history, offset, keys)) in seen.servers.iter_mut().zip(told) {
            server.bootstrapped = true;
            server.answer = Some(Answer {
                history: history.to_owned(),
                offset,
                keys,
                ..answer(false, Some(NOBODY))
            });
        }
        seen
    };
    let leads = |seen: &Observed| {
        decide(seen).actions.iter().find_map(|action| {
            if let Action::Promote(ordinal) = action {
                Some(*ordinal)
            } else {
                None
            }
        })
    };
    // After a restart an empty volume and a full one have got equally far.
    assert_eq!(
        leads(&with([("a", 1, 0), ("b", 1, 200), ("c", 1, 0)])),
        Some(1)
    );
    assert_eq!(
        leads(&with([("a", 0, 0), ("a", 700, 9), ("a", 650, 9)])),
        Some(1)
    );
    assert_eq!(
        leads(&with([("a", 1, 0), ("b", 1, 0), ("c", 1, 0)])),
        Some(0)
    );
    let torn = with([("a", 1, 0), ("b", 1, 200), ("c", 1, 199)]);
    assert_eq!(
        (decide(&torn).actions, decide(&torn).verdict.reason),
        (Vec::new(), Reason::NeedsDecision)
    );
    assert!(decide(&torn).verdict.message.contains("REPLICAOF NO ONE"));
    // An empty master beside full replicas would have them emptied.
    let mut seen = with([("a", 9, 9), ("a", 9, 9), ("a", 1, 1)]);
    seen.servers[2].answer = Some(answer(true, None));
    assert_eq!(
        (decide(&seen).actions, decide(&seen).verdict.reason),
        (Vec::new(), Reason::NeedsDecision)
    );
    // One with data stays the master, however far others are.
    seen.servers[2].answer = Some(Answer {
        keys: 1,
        ..answer(true, None)
    });
    assert_eq!(leads(&seen), None);
    assert!(decide(&seen).actions.contains(&Action::Monitor(0, host(2))));
    seen.servers[0].answer = Some(answer(true, None));
    assert_eq!(
        (decide(&seen).actions, decide(&seen).verdict.reason),
        (Vec::new(), Reason::NeedsDecision)
    );
}

#[test]
fn a_template_that_cannot_work_is_mended_by_the_next() {
    let mut seen = fresh();
    settle(&mut seen, 9);
    seen.servers[2] = Server {
        ready: false,
        outdated: true,
        answer: None,
        ..seen.servers[2].clone()
    };
    assert_eq!(decide(&seen).actions, [Action::Restart(2)]);
    seen.servers[2].outdated = false;
    assert_eq!(decide(&seen).actions, []);
    seen.sentinels[1] = Sentinel::Silent;
    assert_eq!(decide(&seen).actions, [], "it comes back by itself");
    seen.outdated_sentinels = vec![0, 1];
    assert_eq!(decide(&seen).actions, [Action::RestartSentinel(1)]);
    // At the very first start too.
    let mut seen = fresh();
    seen.servers[1] = Server {
        ready: false,
        outdated: true,
        answer: None,
        ..seen.servers[1].clone()
    };
    assert_eq!(decide(&seen).actions, [Action::Restart(1)]);
}

#[test]
fn what_only_the_operator_cannot_reach_is_unknown() {
    let mut settled = fresh();
    settle(&mut settled, 9);
    let single = Observed {
        servers: vec![settled.servers[0].clone()],
        sentinels: Vec::new(),
        ..settled.clone()
    };
    for mut seen in [settled, single] {
        seen.servers
            .iter_mut()
            .for_each(|server| server.answer = None);
        seen.sentinels.fill(Sentinel::Silent);
        let decision = decide(&seen);
        let told = (
            decision.verdict.status,
            decision.verdict.reason,
            decision.actions,
        );
        assert_eq!(
            told,
            (ConditionStatus::Unknown, Reason::Unreachable, Vec::new())
        );
        // Where Kubernetes finds it down as well, it is.
        seen.servers
            .iter_mut()
            .for_each(|server| server.ready = false);
        assert_eq!(decide(&seen).verdict.status, ConditionStatus::False);
    }
}

#[test]
fn sentinels_that_disagree_are_left_alone() {
    let mut seen = fresh();
    settle(&mut seen, 9);
    seen.sentinels[0] = Sentinel::Knows(Some(host(1)));
    let decision = decide(&seen);
    assert_eq!(
        (decision.actions, decision.verdict.reason),
        (Vec::new(), Reason::FailingOver)
    );
}

#[test]
fn one_that_lost_its_volume_follows_and_one_that_forgot_is_told() {
    let mut seen = fresh();
    settle(&mut seen, 9);
    seen.servers[1].answer = Some(answer(false, Some(NOBODY)));
    seen.servers[1].bootstrapped = false;
    seen.sentinels[2] = Sentinel::Knows(None);
    let actions = decide(&seen).actions;
    assert_eq!(
        actions,
        [
            Action::Monitor(2, host(0)),
            Action::ReplicateFrom(1, host(0)),
            Action::MarkBootstrapped(1)
        ]
    );
}

#[test]
fn replicas_are_replaced_before_the_master_and_one_at_a_time() {
    let mut seen = fresh();
    settle(&mut seen, 9);
    seen.servers
        .iter_mut()
        .for_each(|server| server.outdated = true);
    seen.outdated_sentinels = vec![0, 1];
    let mut story = Vec::new();
    for _ in 0..10 {
        let actions = decide(&seen).actions;
        assert!(actions.len() <= 1, "{actions:?}");
        let Some(action) = actions.into_iter().next() else {
            break;
        };
        act(&mut seen, &action);
        story.push(action);
    }
    let sentinels = [Action::RestartSentinel(1), Action::RestartSentinel(0)];
    assert_eq!(story[..2], sentinels);
    assert_eq!(
        story[2..],
        [
            Action::Restart(2),
            Action::Restart(1),
            Action::Failover(0),
            Action::Restart(0)
        ]
    );
    seen.servers[2].outdated = true;
    seen.servers[0].ready = false;
    assert_eq!(decide(&seen).actions, [], "not while another is away");
}

#[test]
fn a_single_redis_is_marked_and_then_replaced() {
    let answer = Some(answer(true, None));
    let server = Server {
        host: host(0),
        bootstrapped: false,
        ready: true,
        ending: false,
        outdated: true,
        answer,
    };
    let mut seen = Observed {
        namespace: "chat".to_owned(),
        name: "demo".to_owned(),
        servers: vec![server],
        sentinels: Vec::new(),
        outdated_sentinels: Vec::new(),
        failing_over: false,
        confirming: 0,
        mirrored: false,
        anew: false,
    };
    assert_eq!(decide(&seen).actions, [Action::MarkBootstrapped(0)]);
    act(&mut seen, &Action::MarkBootstrapped(0));
    assert_eq!(decide(&seen).actions, [Action::Restart(0)]);
    seen.servers[0] = Server {
        ready: false,
        answer: None,
        ..seen.servers[0].clone()
    };
    assert_eq!(decide(&seen).verdict.reason, Reason::NoMaster);
}

#[test]
fn volumes_that_are_all_new_are_told_and_a_person_says_to_go_on() {
    let single = |seen: Observed| Observed {
        servers: vec![Server {
            answer: Some(answer(true, None)),
            ..seen.servers[0].clone()
        }],
        sentinels: Vec::new(),
        ..seen
    };
    for mut seen in [fresh(), single(fresh())] {
        seen.mirrored = true;
        let decision = decide(&seen);
        assert_eq!(
            (decision.actions, decision.verdict.reason),
            (Vec::new(), Reason::DataLost)
        );
        assert!(
            decision
                .verdict
                .message
                .ends_with("annotate imc demo imcluster.io/begin-redis-anew=true")
        );
        // One volume with data is enough.
        let mut one = seen.clone();
        one.servers[0].bootstrapped = true;
        assert_ne!(decide(&one).verdict.reason, Reason::DataLost);

        seen.anew = true;
        let end = settle(&mut seen, 9);
        assert_eq!(
            (end.master, end.verdict.holds(), seen.anew),
            (Some(0), true, false)
        );
        assert_eq!(decide(&seen).actions, [], "and stays so");
    }
}

#[test]
fn a_master_that_refuses_writes_is_not_said_to_take_them() {
    let mut settled = fresh();
    settle(&mut settled, 9);
    let single = Observed {
        servers: vec![settled.servers[0].clone()],
        sentinels: Vec::new(),
        ..settled.clone()
    };
    let full = Stats {
        stored: true,
        used_memory: 9,
        max_memory: 9,
        ..Stats::default()
    };
    for seen in [settled.clone(), single] {
        let with = |change: &dyn Fn(&mut Answer)| {
            let mut seen = seen.clone();
            change(seen.servers[0].answer.as_mut().unwrap());
            seen.servers
                .iter_mut()
                .for_each(|server| server.outdated = true);
            decide(&seen)
        };
        assert!(with(&|_| {}).verdict.holds());
        let loading = with(&|answer| answer.loading = true);
        assert_eq!(
            (loading.verdict.reason, loading.actions),
            (Reason::Starting, Vec::new()),
            "and nobody is replaced"
        );
        let disk = with(&|answer| answer.stats.stored = false);
        assert_eq!(
            (disk.verdict.holds(), disk.verdict.reason),
            (false, Reason::DiskFailing)
        );
        let memory = with(&|answer| answer.stats = full);
        assert_eq!(
            (memory.verdict.holds(), memory.verdict.reason),
            (false, Reason::MemoryFull)
        );
    }
    // Nor is one chosen as the master before all have read their files.
    let mut seen = fresh();
    seen.servers
        .iter_mut()
        .for_each(|server| server.bootstrapped = true);
    seen.servers[1].answer.as_mut().unwrap().loading = true;
    assert_eq!(
        (decide(&seen).actions, decide(&seen).verdict.reason),
        (Vec::new(), Reason::Starting)
    );
}

#[test]
fn a_master_that_is_about_to_end_hands_over_first_if_anybody_can_take_its_place() {
    let mut settled = fresh();
    settle(&mut settled, 9);
    settled.servers[0].ending = true;
    settled.servers[0].ready = false;
    let with = |change: &dyn Fn(&mut Observed)| {
        let mut seen = settled.clone();
        change(&mut seen);
        decide(&seen).actions
    };
    let hands_over = [Action::Failover(0)];
    assert_eq!(with(&|_| {}), hands_over);
    // Its node takes a Sentinel and perhaps a replica with it: the others are enough, and nothing else comes first.
    assert_eq!(
        with(&|seen| seen.sentinels[0] = Sentinel::Silent),
        hands_over
    );
    assert_eq!(
        with(&|seen| seen.sentinels[0] = Sentinel::Knows(None)),
        hands_over
    );
    assert_eq!(with(&|seen| seen.servers[1].ending = true), hands_over);
    let mut seen = settled.clone();
    seen.servers[1].ending = true;
    seen.sentinels[0] = Sentinel::Silent;
    let set = seen.succession(0, |ordinal| format!("demo-sentinel-{ordinal}"));
    assert_eq!((set.master, set.replicas), (host(0), vec![host(2)]));
    assert_eq!(set.sentinels, ["demo-sentinel-1", "demo-sentinel-2"]);

    let nobody = |seen: &mut Observed| {
        seen.servers[1..]
            .iter_mut()
            .for_each(|server| server.answer = None)
    };
    assert_eq!(with(&nobody), []);
    let behind = |seen: &mut Observed| seen.servers[0].answer.as_mut().unwrap().offset = LAG + 1;
    assert_eq!(with(&behind), [], "they have not got far enough");
    assert_eq!(
        with(&|seen| seen.failing_over = true),
        [],
        "somebody takes its place already"
    );
    assert_eq!(with(&|seen| seen.sentinels.fill(Sentinel::Silent)), []);
}

#[test]
fn what_a_hand_over_left_behind_is_put_right_once_nobody_takes_the_masters_place() {
    let mut seen = fresh();
    settle(&mut seen, 9);
    let wants = |seen: &mut Observed, ordinal: usize, replicas: usize| {
        seen.servers[ordinal].answer.as_mut().unwrap().min_replicas = replicas;
    };
    wants(&mut seen, 0, 1000);
    seen.failing_over = true;
    assert_eq!(decide(&seen).actions, [], "it may have a successor already");
    seen.failing_over = false;
    assert_eq!(decide(&seen).actions, [Action::SetMinReplicas(0, 1)]);
    // A master of old that has not heard of its successor takes no writes until it follows.
    act(&mut seen, &Action::Failover(0));
    seen.servers[0].answer = Some(Answer {
        min_replicas: 1000,
        ..answer(true, None)
    });
    assert_eq!(decide(&seen).actions, []);
    seen.servers[0].answer = Some(Answer {
        min_replicas: 1000,
        ..answer(false, Some(&host(1)))
    });
    assert_eq!(decide(&seen).actions, [Action::SetMinReplicas(0, 1)]);
    // Another durability takes hold before the pods are replaced.
    settle(&mut seen, 9);
    seen.confirming = 2;
    assert_eq!(
        decide(&seen).actions,
        [
            Action::SetMinReplicas(0, 2),
            Action::SetMinReplicas(1, 2),
            Action::SetMinReplicas(2, 2)
        ]
    );
}

#[test]
fn nobody_is_replaced_while_a_replica_lags() {
    let mut seen = fresh();
    settle(&mut seen, 9);
    seen.servers
        .iter_mut()
        .for_each(|server| server.outdated = true);
    seen.servers[0].answer.as_mut().unwrap().offset = LAG;
    assert_eq!(decide(&seen).actions, [Action::Restart(2)]);
    seen.servers[0].answer.as_mut().unwrap().offset = LAG + 1;
    assert_eq!(decide(&seen).actions, []);
}

#[test]
fn a_pod_is_the_same_under_a_longer_name() {
    let mut seen = fresh();
    settle(&mut seen, 9);
    let long = |ordinal: usize| format!("{}.demo-redis.chat.svc", host(ordinal));
    seen.sentinels = (0..3).map(|_| Sentinel::Knows(Some(long(0)))).collect();
    seen.sentinels[1] = Sentinel::Knows(Some(host(0)));
    for ordinal in 1..3 {
        seen.servers[ordinal].answer.as_mut().unwrap().follows = Some(long(0));
    }
    let decision = decide(&seen);
    assert_eq!(
        (decision.master, decision.verdict.holds(), decision.actions),
        (Some(0), true, Vec::new())
    );
    assert_eq!(
        seen.succession(0, |_| String::new()).replicas,
        [host(1), host(2)]
    );
}
