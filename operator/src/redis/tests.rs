use super::*;
use crate::api::ConditionStatus;

fn host(place: usize) -> String {
    format!("demo-redis-{place}")
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
        loading: false,
        figures: Figures { stored: true, ..Figures::default() },
    }
}

fn fresh() -> Observed {
    let server = |place| Server {
        host: host(place),
        latched: false,
        ready: true,
        outdated: false,
        answer: Some(answer(false, Some(NOBODY))),
    };
    let sentinels = vec![Sentinel::Knows(None); 3];
    Observed {
        namespace: "chat".to_owned(),
        name: "demo".to_owned(),
        servers: (0..3).map(server).collect(),
        sentinels,
        confirming: 1,
        mirrored: false,
        anew: false,
    }
}

/// What a cluster becomes when this is done to it.
fn act(seen: &mut Observed, action: &Action) {
    match action {
        Action::Latch(place) => seen.servers[*place].latched = true,
        Action::Lead(place) => seen.servers[*place].answer = Some(answer(true, None)),
        Action::Follow(place, master) => seen.servers[*place].answer = Some(answer(false, Some(master))),
        Action::Monitor(place, master) => seen.sentinels[*place] = Sentinel::Knows(Some(master.clone())),
        Action::Replace(place) => seen.servers[*place].outdated = false,
        Action::Begun => seen.anew = false,
        Action::HandOver(place) => {
            let next = (*place + 1) % 3;
            for (number, server) in seen.servers.iter_mut().enumerate() {
                let follows = host(next);
                server.answer = Some(answer(number == next, (number != next).then_some(follows.as_str())));
            }
            seen.sentinels = vec![Sentinel::Knows(Some(host(next))); 3];
        }
    }
    // Replicas that follow a master are connected to it.
    let followers: Vec<Option<String>> =
        seen.servers.iter().map(|server| server.answer.as_ref().and_then(|answer| answer.follows.clone())).collect();
    for server in &mut seen.servers {
        let name = server.host.clone();
        if let Some(answer) = server.answer.as_mut().filter(|answer| answer.master) {
            answer.replicas = followers.iter().flatten().filter(|follows| **follows == name).count();
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
            if matches!(action, Action::Lead(_)) {
                assert!(
                    seen.servers.iter().all(|server| server.latched),
                    "no write may be allowed before it is marked"
                );
                let masters =
                    seen.servers.iter().filter(|server| server.answer.as_ref().is_some_and(|answer| answer.master));
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
        assert!(seen.servers[1..].iter().all(|server| server.answer.as_ref().unwrap().follows == Some(host(0))));
        assert!(seen.sentinels.iter().all(|sentinel| *sentinel == Sentinel::Knows(Some(host(0)))));
    }
}

#[test]
fn nothing_begins_while_one_is_silent() {
    let mut seen = fresh();
    seen.servers[2].answer = None;
    assert_eq!((decide(&seen).actions, decide(&seen).verdict.reason), (Vec::new(), Reason::Starting));
    seen = fresh();
    seen.sentinels[1] = Sentinel::Silent;
    assert_eq!((decide(&seen).actions, decide(&seen).verdict.reason), (Vec::new(), Reason::Starting));
}

#[test]
fn where_data_may_be_a_person_decides_unless_all_are_there() {
    let mut seen = fresh();
    seen.servers[0].latched = true;
    seen.servers[1].answer = None;
    let decision = decide(&seen);
    assert_eq!((decision.actions, decision.verdict.reason), (Vec::new(), Reason::NeedsDecision));
    let command =
        "kubectl -n chat delete pvc data-demo-redis-1 --wait=false && kubectl -n chat delete pod demo-redis-1";
    assert!(decision.verdict.message.ends_with(command), "{}", decision.verdict.message);
    seen.sentinels[0] = Sentinel::Silent;
    assert_eq!(decide(&seen).verdict.reason, Reason::Starting, "it may know the master");
}

#[test]
fn where_all_sentinels_forgot_data_leads_and_nothing_is_guessed() {
    let with = |told: [(&str, u64, u64); 3]| {
        let mut seen = fresh();
        for (server, (history, offset, keys)) in seen.servers.iter_mut().zip(told) {
            server.latched = true;
            server.answer = Some(Answer { history: history.to_owned(), offset, keys, ..answer(false, Some(NOBODY)) });
        }
        seen
    };
    let leads = |seen: &Observed| {
        decide(seen)
            .actions
            .iter()
            .find_map(|action| if let Action::Lead(place) = action { Some(*place) } else { None })
    };
    // After a restart an empty volume and a full one have got equally far.
    assert_eq!(leads(&with([("a", 1, 0), ("b", 1, 200), ("c", 1, 0)])), Some(1));
    assert_eq!(leads(&with([("a", 0, 0), ("a", 700, 9), ("a", 650, 9)])), Some(1));
    assert_eq!(leads(&with([("a", 1, 0), ("b", 1, 0), ("c", 1, 0)])), Some(0));
    let torn = with([("a", 1, 0), ("b", 1, 200), ("c", 1, 199)]);
    assert_eq!((decide(&torn).actions, decide(&torn).verdict.reason), (Vec::new(), Reason::NeedsDecision));
    assert!(decide(&torn).verdict.message.contains("REPLICAOF NO ONE"));
    // An empty master beside full replicas would have them emptied.
    let mut seen = with([("a", 9, 9), ("a", 9, 9), ("a", 1, 1)]);
    seen.servers[2].answer = Some(answer(true, None));
    assert_eq!((decide(&seen).actions, decide(&seen).verdict.reason), (Vec::new(), Reason::NeedsDecision));
    // One with data stays the master, however far others are.
    seen.servers[2].answer = Some(Answer { keys: 1, ..answer(true, None) });
    assert_eq!(leads(&seen), None);
    assert!(decide(&seen).actions.contains(&Action::Monitor(0, host(2))));
    seen.servers[0].answer = Some(answer(true, None));
    assert_eq!((decide(&seen).actions, decide(&seen).verdict.reason), (Vec::new(), Reason::NeedsDecision));
}

#[test]
fn a_template_that_cannot_work_is_mended_by_the_next() {
    let mut seen = fresh();
    settle(&mut seen, 9);
    seen.servers[2] = Server { ready: false, outdated: true, answer: None, ..seen.servers[2].clone() };
    assert_eq!(decide(&seen).actions, [Action::Replace(2)]);
    seen.servers[2].outdated = false;
    assert_eq!(decide(&seen).actions, []);
}

#[test]
fn sentinels_that_disagree_are_left_alone() {
    let mut seen = fresh();
    settle(&mut seen, 9);
    seen.sentinels[0] = Sentinel::Knows(Some(host(1)));
    let decision = decide(&seen);
    assert_eq!((decision.actions, decision.verdict.reason), (Vec::new(), Reason::FailingOver));
}

#[test]
fn one_that_lost_its_volume_follows_and_one_that_forgot_is_told() {
    let mut seen = fresh();
    settle(&mut seen, 9);
    seen.servers[1].answer = Some(answer(false, Some(NOBODY)));
    seen.servers[1].latched = false;
    seen.sentinels[2] = Sentinel::Knows(None);
    let actions = decide(&seen).actions;
    assert_eq!(actions, [Action::Monitor(2, host(0)), Action::Follow(1, host(0)), Action::Latch(1)]);
}

#[test]
fn replicas_are_replaced_before_the_master_and_one_at_a_time() {
    let mut seen = fresh();
    settle(&mut seen, 9);
    seen.servers.iter_mut().for_each(|server| server.outdated = true);
    let mut story = Vec::new();
    for _ in 0..10 {
        let actions = decide(&seen).actions;
        assert!(actions.len() <= 1, "{actions:?}");
        let Some(action) = actions.into_iter().next() else { break };
        act(&mut seen, &action);
        story.push(action);
    }
    assert_eq!(story, [Action::Replace(2), Action::Replace(1), Action::HandOver(0), Action::Replace(0)]);
    seen.servers[2].outdated = true;
    seen.servers[0].ready = false;
    assert_eq!(decide(&seen).actions, [], "not while another is away");
}

#[test]
fn a_single_redis_is_marked_and_then_replaced() {
    let server =
        Server { host: host(0), latched: false, ready: true, outdated: true, answer: Some(answer(true, None)) };
    let mut seen = Observed {
        namespace: "chat".to_owned(),
        name: "demo".to_owned(),
        servers: vec![server],
        sentinels: Vec::new(),
        confirming: 0,
        mirrored: false,
        anew: false,
    };
    assert_eq!(decide(&seen).actions, [Action::Latch(0)]);
    act(&mut seen, &Action::Latch(0));
    assert_eq!(decide(&seen).actions, [Action::Replace(0)]);
    seen.servers[0].answer = None;
    assert_eq!(decide(&seen).verdict.reason, Reason::NoMaster);
}

#[test]
fn volumes_that_are_all_new_are_told_and_a_person_says_to_go_on() {
    let single = |seen: Observed| Observed {
        servers: vec![Server { answer: Some(answer(true, None)), ..seen.servers[0].clone() }],
        sentinels: Vec::new(),
        ..seen
    };
    for mut seen in [fresh(), single(fresh())] {
        seen.mirrored = true;
        let decision = decide(&seen);
        assert_eq!((decision.actions, decision.verdict.reason), (Vec::new(), Reason::DataLost));
        assert!(decision.verdict.message.ends_with("annotate imc demo imcluster.io/begin-redis-anew=true"));
        // One volume with data is enough.
        let mut one = seen.clone();
        one.servers[0].latched = true;
        assert_ne!(decide(&one).verdict.reason, Reason::DataLost);

        seen.anew = true;
        let end = settle(&mut seen, 9);
        assert_eq!((end.master, end.verdict.holds(), seen.anew), (Some(0), true, false));
        assert_eq!(decide(&seen).actions, [], "and stays so");
    }
}

#[test]
fn a_master_that_refuses_writes_is_not_said_to_take_them() {
    let mut settled = fresh();
    settle(&mut settled, 9);
    let single = Observed { servers: vec![settled.servers[0].clone()], sentinels: Vec::new(), ..settled.clone() };
    let full = Figures { stored: true, used_memory: 9, max_memory: 9, ..Figures::default() };
    for seen in [settled.clone(), single] {
        let with = |change: &dyn Fn(&mut Answer)| {
            let mut seen = seen.clone();
            change(seen.servers[0].answer.as_mut().unwrap());
            seen.servers.iter_mut().for_each(|server| server.outdated = true);
            decide(&seen)
        };
        assert!(with(&|_| {}).verdict.holds());
        let loading = with(&|answer| answer.loading = true);
        assert_eq!((loading.verdict.reason, loading.actions), (Reason::Starting, Vec::new()), "and nobody is replaced");
        let disk = with(&|answer| answer.figures.stored = false);
        assert_eq!((disk.verdict.holds(), disk.verdict.reason), (false, Reason::DiskFailing));
        let memory = with(&|answer| answer.figures = full);
        assert_eq!((memory.verdict.holds(), memory.verdict.reason), (false, Reason::MemoryFull));
    }
    // Nor is one chosen as the master before all have read their files.
    let mut seen = fresh();
    seen.servers.iter_mut().for_each(|server| server.latched = true);
    seen.servers[1].answer.as_mut().unwrap().loading = true;
    assert_eq!((decide(&seen).actions, decide(&seen).verdict.reason), (Vec::new(), Reason::Starting));
}
